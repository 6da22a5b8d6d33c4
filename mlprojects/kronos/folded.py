"""The predictor and the tokenizer's decoder folded for inference: what was read is kept, new rows only are computed.

Embeddings with the projections behind them, and the gains of the norms, are folded into the weights. Shapes: G series,
P paths of each, R = G * P rows, T bars of history, m new rows a path, t rows that a path added so far, h heads, e head
width, d model width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mlprojects.kronos.architecture import DEPENDENCY_HEADS, EPS, Block, Predictor, Tokenizer
from mlprojects.kronos.linear import Linear

SCORES = 1 << 22  # attention scores held at once


@dataclass(frozen=True)
class Prefix:
    """Histories that were read: keys and values [G * h, T, e] of every layer, `last` [G, d] at their last bar."""

    keys: list[Tensor]
    values: list[Tensor]
    last: Tensor

    @property
    def length(self) -> int:
        return self.keys[0].shape[1]


class Suffix:
    """Keys and values [G, h, P, M, e] that paths add, layer by layer; the first `length` of M rows are in use."""

    def __init__(self, prefix: "Prefix", groups: int, paths: int, room: int) -> None:
        self.keys, self.values = (
            [k.new_empty(groups, len(k) // groups, paths, room, k.shape[2]) for k in layers]
            for layers in (prefix.keys, prefix.values)
        )
        self.length = 0

    def put(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values [G, P, m, h, e] of the next m rows; `length` moves when all layers have them."""
        rows = slice(self.length, self.length + k.shape[2])
        self.keys[layer][:, :, :, rows] = k.permute(0, 3, 1, 2, 4)
        self.values[layer][:, :, :, rows] = v.permute(0, 3, 1, 2, 4)


def attend(q: Tensor, keys: Tensor, values: Tensor, own_keys: Tensor, own_values: Tensor) -> Tensor:
    """Attention [G, P, m, d] of rows q [G, P, m, h, e], scaled already, over a shared and an own part.

    keys, values [G * h, T, e] are those of the history, which all paths see as further rows of one product;
    own_keys, own_values [G, h, P, t, e] end with the m rows that ask, each of which sees those up to itself.
    """
    groups, paths, m, heads, width = q.shape
    shared, own = keys.shape[1], own_keys.shape[3]
    most = max(1, SCORES // max(1, groups * heads * m * (shared + own)))
    if paths > most:
        parts = [slice(i, i + most) for i in range(0, paths, most)]
        done = [
            attend(q[:, p], keys, values, own_keys[:, :, p], own_values[:, :, p]) for p in parts
        ]
        return torch.cat(done, dim=1)
    exact = q.dtype
    q = q.permute(0, 3, 1, 2, 4).reshape(groups * heads, paths * m, width).to(keys.dtype)
    scores = torch.bmm(q, keys.transpose(1, 2))  # [G * h, P * m, T]
    if own:
        k, v = (part.reshape(groups * heads * paths, own, width) for part in (own_keys, own_values))
        # This way round, keys are read in the order they lie in.
        ours = torch.bmm(k, q.reshape(-1, m, width).transpose(1, 2)).transpose(
            1, 2
        )  # [G * h * P, m, t]
        if m > 1:
            later = torch.ones(m, own, dtype=torch.bool, device=q.device).triu(own - m + 1)
            ours = ours.masked_fill(later, -torch.inf)
        scores = torch.cat([scores, ours.reshape(groups * heads, paths * m, own)], dim=2)
    weights = torch.softmax(scores, dim=2, dtype=exact).to(keys.dtype)
    out = torch.bmm(weights[:, :, :shared], values)
    if own:
        out += torch.bmm(weights[:, :, shared:].reshape(-1, m, own), v).view_as(out)
    return out.view(groups, heads, paths, m, width).permute(0, 2, 3, 1, 4).flatten(3).to(exact)


def _normed(x: Tensor) -> Tensor:
    """RMSNorm without its gain, which lies in the weights behind it."""
    return F.rms_norm(x, (x.shape[-1],), None, EPS)


class _Block:
    """One transformer block: q, k and v in one product, rotary positions as complex factors."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attention = block.self_attn
        width = attention.q_proj.weight.shape[0]
        self.heads, self.width = attention.n_heads, width // attention.n_heads
        # Rotary positions turn entry i against entry i + e/2: side by side, the two are one complex number.
        pairs = torch.arange(self.width).view(2, -1).t().flatten()
        order = (torch.arange(self.heads)[:, None] * self.width + pairs).flatten()
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        scale = 1 / math.sqrt(self.width)
        gain1, gain2 = block.norm1.weight, block.norm2.weight
        weight = torch.cat([q.weight[order] * scale, k.weight[order], v.weight]) * gain1
        bias = torch.cat([q.bias[order] * scale, k.bias[order], v.bias])
        self.qkv = _linear(weight, bias, dtype)
        self.out = _linear(attention.out_proj.weight, attention.out_proj.bias, dtype)
        self.w1 = _linear(block.ffn.w1.weight * gain2, None, dtype)
        self.w3 = _linear(block.ffn.w3.weight * gain2, None, dtype)
        self.w2 = _linear(block.ffn.w2.weight, None, dtype)

    def project(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [G, P, m, h, e] of rows [G, P, m, d] at positions with the factors `turn` [m, 1, e / 2]."""
        qkv = self.qkv(_normed(x.flatten(0, 2))).view(*x.shape[:3], 3 * self.heads, self.width)
        qk = torch.view_as_complex(qkv[..., : 2 * self.heads, :].unflatten(4, (-1, 2)))
        q, k = torch.view_as_real(qk * turn).flatten(4).split(self.heads, dim=3)
        return q, k, qkv[..., 2 * self.heads :, :]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Rows [G, P, m, d] behind attention and feed-forward."""
        rows = self.out.plus(attended.flatten(0, 2), x.flatten(0, 2))
        normed = _normed(rows)
        return self.w2.plus(self.w3.times(normed, self.w1(normed, "swish")), rows).view(x.shape)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    return Linear(weight.to(dtype), None if bias is None else bias.to(dtype))


class _Stack:
    """Blocks that read histories and then extend paths."""

    def __init__(self, blocks: Sequence[Block], max_context: int, dtype: torch.dtype) -> None:
        self.blocks, self.dtype = [_Block(block, dtype) for block in blocks], dtype
        frequencies = blocks[0].self_attn.rotary.inv_freq
        angle = torch.outer(torch.arange(max_context).to(frequencies), frequencies)
        self.turns = torch.polar(torch.ones_like(angle), angle)[:, None]  # [max_context, 1, e / 2]

    def read(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Rows [G, T, d] behind all blocks, and keys and values [G * h, T, e] of each."""
        keys, values = [], []
        turn, x = self.turns[: x.shape[1]], x[:, None]
        for block in self.blocks:
            q, k, v = (
                part[:, 0].transpose(1, 2).contiguous() for part in block.project(x, turn)
            )  # [G, h, T, e]
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            x = block.finish(x, attended.transpose(1, 2).flatten(2)[:, None])
            keys.append(k.flatten(0, 1).to(self.dtype))
            values.append(v.flatten(0, 1).to(self.dtype))
        return x[:, 0], keys, values

    def extend(self, x: Tensor, prefix: Prefix, own: Suffix) -> Tensor:
        """Rows [G, P, m, d] behind all blocks; `own` is given their keys and values."""
        first, m = prefix.length + own.length, x.shape[2]
        turn = self.turns[first : first + m]
        used = own.length + m
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(x, turn)
            own.put(i, k, v)
            keys, values = own.keys[i][:, :, :, :used], own.values[i][:, :, :, :used]
            x = block.finish(x, attend(q, prefix.keys[i], prefix.values[i], keys, values))
        return x


class Decoder:
    """Normalised bars of tokens: the history once a series, the new rows once a path."""

    def __init__(self, tokenizer: Tokenizer, max_context: int) -> None:
        bits = tokenizer.config.s1_bits
        self.head = tokenizer.head
        self.stack = _Stack(list(tokenizer.decoder), max_context, self.head.weight.dtype)
        every = [
            torch.arange(2**n, device=self.head.weight.device)
            for n in (bits, tokenizer.config.s2_bits)
        ]
        weight, bias = tokenizer.post_quant_embed.weight, tokenizer.post_quant_embed.bias
        self.one = (
            tokenizer.codes(every[0], torch.zeros_like(every[0]))[:, :bits] @ weight[:, :bits].t()
            + bias
        )
        self.two = (
            tokenizer.codes(torch.zeros_like(every[1]), every[1])[:, bits:] @ weight[:, bits:].t()
        )

    def read(self, s1: Tensor, s2: Tensor) -> Prefix:
        x, keys, values = self.stack.read(self.one[s1] + self.two[s2])
        return Prefix(keys, values, x[:, -1])

    def follow(self, prefix: Prefix, tokens: Tensor) -> Tensor:
        """Bars [G, P, H, 6] of tokens [G, P, H, 2] that follow histories."""
        x = self.one[tokens[..., 0]] + self.two[tokens[..., 1]]
        own = Suffix(prefix, *x.shape[:3])
        bars: Tensor = self.head(self.stack.extend(x, prefix, own))
        return bars


class FoldedPredictor:
    """The predictor. The cross attention's keys and values are kept as one more layer behind those of the blocks."""

    def __init__(self, predictor: Predictor, max_context: int, dtype: torch.dtype) -> None:
        embedding, layer = predictor.embedding, predictor.dep_layer
        cross, fusion = layer.cross_attn, embedding.fusion_proj
        width = predictor.config.d_model
        self.time = predictor.time_emb
        self.stack = _Stack(list(predictor.transformer), max_context, dtype)
        self.gain = predictor.norm.weight
        root = math.sqrt(width)
        self.one = (
            embedding.emb_s1.weight * root @ fusion.weight[:, :width].t() + fusion.bias
        )  # [2^s1, d]
        self.two = embedding.emb_s2.weight * root @ fusion.weight[:, width:].t()
        self.heads, self.width = DEPENDENCY_HEADS, width // DEPENDENCY_HEADS
        # Not scaled by sqrt(d) here: upstream asks with the bare embedding.
        self.query = cross.q_proj(embedding.emb_s1.weight) / math.sqrt(self.width)  # [2^s1, d]
        weight = torch.cat([cross.k_proj.weight, cross.v_proj.weight])
        self.kv = _linear(weight, torch.cat([cross.k_proj.bias, cross.v_proj.bias]), dtype)
        self.out = _linear(cross.out_proj.weight, cross.out_proj.bias, dtype)
        head = predictor.head
        self.proj_s1 = _linear(head.proj_s1.weight, head.proj_s1.bias, dtype)
        self.proj_s2 = _linear(head.proj_s2.weight * layer.norm.weight, head.proj_s2.bias, dtype)
        self.sizes = (len(self.one), len(self.two))

    def read(self, s1: Tensor, s2: Tensor, when: Tensor) -> Prefix:
        """Read histories of tokens [G, T] whose time embeddings are `when` [G, T, d]."""
        x, keys, values = self.stack.read(self.one[s1] + self.two[s2] + when)
        h, k, v = self._hidden(x[:, None])
        shape = (-1, x.shape[1], self.width)
        across = [part[:, 0].transpose(1, 2).reshape(shape).to(self.stack.dtype) for part in (k, v)]
        return Prefix([*keys, across[0]], [*values, across[1]], h[:, 0, -1])

    def extend(self, prefix: Prefix, own: Suffix, tokens: Tensor, when: Tensor) -> Tensor:
        """Hidden rows [R, d] at the last of the new tokens [G, P, m, 2], at times `when` [G, m, d]."""
        x = self.one[tokens[..., 0]] + self.two[tokens[..., 1]] + when[:, None]
        h, k, v = self._hidden(self.stack.extend(x, prefix, own))
        own.put(-1, k, v)
        own.length += x.shape[2]
        return h[:, :, -1].flatten(0, 1)

    def _hidden(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed rows [G, P, m, d], their keys and values [G, P, m, h, e] for the cross attention."""
        h = F.rms_norm(x, (x.shape[-1],), self.gain, EPS)
        kv = self.kv(h.flatten(0, 2)).view(*h.shape[:3], 2 * self.heads, self.width)
        return h, kv[..., : self.heads, :], kv[..., self.heads :, :]

    def s1_logits(self, h: Tensor) -> Tensor:
        """[R, 2^s1_bits]."""
        return self.proj_s1(h)

    def s2_logits(self, h: Tensor, s1: Tensor, prefix: Prefix, own: Suffix) -> Tensor:
        """[R, 2^s2_bits] for the s1 [R] that were drawn."""
        keys, values = own.keys[-1][:, :, :, : own.length], own.values[-1][:, :, :, : own.length]
        query = self.query[s1].view(keys.shape[0], keys.shape[2], 1, self.heads, self.width)
        attended = attend(query, prefix.keys[-1], prefix.values[-1], keys, values)
        return self.proj_s2(_normed(self.out.plus(attended.flatten(0, 2), h)))
