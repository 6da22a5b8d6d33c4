"""The predictor and the tokenizer's decoder, folded for inference.

Keys and values of rows that were read are kept, so that only new rows are computed. The weights
include the projections behind the embeddings and the gains of the norms. Shapes: G series, P paths
of each, R = G * P rows, T bars of history, m new rows a path, t rows that a path has added so far,
h heads, e head width, d model width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mlprojects.kronos.architecture import EPS, Block, Predictor, Tokenizer
from mlprojects.kronos.linear import Linear
from mlprojects.kronos.shapes import DEPENDENCY_HEADS

SCORES = 1 << 22  # attention scores held at once


@dataclass(frozen=True)
class Prefix:
    """Histories that were read: keys and values [G * h, T, e] of every layer.

    `last` [G, d] is the output at their last bar.
    """

    keys: list[Tensor]
    values: list[Tensor]
    last: Tensor

    @property
    def length(self) -> int:
        return self.keys[0].shape[1]


class Suffix:
    """Keys and values [G, h, P, M, e] that paths add, a tensor for each layer.

    The first `length` of the M rows are in use.
    """

    def __init__(self, prefix: "Prefix", groups: int, paths: int, room: int) -> None:
        def empty(like: Tensor) -> Tensor:
            heads = len(like) // groups
            return like.new_empty(groups, heads, paths, room, like.shape[2])

        self.keys = [empty(keys) for keys in prefix.keys]
        self.values = [empty(values) for values in prefix.values]
        self.length = 0

    def put(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store keys and values [G, P, m, h, e] of the next m rows.

        The caller advances `length` after all layers have them.
        """
        rows = slice(self.length, self.length + k.shape[2])
        self.keys[layer][:, :, :, rows] = k.permute(0, 3, 1, 2, 4)
        self.values[layer][:, :, :, rows] = v.permute(0, 3, 1, 2, 4)


def attend(
    q: Tensor, keys: Tensor, values: Tensor, path_keys: Tensor, path_values: Tensor
) -> Tensor:
    """Attention [G, P, m, d] of scaled rows q [G, P, m, h, e] over the history and their path.

    keys and values [G * h, T, e] are those of the history. All paths share them, so the rows of all
    paths go through one product. path_keys and path_values [G, h, P, t, e] end with the m rows of
    q, and each of these sees the path up to itself.
    """
    groups, paths, m, heads, width = q.shape
    history_rows, path_rows = keys.shape[1], path_keys.shape[3]
    scores_per_path = groups * heads * m * (history_rows + path_rows)
    size = max(1, SCORES // max(1, scores_per_path))
    if paths > size:
        attended = []
        for start in range(0, paths, size):
            part = slice(start, start + size)
            part_keys, part_values = path_keys[:, :, part], path_values[:, :, part]
            attended.append(attend(q[:, part], keys, values, part_keys, part_values))
        return torch.cat(attended, dim=1)
    exact = q.dtype
    q = q.permute(0, 3, 1, 2, 4).reshape(groups * heads, paths * m, width).to(keys.dtype)
    scores = torch.bmm(q, keys.transpose(1, 2))  # [G * h, P * m, T]
    if path_rows:
        k = path_keys.reshape(groups * heads * paths, path_rows, width)
        v = path_values.reshape(groups * heads * paths, path_rows, width)
        # k comes first, so that its entries are read in the order they are stored in.
        path_scores = torch.bmm(k, q.reshape(-1, m, width).transpose(1, 2))
        path_scores = path_scores.transpose(1, 2)  # [G * h * P, m, t]
        if m > 1:
            later = torch.ones(m, path_rows, dtype=torch.bool, device=q.device)
            later = later.triu(path_rows - m + 1)
            path_scores = path_scores.masked_fill(later, -torch.inf)
        path_scores = path_scores.reshape(groups * heads, paths * m, path_rows)
        scores = torch.cat([scores, path_scores], dim=2)
    weights = torch.softmax(scores, dim=2, dtype=exact).to(keys.dtype)
    out = torch.bmm(weights[:, :, :history_rows], values)
    if path_rows:
        path_weights = weights[:, :, history_rows:].reshape(-1, m, path_rows)
        out += torch.bmm(path_weights, v).view_as(out)
    return out.view(groups, heads, paths, m, width).permute(0, 2, 3, 1, 4).flatten(3).to(exact)


def _normed(x: Tensor) -> Tensor:
    """RMSNorm without its gain, which the next weights include."""
    return F.rms_norm(x, (x.shape[-1],), None, EPS)


class _Block:
    """One transformer block: q, k and v in one product, rotary positions as complex factors."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attention = block.self_attn
        width = attention.q_proj.weight.shape[0]
        self.heads, self.width = attention.n_heads, width // attention.n_heads
        # Rotary positions rotate entries i and i + e/2 together. Placed side by side, the two can
        # be read as one complex number.
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
        """q, k, v [G, P, m, h, e] of rows [G, P, m, d].

        `turn` [m, 1, e / 2] holds the complex factors of their positions.
        """
        qkv = self.qkv(_normed(x.flatten(0, 2))).view(*x.shape[:3], 3 * self.heads, self.width)
        qk = torch.view_as_complex(qkv[..., : 2 * self.heads, :].unflatten(4, (-1, 2)))
        q, k = torch.view_as_real(qk * turn).flatten(4).split(self.heads, dim=3)
        return q, k, qkv[..., 2 * self.heads :, :]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Rows [G, P, m, d] after attention and feed-forward."""
        rows = self.out.plus(attended.flatten(0, 2), x.flatten(0, 2))
        normed = _normed(rows)
        gated = self.w3.times(normed, self.w1(normed, "swish"))
        return self.w2.plus(gated, rows).view(x.shape)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    return Linear(weight.to(dtype), None if bias is None else bias.to(dtype))


class _Stack:
    """Blocks that read histories and then extend paths."""

    def __init__(self, blocks: Sequence[Block], max_context: int, dtype: torch.dtype) -> None:
        self.blocks = [_Block(block, dtype) for block in blocks]
        self.dtype = dtype
        frequencies = blocks[0].self_attn.rotary.inv_freq
        angle = torch.outer(torch.arange(max_context).to(frequencies), frequencies)
        self.turns = torch.polar(torch.ones_like(angle), angle)[:, None]  # [max_context, 1, e / 2]

    def read(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Rows [G, T, d] after all blocks, and keys and values [G * h, T, e] of each block."""
        keys, values = [], []
        turn, x = self.turns[: x.shape[1]], x[:, None]
        for block in self.blocks:
            projected = block.project(x, turn)
            q, k, v = (part[:, 0].transpose(1, 2).contiguous() for part in projected)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            x = block.finish(x, attended.transpose(1, 2).flatten(2)[:, None])
            keys.append(k.flatten(0, 1).to(self.dtype))
            values.append(v.flatten(0, 1).to(self.dtype))
        return x[:, 0], keys, values

    def extend(self, x: Tensor, prefix: Prefix, suffix: Suffix) -> Tensor:
        """Rows [G, P, m, d] after all blocks; their keys and values go into `suffix`."""
        first, m = prefix.length + suffix.length, x.shape[2]
        turn = self.turns[first : first + m]
        used = suffix.length + m
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(x, turn)
            suffix.put(i, k, v)
            keys, values = suffix.keys[i][:, :, :, :used], suffix.values[i][:, :, :, :used]
            x = block.finish(x, attend(q, prefix.keys[i], prefix.values[i], keys, values))
        return x


class Decoder:
    """Normalised bars from tokens. It reads a history once a series, and new rows once a path."""

    def __init__(self, tokenizer: Tokenizer, max_context: int) -> None:
        self.head = tokenizer.head
        self.stack = _Stack(list(tokenizer.decoder), max_context, self.head.weight.dtype)
        bits, device = tokenizer.config.s1_bits, self.head.weight.device
        s1 = torch.arange(2**bits, device=device)
        s2 = torch.arange(2**tokenizer.config.s2_bits, device=device)
        s1_codes = tokenizer.codes(s1, torch.zeros_like(s1))[:, :bits]
        s2_codes = tokenizer.codes(torch.zeros_like(s2), s2)[:, bits:]
        weight, bias = tokenizer.post_quant_embed.weight, tokenizer.post_quant_embed.bias
        self.s1_table = s1_codes @ weight[:, :bits].t() + bias  # embedded s1 [2^s1, d]
        self.s2_table = s2_codes @ weight[:, bits:].t()  # embedded s2 [2^s2, d]

    def read(self, s1: Tensor, s2: Tensor) -> Prefix:
        x, keys, values = self.stack.read(self.s1_table[s1] + self.s2_table[s2])
        return Prefix(keys, values, x[:, -1])

    def follow(self, prefix: Prefix, tokens: Tensor) -> Tensor:
        """Bars [G, P, H, 6] of tokens [G, P, H, 2] that follow histories."""
        x = self.s1_table[tokens[..., 0]] + self.s2_table[tokens[..., 1]]
        suffix = Suffix(prefix, *x.shape[:3])
        bars: Tensor = self.head(self.stack.extend(x, prefix, suffix))
        return bars


class FoldedPredictor:
    """The predictor. Its cross attention's keys and values are one more layer after the blocks."""

    def __init__(self, predictor: Predictor, max_context: int, dtype: torch.dtype) -> None:
        embedding, layer = predictor.embedding, predictor.dep_layer
        cross, fusion = layer.cross_attn, embedding.fusion_proj
        width = predictor.config.d_model
        self.time = predictor.time_emb
        self.stack = _Stack(list(predictor.transformer), max_context, dtype)
        self.gain = predictor.norm.weight
        root = math.sqrt(width)
        emb_s1, emb_s2 = embedding.emb_s1.weight, embedding.emb_s2.weight
        self.s1_table = emb_s1 * root @ fusion.weight[:, :width].t() + fusion.bias  # [2^s1, d]
        self.s2_table = emb_s2 * root @ fusion.weight[:, width:].t()  # [2^s2, d]
        self.heads, self.width = DEPENDENCY_HEADS, width // DEPENDENCY_HEADS
        # Upstream's query is the embedding without the factor sqrt(d).
        self.query = cross.q_proj(emb_s1) / math.sqrt(self.width)  # [2^s1, d]
        weight = torch.cat([cross.k_proj.weight, cross.v_proj.weight])
        self.kv = _linear(weight, torch.cat([cross.k_proj.bias, cross.v_proj.bias]), dtype)
        self.out = _linear(cross.out_proj.weight, cross.out_proj.bias, dtype)
        head = predictor.head
        self.proj_s1 = _linear(head.proj_s1.weight, head.proj_s1.bias, dtype)
        self.proj_s2 = _linear(head.proj_s2.weight * layer.norm.weight, head.proj_s2.bias, dtype)
        self.sizes = (len(self.s1_table), len(self.s2_table))

    def read(self, s1: Tensor, s2: Tensor, times: Tensor) -> Prefix:
        """Read histories of tokens [G, T] with time embeddings `times` [G, T, d]."""
        x, keys, values = self.stack.read(self.s1_table[s1] + self.s2_table[s2] + times)
        h, k, v = self._hidden(x[:, None])
        shape = (-1, x.shape[1], self.width)
        k, v = (part[:, 0].transpose(1, 2).reshape(shape).to(self.stack.dtype) for part in (k, v))
        return Prefix([*keys, k], [*values, v], h[:, 0, -1])

    def extend(self, prefix: Prefix, suffix: Suffix, tokens: Tensor, times: Tensor) -> Tensor:
        """Hidden rows [R, d] at the last of the new tokens [G, P, m, 2]; `times` are [G, m, d]."""
        x = self.s1_table[tokens[..., 0]] + self.s2_table[tokens[..., 1]] + times[:, None]
        h, k, v = self._hidden(self.stack.extend(x, prefix, suffix))
        suffix.put(-1, k, v)
        suffix.length += x.shape[2]
        return h[:, :, -1].flatten(0, 1)

    def _hidden(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed rows [G, P, m, d], and their cross attention's keys and values [G, P, m, h, e]."""
        h = F.rms_norm(x, (x.shape[-1],), self.gain, EPS)
        kv = self.kv(h.flatten(0, 2)).view(*h.shape[:3], 2 * self.heads, self.width)
        return h, kv[..., : self.heads, :], kv[..., self.heads :, :]

    def s1_logits(self, h: Tensor) -> Tensor:
        """[R, 2^s1_bits]."""
        return self.proj_s1(h)

    def s2_hidden(self, h: Tensor, s1: Tensor, prefix: Prefix, suffix: Suffix) -> Tensor:
        """Normed rows [R, d] for s2, given the drawn s1 [R]."""
        keys = suffix.keys[-1][:, :, :, : suffix.length]
        values = suffix.values[-1][:, :, :, : suffix.length]
        query = self.query[s1].view(keys.shape[0], keys.shape[2], 1, self.heads, self.width)
        attended = attend(query, prefix.keys[-1], prefix.values[-1], keys, values)
        return _normed(self.out.plus(attended.flatten(0, 2), h))

    def s2_logits(self, s2_hidden: Tensor) -> Tensor:
        """[R, 2^s2_bits]."""
        return self.proj_s2(s2_hidden)
