"""Kronos' tokenizer and predictor with the official state-dict keys.

Shi et al., Kronos: A Foundation Model for the Language of Financial Markets, AAAI 2026 (arXiv
2508.02739). The official files are those of github.com/shiyu-coder/Kronos (MIT) at 67b630e; this
code is ours. Shapes: B series, T bars, d width.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlprojects.kronos.shapes import PredictorConfig, TokenizerConfig
from registry.errors import BadConfig, KronosError

EPS = 1e-5  # of RMSNorm
THETA = 1e4  # base of the rotary frequencies
DEPENDENCY_HEADS = 4  # of the cross attention; n_heads does not change it
# Number of values of each stamp; weekday 0 is Monday.
STAMPS = {"minute": 60, "hour": 24, "weekday": 7, "day": 32, "month": 13}


def overflow_error(numbers: str) -> KronosError:
    """The error for a network that computes NaN or infinity from finite bars and weights."""
    return KronosError(
        f"Kronos computed {numbers} that are not finite, expected finite numbers: its weights are "
        "too large for their precision; use another version, or mirror or train the weights again",
        code="NETWORK_OVERFLOW",
    )


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, EPS)


class Rotary(nn.Module):
    """Rotary positions (Su et al., RoFormer, 2021); entry i rotates with entry i + head_dim / 2.

    The frequencies are a persistent buffer because the official checkpoints contain them.
    """

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2).float() / head_dim
        self.register_buffer("inv_freq", 1.0 / THETA**exponents)

    def angles(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """cos and sin [end - start, head_dim] of positions start .. end - 1."""
        positions = torch.arange(start, end, device=self.inv_freq.device).to(self.inv_freq.dtype)
        angle = torch.outer(positions, self.inv_freq)
        angle = torch.cat([angle, angle], dim=1)
        return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., T, head_dim] rotated by angles with these cos and sin [T, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Causal self attention; `across` takes queries from another sequence."""

    def __init__(
        self, d_model: int, n_heads: int, attention_dropout: float, residual_dropout: float
    ) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, attention_dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.rotary = Rotary(d_model // n_heads)
        self.resid_dropout = nn.Dropout(residual_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d]."""
        cos, sin = self.rotary.angles(0, x.shape[1])
        q = rotate(self._heads(self.q_proj(x)), cos, sin)
        k = rotate(self._heads(self.k_proj(x)), cos, sin)
        v = self._heads(self.v_proj(x))
        return self._out(self._attend(q, k, v))

    def across(self, query: Tensor, x: Tensor, *, causal: bool) -> Tensor:
        """Attention [B, Q, d] of `query` over x [B, T, d].

        There are no positions: upstream takes one query at a time, and its position 0 rotates
        nothing. With `causal` (training, Q = T), query t sees x up to t, as it does at inference.
        """
        q = self._heads(self.q_proj(query))
        k = self._heads(self.k_proj(x))
        v = self._heads(self.v_proj(x))
        return self._out(self._attend(q, k, v, causal=causal))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        attended: Tensor = F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, dropout_p=dropout
        )
        return attended

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
        return heads

    def _out(self, x: Tensor) -> Tensor:
        out: Tensor = self.resid_dropout(self.out_proj(x.transpose(1, 2).flatten(2)))
        return out


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020), without biases."""

    def __init__(self, d_model: int, ff_dim: int, dropout: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_model, ff_dim, bias=False)
        self.w3 = nn.Linear(d_model, ff_dim, bias=False)
        self.w2 = nn.Linear(ff_dim, d_model, bias=False)
        self.ffn_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ffn_dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))
        return out


class Block(nn.Module):
    def __init__(self, config: TokenizerConfig | PredictorConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.d_model)
        self.self_attn = Attention(
            config.d_model, config.n_heads, config.attn_dropout_p, config.resid_dropout_p
        )
        self.norm2 = RMSNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.ff_dim, config.ffn_dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


def _blocks(config: TokenizerConfig | PredictorConfig, count: int) -> Sequence[Block]:
    return cast(Sequence[Block], nn.ModuleList(Block(config) for _ in range(count)))


# --- tokenizer --------------------------------------------------------------------------------


class _Quantizer(nn.Module):
    """Buffers of upstream's binary spherical quantizer; this code does not read them.

    `group_basis` has group_size entries, which distinguishes the tokenizers 2k and base.
    """

    def __init__(self, bits: int, group_size: int) -> None:
        super().__init__()
        self.register_buffer("basis", 2 ** torch.arange(bits - 1, -1, -1))
        self.register_buffer("group_basis", 2 ** torch.arange(group_size - 1, -1, -1))


class _Wrapped(nn.Module):
    """Only a name in the official keys, such as tokenizer.bsq.basis."""

    def __init__(self, bits: int, group_size: int) -> None:
        super().__init__()
        self.bsq = _Quantizer(bits, group_size)


class Tokenizer(nn.Module):
    """Bars to bits and back.

    Encoder and decoder are causal: a later bar never changes an earlier token.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.bits = config.s1_bits + config.s2_bits
        if self.bits % config.group_size:
            raise BadConfig(
                f"group_size is {config.group_size}, expected a divisor of the {self.bits} bits"
            )
        self.embed = nn.Linear(config.d_in, config.d_model)
        self.head = nn.Linear(config.d_model, config.d_in)
        self.encoder = _blocks(config, config.n_enc_layers - 1)
        self.decoder = _blocks(config, config.n_dec_layers - 1)
        self.quant_embed = nn.Linear(config.d_model, self.bits)
        self.post_quant_embed_pre = nn.Linear(config.s1_bits, config.d_model)
        self.post_quant_embed = nn.Linear(self.bits, config.d_model)
        self.tokenizer = _Wrapped(self.bits, config.group_size)

    def project(self, bars: Tensor) -> Tensor:
        """Points [B, T, bits] on the unit sphere, of normalised bars [B, T, 6]."""
        x = self.embed(bars)
        for block in self.encoder:
            x = block(x)
        return F.normalize(self.quant_embed(x), dim=-1)

    def quantize(self, z: Tensor) -> Tensor:
        """The nearest corner of the cube to each point, scaled onto the sphere.

        The gradient passes straight through to z.
        """
        corner = torch.where(z > 0, 1.0, -1.0).to(z)
        return (z + (corner - z).detach()) / math.sqrt(self.bits)

    def encode(self, bars: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens s1, s2 [B, T] (int64): the first and the last bits, little-endian.

        Raises KronosError (NETWORK_OVERFLOW): the sign of NaN would be a bit like any other.
        """
        points = self.project(bars)
        # A point is 0 if the square of its length overflowed.
        if not bool((points.norm(dim=-1) > 0).all()):
            raise overflow_error("tokens of the history")
        bits = (points > 0).long()
        s1_bits, s2_bits = bits.split([self.config.s1_bits, self.config.s2_bits], dim=-1)
        return _index(s1_bits), _index(s2_bits)

    def codes(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Scaled corners [..., bits] of tokens [...]."""
        s1_signs = _signs(s1, self.config.s1_bits)
        s2_signs = _signs(s2, self.config.s2_bits)
        signs = torch.cat([s1_signs, s2_signs], dim=-1)
        return signs.to(self.head.weight) / math.sqrt(self.bits)

    def decode(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Normalised bars [B, T, 6] of tokens [B, T]."""
        return self.reconstruct(self.post_quant_embed(self.codes(s1, s2)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Normalised bars [B, T, 6] of embedded codes [B, T, d]."""
        for block in self.decoder:
            x = block(x)
        bars: Tensor = self.head(x)
        return bars


def _index(bits: Tensor) -> Tensor:
    """sum(bit i * 2^i): little-endian, unlike `basis`, which upstream uses for metrics only."""
    places = torch.arange(bits.shape[-1], device=bits.device)
    return (bits << places).sum(dim=-1)


def _signs(index: Tensor, bits: int) -> Tensor:
    """-1 or 1 [..., bits]."""
    places = torch.arange(bits, device=index.device)
    return ((index[..., None] >> places) & 1) * 2 - 1


# --- predictor --------------------------------------------------------------------------------


class _Embedding(nn.Module):
    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.emb_s1 = nn.Embedding(2**config.s1_bits, config.d_model)
        self.emb_s2 = nn.Embedding(2**config.s2_bits, config.d_model)
        self.fusion_proj = nn.Linear(2 * config.d_model, config.d_model)

    def forward(self, s1: Tensor, s2: Tensor) -> Tensor:
        """[B, T, d]. The official weights need this scale, and none in the dependency layer."""
        scale = math.sqrt(self.emb_s1.embedding_dim)
        both = torch.cat([self.emb_s1(s1) * scale, self.emb_s2(s2) * scale], dim=-1)
        embedded: Tensor = self.fusion_proj(both)
        return embedded


class FixedEmbedding(nn.Module):
    """Sinusoids (Vaswani et al., 2017), used if learn_te is false.

    Upstream's key is `...embed.emb.weight`.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        frequencies = torch.exp(torch.arange(0, dim, 2) * (-math.log(THETA) / dim))
        angle = torch.outer(torch.arange(size).float(), frequencies)
        table = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :dim]
        self.emb = nn.Embedding.from_pretrained(table, freeze=True)

    def forward(self, index: Tensor) -> Tensor:
        embedded: Tensor = self.emb(index)
        return embedded


class _TimeEmbedding(nn.Module):
    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        kind = nn.Embedding if config.learn_te else FixedEmbedding
        for name, size in STAMPS.items():
            setattr(self, f"{name}_embed", kind(size, config.d_model))

    def forward(self, stamps: Tensor) -> Tensor:
        """[..., d] of minute, hour, weekday, day, month [..., 5]."""
        parts = [getattr(self, f"{name}_embed")(stamps[..., i]) for i, name in enumerate(STAMPS)]
        minute, hour, weekday, day, month = parts
        embedded: Tensor = hour + weekday + day + month + minute  # upstream's order of additions
        return embedded


class _DependencyLayer(nn.Module):
    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.cross_attn = Attention(
            config.d_model, DEPENDENCY_HEADS, config.attn_dropout_p, config.resid_dropout_p
        )
        self.norm = RMSNorm(config.d_model)

    def forward(self, h: Tensor, sibling: Tensor, *, causal: bool) -> Tensor:
        """Queries `sibling` [B, Q, d] attend to h [B, T, d]; they are its last Q positions."""
        last = h[:, -sibling.shape[1] :]
        attended = self.cross_attn.across(sibling, h, causal=causal)
        out: Tensor = self.norm(last + attended)
        return out


class _Head(nn.Module):
    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.proj_s1 = nn.Linear(config.d_model, 2**config.s1_bits)
        self.proj_s2 = nn.Linear(config.d_model, 2**config.s2_bits)


class Predictor(nn.Module):
    """Tokens of the next bar from the tokens of the bars before it: s1, then s2 given s1."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = _Embedding(config)
        self.time_emb = _TimeEmbedding(config)
        self.token_drop = nn.Dropout(config.token_dropout_p)
        self.transformer = _blocks(config, config.n_layers)
        self.norm = RMSNorm(config.d_model)
        self.dep_layer = _DependencyLayer(config)
        self.head = _Head(config)

    def hidden(self, s1: Tensor, s2: Tensor, stamps: Tensor) -> Tensor:
        """[B, T, d] of tokens [B, T] at stamps [B, T, 5]."""
        x = self.token_drop(self.embedding(s1, s2) + self.time_emb(stamps))
        for block in self.transformer:
            x = block(x)
        h: Tensor = self.norm(x)
        return h

    def forward(self, h: Tensor, next_s1: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of s1, and of s2 given `next_s1` [B, T], at every position of h [B, T, d].

        For training: causal.
        """
        x = self.dep_layer(h, self.embedding.emb_s1(next_s1), causal=True)
        return self.head.proj_s1(h), self.head.proj_s2(x)

    def s1_logits(self, h: Tensor) -> Tensor:
        """[B, 2^s1_bits] of the last position."""
        logits: Tensor = self.head.proj_s1(h[:, -1])
        return logits

    def s2_logits(self, h: Tensor, s1: Tensor) -> Tensor:
        """[B, 2^s2_bits] of the last position, given the s1 [B] drawn there."""
        x = self.dep_layer(h, self.embedding.emb_s1(s1)[:, None], causal=False)
        logits: Tensor = self.head.proj_s2(x[:, -1])
        return logits
