"""Sampled paths of bars: what reading the whole window again for every step of every sample gives, without doing so.

The history of a series is encoded and read once; its keys and values serve all paths as they are; each step adds one
row to a path. Shapes: N series, G of them in a pass, P paths in a pass, R = G * P rows, T bars of history, H steps, d
model width, V tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.folded import Decoder, FoldedPredictor, Prefix, Suffix
from mlprojects.kronos.keys import exponentials
from mlprojects.kronos.shapes import check_pairing
from registry.errors import BadHistory, BadParameter

Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]
Overflow = Literal["truncate", "exact"]

COLDEST = 1e-6  # a temperature below it would overflow the logits, and leaves no choice anyway
PASS_PATHS = 128  # paths of a series in one pass: bounds the memory
CLOSE = 3  # of a bar's fields
STD_FLOOR = 1e-5  # added to the standard deviation, as upstream does


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
        self._tokenizer = (
            tokenizer  # encodes as it is: a bit is a sign, and folding would turn one in a million
        )
        weight = tokenizer.head.weight
        self._device, self._dtype = weight.device, weight.dtype
        with torch.no_grad():
            self._decoder = Decoder(tokenizer, max_context)
            self._predictor = FoldedPredictor(predictor, max_context, products or weight.dtype)

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
        each step beyond. `group` series share a pass, which is filled up to that number. The last bits depend on
        `group` and `paths`; they do not depend on the other series where group * paths is 24 or group is 1.
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
            # the last pass is filled up with other series
            which = [row % len(bars) for row in range(start, start + group)]
            rows = slice(start, min(start + group, len(bars)))
            once = {
                i: self._read(scaled[i : i + 1], stamps[i : i + 1], room)
                for i in dict.fromkeys(which)
            }
            read = _joined([once[i] for i in which])
            kept = rows.stop - start
            last[rows] = self._decoder.head(read.decoder.last).double().cpu().numpy()[:kept]
            for first in range(0, paths, size):
                some = range(first, min(first + size, paths))
                drawn = self._continue(read, [keys[i] for i in which], some, draw)  # [G, P, H, 2]
                z = self._decoder.follow(read.decoder, drawn).double().cpu().numpy()
                out[rows, some.start : some.stop] = z[:kept]
                tokens[rows, some.start : some.stop] = drawn[:kept].cpu().numpy()
        return Sampled(
            out * std[:, None] + mean[:, None], last * std[:, 0] + mean[:, 0], tokens, used
        )

    def _read(self, scaled: Floats, stamps: Tokens, room: int) -> "_Read":
        """Encode and read a normalised history [1, T, 6] once, for all its paths; alone, whoever shares its pass."""
        length, steps = scaled.shape[1], stamps.shape[1] - scaled.shape[1]
        s1, s2 = self._tokenizer.encode(torch.from_numpy(scaled).to(self._device, self._dtype))
        when = self._predictor.time(torch.from_numpy(stamps).to(self._device))
        first = max(0, length - self.max_context)
        prefix = self._predictor.read(s1[:, first:], s2[:, first:], when[:, first:length])
        decoded = max(0, length + room - self.max_context)  # the decoder has a window too
        return _Read(
            s1, s2, when, steps, prefix, self._decoder.read(s1[:, decoded:], s2[:, decoded:])
        )

    def _continue(self, read: "_Read", keys: Sequence[int], paths: range, draw: Draw) -> Tensor:
        """Tokens [G, P, H, 2] of some paths."""
        groups, length, number = len(keys), read.s1.shape[1], len(paths)
        tokens = torch.empty(groups, number, read.steps, 2, dtype=torch.int64, device=self._device)
        prefix = read.prefix
        own = Suffix(prefix, groups, number, read.steps)
        h = prefix.last[:, None].expand(-1, number, -1).flatten(0, 1)
        for step in range(read.steps):
            end = length + step  # bars there are by now
            if step:
                gone = end - self.max_context  # bars that have left the window
                if gone <= 0:
                    h = self._predictor.extend(
                        prefix, own, tokens[:, :, step - 1 : step], read.when[:, end - 1 : end]
                    )
                else:  # what is above the first layer has seen what left: read the window again
                    prefix = self._predictor.read(
                        read.s1[:, gone:], read.s2[:, gone:], read.when[:, gone:length]
                    )
                    own = Suffix(prefix, groups, number, step)
                    h = self._predictor.extend(
                        prefix, own, tokens[:, :, :step], read.when[:, length:end]
                    )
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
    ordered = (
        torch.from_numpy(np.sort(p.numpy(), axis=1)).flip(1)
        if p.device.type == "cpu"
        else -(-p).sort(1).values
    )
    if 0 < draw.top_k < p.shape[1]:
        ordered = ordered[:, : draw.top_k]
    sums = ordered.cumsum(dim=1)
    count = (sums - ordered < draw.top_p * sums[:, -1:]).sum(dim=1, keepdim=True)
    return ordered.gather(1, count.clamp(min=1) - 1)


@dataclass(frozen=True)
class _Read:
    """All that the paths of a group of series share."""

    s1: Tensor  # [G, T]
    s2: Tensor
    when: Tensor  # [G, T + H, d]
    steps: int
    prefix: Prefix
    decoder: Prefix


def _joined(reads: "Sequence[_Read]") -> "_Read":
    """Several series as one group."""
    if len(reads) == 1:
        return reads[0]
    prefixes = [
        Prefix(
            [torch.cat(layer) for layer in zip(*(part.keys for part in parts), strict=True)],
            [torch.cat(layer) for layer in zip(*(part.values for part in parts), strict=True)],
            torch.cat([part.last for part in parts]),
        )
        for parts in ([read.prefix for read in reads], [read.decoder for read in reads])
    ]
    s1, s2, when = (
        torch.cat([getattr(read, name) for read in reads]) for name in ("s1", "s2", "when")
    )
    return _Read(s1, s2, when, reads[0].steps, *prefixes)
