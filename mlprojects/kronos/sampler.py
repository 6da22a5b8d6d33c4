"""Sampled paths of bars: what reading the whole window again for every step of every sample gives, without doing so.

The history of a series is encoded and read once; its keys and values serve all paths as they are; each step adds one
row to a path. Embeddings with the projections behind them, and the gains of the norms, are folded into the weights.
Shapes: N series, G of them in a pass, P paths in a pass, R = G * P rows, T bars of history, H steps, m new rows a path,
h heads, e head width, d model width, V tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mlprojects.kronos.architecture import DEPENDENCY_HEADS, EPS, Block, Predictor, Tokenizer, check_pairing
from mlprojects.kronos.keys import exponentials
from mlprojects.kronos.linear import Linear
from registry.errors import BadHistory, BadParameter

Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]
Overflow = Literal["truncate", "exact"]

COLDEST = 1e-6  # a temperature below it would overflow the logits, and leaves no choice anyway
PASS_PATHS = 128  # paths of a series in one pass: bounds the memory
CLOSE = 3  # of a bar's fields
STD_FLOOR = 1e-5  # added to the standard deviation, as upstream does
SCORES = 1 << 22  # attention scores held at once


@dataclass(frozen=True)
class Draw:
    """How a token is drawn from its logits.

    Logits are divided by `temperature`; only the `top_k` likeliest tokens stay (0: all); of those, with their
    probabilities adding up to 1 again, the fewest that together reach `top_p` stay; equals of the last one stay too.
    A temperature of 0, or as good as 0, takes the likeliest token.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST


@dataclass(frozen=True)
class Sampled:
    """Bars [N, S, H, 6] in the units of the history, as decoded, and the tokens [N, S, H, 2] behind them.

    `last` [N, 6] is what the tokens of the last known bar decode to: how far it lies from that bar is what tokens lose.
    """

    bars: Floats
    last: Floats
    tokens: Tokens
    used: int  # bars of history that were looked at


class Sampler:
    """A tokenizer and a predictor, folded for inference. Nothing in it changes: safe to call from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        predictor: Predictor,
        *,
        max_context: int,
        clip: float = 5.0,
        products: torch.dtype | None = None,
    ) -> None:
        """`products`: precision of the predictor's products and of what it keeps of a history (torch.bfloat16); None:
        that of its weights."""
        check_pairing(tokenizer.config, predictor.config)
        self.max_context, self.clip = max_context, clip
        self._tokenizer = tokenizer  # encodes as it is: a bit is a sign, and folding would turn one in a million
        weight = tokenizer.head.weight
        self._device, self._dtype = weight.device, weight.dtype
        with torch.no_grad():
            self._decoder = _Decoder(tokenizer, max_context)
            self._predictor = _Folded(predictor, max_context, products or weight.dtype)

    def sees(self, length: int, steps: int, overflow: Overflow) -> int:
        """How many of `length` bars are looked at; 'truncate' takes so few that none leaves the window."""
        return length if overflow == "exact" else min(length, self.max_context - steps + 1)

    @torch.inference_mode()
    def sample(
        self,
        bars: Floats,
        stamps: Tokens,
        keys: Sequence[int],
        paths: int,
        draw: Draw,
        *,
        overflow: Overflow = "truncate",
        room: int = 0,
        group: int = 1,
    ) -> Sampled:
        """Continue N series of equal length by H steps.

        bars [N, T, 6]: open high low close volume amount. stamps [N, T + H, 5]: minute hour weekday day month, of the
        steps too. keys [N] decide the random numbers of each series (keys.py). overflow 'truncate' cuts the history to
        the last max_context - H + 1 bars before anything is computed from it (max_context - room + 1 where `room` steps
        shall be possible on the same history); 'exact' lets the window slide as upstream does and reads it again at
        each step beyond. `group` series share a pass, which is filled up to that number: the last bits depend on
        `group` and `paths`, never on who else is in the batch.
        """
        steps = stamps.shape[1] - bars.shape[1]
        room = max(room, steps) if overflow == "truncate" else steps
        if not 1 <= steps <= room < self.max_context:
            raise BadParameter(
                f"{room} steps were asked for; a window of {self.max_context} bars allows 1..{self.max_context - 1}",
                code="BAD_HORIZON",
            )
        used = self.sees(bars.shape[1], room, overflow)
        bars, stamps = bars[:, -used:], stamps[:, -(used + steps) :]
        still = np.flatnonzero(np.ptp(bars[:, :, CLOSE], axis=1) == 0)
        if still.size:
            raise BadHistory(
                f"{still.size} of {len(bars)} series have one and the same close in the last {used} bars, which are "
                "all that is looked at; there is nothing to scale them by",
                code="CONSTANT",
            )
        mean, std = scales(bars)
        scaled = np.clip((bars - mean) / std, -self.clip, self.clip)
        out = np.empty((len(bars), paths, steps, bars.shape[2]))
        last = np.empty((len(bars), bars.shape[2]))
        tokens = np.empty((len(bars), paths, steps, 2), dtype=np.int64)
        size = -(-paths // -(-paths // PASS_PATHS))  # equal parts
        for start in range(0, len(bars), group):
            which = np.arange(start, start + group) % len(bars)  # the last pass is filled up with other series
            rows = slice(start, min(start + group, len(bars)))
            once = {i: self._read(scaled[i : i + 1], stamps[i : i + 1], room) for i in dict.fromkeys(which.tolist())}
            read = _joined([once[i] for i in which.tolist()])
            kept = rows.stop - start
            last[rows] = self._decoder.head(read.decoder.last).double().cpu().numpy()[:kept]
            for first in range(0, paths, size):
                some = range(first, min(first + size, paths))
                drawn = self._continue(read, [keys[i] for i in which], some, draw)  # [G, P, H, 2]
                z = self._decoder.follow(read.decoder, drawn).double().cpu().numpy()
                out[rows, some.start : some.stop] = z[:kept]
                tokens[rows, some.start : some.stop] = drawn[:kept].cpu().numpy()
        return Sampled(out * std[:, None] + mean[:, None], last * std[:, 0] + mean[:, 0], tokens, used)

    def _read(self, scaled: Floats, stamps: Tokens, room: int) -> "_Read":
        """Encode and read a normalised history [1, T, 6] once, for all its paths; alone, whoever shares its pass."""
        length, steps = scaled.shape[1], stamps.shape[1] - scaled.shape[1]
        s1, s2 = self._tokenizer.encode(torch.from_numpy(scaled).to(self._device, self._dtype))
        when = self._predictor.time(torch.from_numpy(stamps).to(self._device))
        first = max(0, length - self.max_context)
        prefix = self._predictor.read(s1[:, first:], s2[:, first:], when[:, first:length])
        decoded = max(0, length + room - self.max_context)  # the decoder has a window too
        return _Read(s1, s2, when, steps, prefix, self._decoder.read(s1[:, decoded:], s2[:, decoded:]))

    def _continue(self, read: "_Read", keys: Sequence[int], paths: range, draw: Draw) -> Tensor:
        """Tokens [G, P, H, 2] of some paths."""
        groups, length, number = len(keys), read.s1.shape[1], len(paths)
        tokens = torch.empty(groups, number, read.steps, 2, dtype=torch.int64, device=self._device)
        prefix = read.prefix
        own = _Suffix(prefix, groups, number, read.steps)
        h = prefix.last[:, None].expand(-1, number, -1).flatten(0, 1)
        for step in range(read.steps):
            end = length + step  # bars there are by now
            if step:
                gone = end - self.max_context  # bars that have left the window
                if gone <= 0:
                    h = self._predictor.extend(prefix, own, tokens[:, :, step - 1 : step], read.when[:, end - 1 : end])
                else:  # what is above the first layer has seen what left: read the window again
                    prefix = self._predictor.read(read.s1[:, gone:], read.s2[:, gone:], read.when[:, gone:length])
                    own = _Suffix(prefix, groups, number, step)
                    h = self._predictor.extend(prefix, own, tokens[:, :, :step], read.when[:, length:end])
            race = None if draw.greedy else self._race(keys, step, paths)
            one = pick(self._predictor.s1_logits(h), race and race[0], draw)
            two = pick(self._predictor.s2_logits(h, one, prefix, own), race and race[1], draw)
            tokens[:, :, step] = torch.stack([one, two], dim=1).unflatten(0, (groups, number))
        return tokens

    def _race(self, keys: Sequence[int], step: int, paths: range) -> tuple[Tensor, Tensor]:
        """Exponential numbers [R, V] for s1 and for s2."""
        size = max(*self._predictor.sizes, 8)
        drawn = np.concatenate([exponentials(key, step, paths, 2, size) for key in keys])
        race = torch.from_numpy(drawn).to(self._device)
        one, two = self._predictor.sizes
        return race[:, 0, :one], race[:, 1, :two]


def scales(bars: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation [..., 1, 6] of bars [..., T, 6]; a column that does not move is exactly its mean, however
    large."""
    first = bars[..., :1, :]
    moved = bars - first
    return first + moved.mean(axis=-2, keepdims=True), moved.std(axis=-2, keepdims=True) + STD_FLOOR


def pick(logits: Tensor, race: Tensor | None, draw: Draw) -> Tensor:
    """Tokens [R] of logits [R, V]: the largest of probability / exponential number wins with its probability."""
    if race is None or draw.greedy:
        return logits.argmax(dim=1)
    p = torch.softmax(logits / draw.temperature, dim=1)
    if 0 < draw.top_k < p.shape[1] or draw.top_p < 1:
        p = torch.where(p >= _least(p, draw), p, 0.0)
    return (p / race).argmax(dim=1)


def _least(p: Tensor, draw: Draw) -> Tensor:
    """The smallest probability [R, 1] that stays."""
    # NumPy sorts float32 several times faster than torch does on a CPU.
    ordered = torch.from_numpy(np.sort(p.numpy(), axis=1)).flip(1) if p.device.type == "cpu" else -(-p).sort(1).values
    if 0 < draw.top_k < p.shape[1]:
        ordered = ordered[:, : draw.top_k]
    sums = ordered.cumsum(dim=1)
    count = (sums - ordered < draw.top_p * sums[:, -1:]).sum(dim=1, keepdim=True)
    return ordered.gather(1, count.clamp(min=1) - 1)


# --- what was read, and what paths add ----------------------------------------------------------


@dataclass(frozen=True)
class _Prefix:
    """Histories that were read: keys and values [G * h, T, e] of every layer, `last` [G, d] at their last bar."""

    keys: list[Tensor]
    values: list[Tensor]
    last: Tensor

    @property
    def length(self) -> int:
        return self.keys[0].shape[1]


def _joined(reads: "Sequence[_Read]") -> "_Read":
    """Several series as one group."""
    if len(reads) == 1:
        return reads[0]
    prefixes = [
        _Prefix(
            [torch.cat(layer) for layer in zip(*(part.keys for part in parts), strict=True)],
            [torch.cat(layer) for layer in zip(*(part.values for part in parts), strict=True)],
            torch.cat([part.last for part in parts]),
        )
        for parts in ([read.prefix for read in reads], [read.decoder for read in reads])
    ]
    s1, s2, when = (torch.cat([getattr(read, name) for read in reads]) for name in ("s1", "s2", "when"))
    return _Read(s1, s2, when, reads[0].steps, *prefixes)


class _Suffix:
    """Keys and values [G, h, P, M, e] that paths add, layer by layer; the first `length` of M rows are in use."""

    def __init__(self, prefix: "_Prefix", groups: int, paths: int, room: int) -> None:
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


@dataclass(frozen=True)
class _Read:
    """All that the paths of a group of series share."""

    s1: Tensor  # [G, T]
    s2: Tensor
    when: Tensor  # [G, T + H, d]
    steps: int
    prefix: _Prefix
    decoder: _Prefix


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
        done = [attend(q[:, p], keys, values, own_keys[:, :, p], own_values[:, :, p]) for p in parts]
        return torch.cat(done, dim=1)
    exact = q.dtype
    q = q.permute(0, 3, 1, 2, 4).reshape(groups * heads, paths * m, width).to(keys.dtype)
    scores = torch.bmm(q, keys.transpose(1, 2))  # [G * h, P * m, T]
    if own:
        k, v = (part.reshape(groups * heads * paths, own, width) for part in (own_keys, own_values))
        # This way round, keys are read in the order they lie in.
        ours = torch.bmm(k, q.reshape(-1, m, width).transpose(1, 2)).transpose(1, 2)  # [G * h * P, m, t]
        if m > 1:
            later = torch.ones(m, own, dtype=torch.bool, device=q.device).triu(own - m + 1)
            ours = ours.masked_fill(later, -torch.inf)
        scores = torch.cat([scores, ours.reshape(groups * heads, paths * m, own)], dim=2)
    weights = torch.softmax(scores, dim=2, dtype=exact).to(keys.dtype)
    out = torch.bmm(weights[:, :, :shared], values)
    if own:
        out += torch.bmm(weights[:, :, shared:].reshape(-1, m, own), v).view_as(out)
    return out.view(groups, heads, paths, m, width).permute(0, 2, 3, 1, 4).flatten(3).to(exact)


# --- folded weights -----------------------------------------------------------------------------


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
            q, k, v = (part[:, 0].transpose(1, 2).contiguous() for part in block.project(x, turn))  # [G, h, T, e]
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            x = block.finish(x, attended.transpose(1, 2).flatten(2)[:, None])
            keys.append(k.flatten(0, 1).to(self.dtype))
            values.append(v.flatten(0, 1).to(self.dtype))
        return x[:, 0], keys, values

    def extend(self, x: Tensor, prefix: _Prefix, own: _Suffix) -> Tensor:
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


class _Decoder:
    """Normalised bars of tokens: the history once a series, the new rows once a path."""

    def __init__(self, tokenizer: Tokenizer, max_context: int) -> None:
        bits = tokenizer.config.s1_bits
        self.head = tokenizer.head
        self.stack = _Stack(list(tokenizer.decoder), max_context, self.head.weight.dtype)
        every = [torch.arange(2**n, device=self.head.weight.device) for n in (bits, tokenizer.config.s2_bits)]
        weight, bias = tokenizer.post_quant_embed.weight, tokenizer.post_quant_embed.bias
        self.one = tokenizer.codes(every[0], torch.zeros_like(every[0]))[:, :bits] @ weight[:, :bits].t() + bias
        self.two = tokenizer.codes(torch.zeros_like(every[1]), every[1])[:, bits:] @ weight[:, bits:].t()

    def read(self, s1: Tensor, s2: Tensor) -> _Prefix:
        x, keys, values = self.stack.read(self.one[s1] + self.two[s2])
        return _Prefix(keys, values, x[:, -1])

    def follow(self, prefix: _Prefix, tokens: Tensor) -> Tensor:
        """Bars [G, P, H, 6] of tokens [G, P, H, 2] that follow histories."""
        x = self.one[tokens[..., 0]] + self.two[tokens[..., 1]]
        own = _Suffix(prefix, *x.shape[:3])
        return self.head(self.stack.extend(x, prefix, own))


class _Folded:
    """The predictor. The cross attention's keys and values are kept as one more layer behind those of the blocks."""

    def __init__(self, predictor: Predictor, max_context: int, dtype: torch.dtype) -> None:
        embedding, layer = predictor.embedding, predictor.dep_layer
        cross, fusion = layer.cross_attn, embedding.fusion_proj
        width = predictor.config.d_model
        self.time = predictor.time_emb
        self.stack = _Stack(list(predictor.transformer), max_context, dtype)
        self.gain = predictor.norm.weight
        root = math.sqrt(width)
        self.one = embedding.emb_s1.weight * root @ fusion.weight[:, :width].t() + fusion.bias  # [2^s1, d]
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

    def read(self, s1: Tensor, s2: Tensor, when: Tensor) -> _Prefix:
        """Read histories of tokens [G, T] whose time embeddings are `when` [G, T, d]."""
        x, keys, values = self.stack.read(self.one[s1] + self.two[s2] + when)
        h, k, v = self._hidden(x[:, None])
        shape = (-1, x.shape[1], self.width)
        across = [part[:, 0].transpose(1, 2).reshape(shape).to(self.stack.dtype) for part in (k, v)]
        return _Prefix([*keys, across[0]], [*values, across[1]], h[:, 0, -1])

    def extend(self, prefix: _Prefix, own: _Suffix, tokens: Tensor, when: Tensor) -> Tensor:
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

    def s2_logits(self, h: Tensor, s1: Tensor, prefix: _Prefix, own: _Suffix) -> Tensor:
        """[R, 2^s2_bits] for the s1 [R] that were drawn."""
        keys, values = own.keys[-1][:, :, :, : own.length], own.values[-1][:, :, :, : own.length]
        query = self.query[s1].view(keys.shape[0], keys.shape[2], 1, self.heads, self.width)
        attended = attend(query, prefix.keys[-1], prefix.values[-1], keys, values)
        return self.proj_s2(_normed(self.out.plus(attended.flatten(0, 2), h)))
