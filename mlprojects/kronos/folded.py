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
    """Keys and values that paths add to the histories of `prefix`, with room for `room` rows each.

    The first `length` rows are in use. Histories are shared by their paths and not copied. One path
    of one series has its history copied in front of its rows, so that a layer needs one attention
    and not two that are joined: at one row, the number of operations is what takes the time.
    """

    def __init__(self, prefix: Prefix, groups: int, paths: int, room: int) -> None:
        single = groups * paths == 1
        self.first, self.length = prefix.length, 0
        self._start = prefix.length if single else 0
        self._histories, self._flat, self._slots = [], [], []
        for keys, values in zip(prefix.keys, prefix.values, strict=True):
            heads, width = len(keys) // groups, keys.shape[2]
            slots = keys.new_empty(2, groups, heads, paths, self._start + room, width)
            if single:
                slots[0, 0, :, 0, : self._start] = keys
                slots[1, 0, :, 0, : self._start] = values
                keys, values = keys[:, :0], values[:, :0]
            self._histories.append((keys, values))
            self._slots.append(slots)
            self._flat.append(slots.flatten(1, 3))

    def put(self, layer: int, keys_values: Tensor) -> None:
        """Store keys and values [G, P, m, 2, h, e] of the next m rows.

        The caller advances `length` after all layers have them.
        """
        m = keys_values.shape[2]
        rows = self._slots[layer].narrow(4, self._start + self.length, m)
        rows.copy_(keys_values.permute(3, 0, 4, 1, 2, 5))

    def rows(self, layer: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values [G * h, T, e] of the shared histories, and those of the paths' rows.

        The latter are [G * h * P, t, e]: the first `length` rows, after the history if it is there.
        """
        path_keys, path_values = self._flat[layer].narrow(2, 0, self._start + length).unbind()
        return *self._histories[layer], path_keys, path_values


def attend(
    q: Tensor, keys: Tensor, values: Tensor, path_keys: Tensor, path_values: Tensor
) -> Tensor:
    """Attention [G, P, m, d] of scaled rows q [G, P, m, h, e] over the history and their path.

    keys and values [G * h, T, e] are those of the history. All paths share them, so the rows of all
    paths go through one product. path_keys and path_values [G * h * P, t, e] end with the m rows of
    q, and each of these sees the path up to itself.
    """
    groups, paths, m, heads, width = q.shape
    history_rows, path_rows = keys.shape[1], path_keys.shape[1]
    size = max(1, SCORES // (groups * heads * m * (history_rows + path_rows)))
    if paths > size:
        by_path = (part.unflatten(0, (-1, paths)) for part in (path_keys, path_values))
        parts = zip(q.split(size, 1), *(part.split(size, 1) for part in by_path), strict=True)
        attended = [attend(a, keys, values, k.flatten(0, 1), v.flatten(0, 1)) for a, k, v in parts]
        return torch.cat(attended, dim=1)
    q = q.permute(0, 3, 1, 2, 4).reshape(-1, m, width)
    scores = torch.bmm(q, path_keys.transpose(1, 2))  # [G * h * P, m, t]
    if m > 1:
        later = torch.ones(m, path_rows, dtype=torch.bool, device=q.device)
        scores.masked_fill_(later.triu(path_rows - m + 1), -torch.inf)
    if history_rows:
        q = q.view(-1, paths * m, width)
        scores = scores.view(len(q), paths * m, path_rows)
        scores = torch.cat([torch.bmm(q, keys.transpose(1, 2)), scores], dim=2)
    weights = torch.softmax(scores, dim=2)
    path_weights = weights[:, :, history_rows:].reshape(len(path_keys), m, path_rows)
    out = torch.bmm(path_weights, path_values)
    if history_rows:
        out = out.view(q.shape).baddbmm_(weights[:, :, :history_rows], values)
    return out.view(groups, heads, paths, m, width).permute(0, 2, 3, 1, 4).flatten(3)


def _unit(x: Tensor, floor: Tensor) -> Tensor:
    """RMSNorm without its gain and the factor sqrt(d), which the next weights include.

    `floor` is sqrt(d * eps). Three operations; F.rms_norm takes ten on a CPU.
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.hypot_(floor)


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
        root = math.sqrt(width)
        gain1, gain2 = block.norm1.weight * root, block.norm2.weight * root
        self.floor = torch.full_like(gain1[:1], math.sqrt(width * EPS))
        weight = torch.cat([q.weight[order] * scale, k.weight[order], v.weight]) * gain1
        bias = torch.cat([q.bias[order] * scale, k.bias[order], v.bias])
        self.qkv = _linear(weight, bias, dtype)
        self.out = _linear(attention.out_proj.weight, attention.out_proj.bias, dtype)
        self.w1 = _linear(block.ffn.w1.weight * gain2, None, dtype)
        self.w3 = _linear(block.ffn.w3.weight * gain2, None, dtype)
        self.w2 = _linear(block.ffn.w2.weight, None, dtype)

    def project(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """q [G, P, m, h, e], and keys and values [G, P, m, 2, h, e], of rows x [G, P, m, d].

        `turn` [m, 1, e / 2] holds the complex factors of their positions.
        """
        projected = self.qkv(_unit(x, self.floor).flatten(0, 2))
        qkv = projected.view(*x.shape[:3], 3, self.heads, self.width)
        qk = qkv[:, :, :, :2].flatten(3, 4).unflatten(4, (-1, 2))
        torch.view_as_complex(qk).mul_(turn)  # in place
        return qkv[:, :, :, 0], qkv[:, :, :, 1:]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Rows [G, P, m, d] after attention and feed-forward."""
        rows = self.out.plus(attended.flatten(0, 2), x.flatten(0, 2))
        normed = _unit(rows, self.floor)
        gated = self.w3.times(normed, self.w1(normed, "swish"))
        return self.w2.plus(gated, rows).view(x.shape)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    return Linear(weight.to(dtype), None if bias is None else bias.to(dtype))


class _Stack:
    """Blocks that read histories and then extend paths."""

    def __init__(self, blocks: Sequence[Block], max_context: int, dtype: torch.dtype) -> None:
        self.blocks = [_Block(block, dtype) for block in blocks]
        frequencies = blocks[0].self_attn.rotary.inv_freq
        angle = torch.outer(torch.arange(max_context).to(frequencies), frequencies)
        self.turns = torch.polar(torch.ones_like(angle), angle)[:, None]  # [max_context, 1, e / 2]

    def read(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Rows [G, T, d] after all blocks, and keys and values [G * h, T, e] of each block."""
        keys, values = [], []
        turn, x = self.turns[: x.shape[1]], x[:, None]
        for block in self.blocks:
            q, keys_values = block.project(x, turn)
            q, k, v = (
                part[:, 0].transpose(1, 2).contiguous()  # [G, h, T, e]
                for part in (q, *keys_values.unbind(3))
            )
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            x = block.finish(x, attended.transpose(1, 2).flatten(2)[:, None])
            keys.append(k.flatten(0, 1))
            values.append(v.flatten(0, 1))
        return x[:, 0], keys, values

    def extend(self, x: Tensor, suffix: Suffix) -> Tensor:
        """Rows [G, P, m, d] after all blocks; their keys and values go into `suffix`."""
        length = suffix.length + x.shape[2]
        turn = self.turns[suffix.first + suffix.length : suffix.first + length]
        for i, block in enumerate(self.blocks):
            q, keys_values = block.project(x, turn)
            suffix.put(i, keys_values)
            x = block.finish(x, attend(q, *suffix.rows(i, length)))
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
        bars: Tensor = self.head(self.stack.extend(x, suffix))
        return bars


class FoldedPredictor:
    """The predictor. Its cross attention's keys and values are one more layer after the blocks."""

    def __init__(self, predictor: Predictor, max_context: int, dtype: torch.dtype) -> None:
        embedding, layer = predictor.embedding, predictor.dep_layer
        cross, fusion = layer.cross_attn, embedding.fusion_proj
        width = predictor.config.d_model
        self.time = predictor.time_emb
        self.stack = _Stack(list(predictor.transformer), max_context, dtype)
        root = math.sqrt(width)
        self.gain = predictor.norm.weight * root
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
        gain = layer.norm.weight * root
        self.proj_s2 = _linear(head.proj_s2.weight * gain, head.proj_s2.bias, dtype)
        self.floor = torch.full_like(gain[:1], math.sqrt(width * EPS))
        self.sizes = (len(self.s1_table), len(self.s2_table))

    def read(self, s1: Tensor, s2: Tensor, times: Tensor) -> Prefix:
        """Read histories of tokens [G, T] with time embeddings `times` [G, T, d]."""
        x, keys, values = self.stack.read(self.s1_table[s1] + self.s2_table[s2] + times)
        h, keys_values = self._hidden(x[:, None])
        k, v = (part[:, 0].transpose(1, 2).flatten(0, 1) for part in keys_values.unbind(3))
        return Prefix([*keys, k], [*values, v], h[:, 0, -1])

    def extend(self, suffix: Suffix, tokens: Tensor, times: Tensor) -> Tensor:
        """Hidden rows [R, d] at the last of the new tokens [G, P, m, 2]; `times` are [G, m, d]."""
        x = F.embedding(tokens[..., 0], self.s1_table) + F.embedding(tokens[..., 1], self.s2_table)
        h, keys_values = self._hidden(self.stack.extend(x + times[:, None], suffix))
        suffix.put(-1, keys_values)
        suffix.length += tokens.shape[2]
        return h[:, :, -1].flatten(0, 1)

    def _hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normed rows [G, P, m, d]; the cross attention's keys and values [G, P, m, 2, h, e]."""
        h = _unit(x, self.floor) * self.gain
        kv = self.kv(h.flatten(0, 2))
        return h, kv.view(*h.shape[:3], 2, self.heads, self.width)

    def s1_logits(self, h: Tensor) -> Tensor:
        """[R, 2^s1_bits]."""
        return self.proj_s1(h)

    def s2_hidden(self, h: Tensor, s1: Tensor, paths: int, suffix: Suffix) -> Tensor:
        """Normed rows [R, d] for s2, given the drawn s1 [R]; R is series times `paths`."""
        query = F.embedding(s1, self.query).view(-1, paths, 1, self.heads, self.width)
        attended = attend(query, *suffix.rows(-1, suffix.length))
        return _unit(self.out.plus(attended.flatten(0, 2), h), self.floor)

    def s2_logits(self, s2_hidden: Tensor) -> Tensor:
        """[R, 2^s2_bits]."""
        return self.proj_s2(s2_hidden)
