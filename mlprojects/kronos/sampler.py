"""Sample paths of bars; the result equals reading the whole window again for every step and path.

The history of a series is encoded and read once. All paths share its keys and values, and each step
adds one row to a path. Shapes: N series, G of them in a pass, P paths in a pass, R = G * P rows,
T bars of history, H steps, d model width, V tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlprojects.kronos.architecture import Predictor, Tokenizer, overflow_error
from mlprojects.kronos.folded import Decoder, FoldedPredictor, Prefix, Suffix
from mlprojects.kronos.keys import exponentials
from mlprojects.kronos.shapes import check_pairing
from registry.errors import BadHistory, BadParameter

Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]
Race = npt.NDArray[np.float32]
Overflow = Literal["truncate", "exact"]

COLDEST = 1e-6  # a lower temperature counts as 0: it would overflow the logits
PASS_PATHS = 128  # paths of a series in one pass; this bounds the memory
CLOSE = 3  # index in the fields of a bar
STD_FLOOR = 1e-5  # added to the standard deviation, as upstream does


@dataclass(frozen=True)
class Draw:
    """How a token is drawn from its logits.

    Logits are divided by `temperature`. The `top_k` likeliest tokens stay (0: all) and their
    probabilities are scaled to add up to 1. Of these, the fewest that together reach `top_p` stay.
    Tokens as likely as the last one stay too. A temperature below COLDEST takes the likeliest one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST


@dataclass(frozen=True)
class Sampled:
    """Decoded bars [N, S, H, 6] in the units of the history, and their tokens [N, S, H, 2].

    `last` [N, 6] is the last bar of the history, decoded from its tokens; its distance from the
    true bar is what the tokens lose.
    """

    bars: Floats
    last: Floats
    tokens: Tokens
    used: int  # bars of history


class Sampler:
    """A tokenizer and a predictor, folded for inference.

    It never changes, so several threads may call it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        predictor: Predictor,
        *,
        max_context: int,
        clip: float = 5.0,
        products: torch.dtype | None = None,
    ) -> None:
        """`products` is the precision of the predictor's products with its weights.

        It is torch.bfloat16, or None for the precision of its weights.
        """
        check_pairing(tokenizer.config, predictor.config)
        self.max_context, self.clip = max_context, clip
        # The encoder is not folded: a bit is a sign, and folding would flip one in a million.
        self._tokenizer = tokenizer
        weight = tokenizer.head.weight
        self._device, self._dtype = weight.device, weight.dtype
        with torch.no_grad():
            self._decoder = Decoder(tokenizer, max_context)
            self._predictor = FoldedPredictor(predictor, max_context, products or weight.dtype)

    def bars_used(self, length: int, steps: int, overflow: Overflow) -> int:
        """How many of `length` bars are used; with 'truncate', none ever leaves the window.

        The decoder's window holds the sampled bars too, as upstream's does.
        """
        if overflow == "exact":
            return length
        return min(length, self.max_context - steps)

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

        bars [N, T, 6] are open, high, low, close, volume, amount. stamps [N, T + H, 5] are minute,
        hour, weekday, day, month, also of the steps. keys [N] decide the random numbers of each
        series (keys.py).

        overflow 'truncate' first cuts the history to its last max_context - H bars. With `room` it
        leaves place for so many steps: max_context - room bars. 'exact' lets the window slide, as
        upstream does, and reads it again at each step beyond its end.

        `group` series share a pass; other series fill up the last pass. The last bits of a result
        depend on `group` and `paths`. They do not depend on the other series if group * paths is 24
        or group is 1.

        Raises BadParameter (BAD_HORIZON), BadHistory (CONSTANT), and KronosError
        (NETWORK_OVERFLOW) if a network computes a number that is not finite.
        """
        steps = stamps.shape[1] - bars.shape[1]
        room = max(room, steps) if overflow == "truncate" else steps
        if not 1 <= steps <= room < self.max_context:
            raise BadParameter(
                f"{room} steps were asked for; a window of {self.max_context} bars allows "
                f"1..{self.max_context - 1}",
                code="BAD_HORIZON",
            )
        used = self.bars_used(bars.shape[1], room, overflow)
        bars, stamps = bars[:, -used:], stamps[:, -(used + steps) :]
        constant = np.count_nonzero(np.ptp(bars[:, :, CLOSE], axis=1) == 0)
        if constant:
            raise BadHistory(
                f"{constant} of {len(bars)} series have a constant close in the last {used} bars, "
                "the only ones used, so there is no scale; leave these series out",
                code="CONSTANT",
            )
        mean, std = scales(bars)
        scaled = np.clip((bars - mean) / std, -self.clip, self.clip)
        out = np.empty((len(bars), paths, steps, bars.shape[2]))
        last = np.empty((len(bars), bars.shape[2]))
        tokens = np.empty((len(bars), paths, steps, 2), dtype=np.int64)
        passes = math.ceil(paths / PASS_PATHS)
        size = math.ceil(paths / passes)  # paths in each pass, nearly equal
        for start in range(0, len(bars), group):
            members = [row % len(bars) for row in range(start, start + group)]
            rows = slice(start, min(start + group, len(bars)))
            reads = {
                i: self._read(scaled[i : i + 1], stamps[i : i + 1], room)
                for i in dict.fromkeys(members)
            }
            read = _joined([reads[i] for i in members])
            member_keys = [keys[i] for i in members]
            kept = rows.stop - start  # the other members only fill up the pass
            last[rows] = self._decoder.head(read.decoder.last).double().cpu().numpy()[:kept]
            for first in range(0, paths, size):
                part = range(first, min(first + size, paths))
                drawn = self._continue(read, member_keys, part, draw)  # [G, P, H, 2]
                decoded = self._decoder.follow(read.decoder, drawn).double().cpu().numpy()
                out[rows, part.start : part.stop] = decoded[:kept]
                tokens[rows, part.start : part.stop] = drawn[:kept].cpu().numpy()
        if not (np.isfinite(out).all() and np.isfinite(last).all()):
            raise overflow_error("decoded bars")
        out = out * std[:, None] + mean[:, None]
        last = last * std[:, 0] + mean[:, 0]
        return Sampled(out, last, tokens, used)

    def _read(self, scaled: Floats, stamps: Tokens, room: int) -> "_Read":
        """Encode and read a normalised history [1, T, 6] once for all its paths.

        It is read alone, so that the bits do not depend on the other series of its pass.
        """
        length, steps = scaled.shape[1], stamps.shape[1] - scaled.shape[1]
        s1, s2 = self._tokenizer.encode(torch.from_numpy(scaled).to(self._device, self._dtype))
        times = self._predictor.time(torch.from_numpy(stamps).to(self._device))
        first = max(0, length - self.max_context)
        prefix = self._predictor.read(s1[:, first:], s2[:, first:], times[:, first:length])
        first = max(0, length + room - self.max_context)  # the decoder has a window too
        decoder = self._decoder.read(s1[:, first:], s2[:, first:])
        return _Read(s1, s2, times, steps, prefix, decoder)

    def _continue(self, read: "_Read", keys: Sequence[int], paths: range, draw: Draw) -> Tensor:
        """Tokens [G, P, H, 2] of some paths. Raises KronosError (NETWORK_OVERFLOW)."""
        groups, length, number = len(keys), read.s1.shape[1], len(paths)
        tokens = torch.empty(groups, number, read.steps, 2, dtype=torch.int64, device=self._device)
        prefix = read.prefix
        suffix = Suffix(prefix, groups, number, read.steps)
        h = prefix.last[:, None].expand(-1, number, -1).flatten(0, 1)
        sizes = []  # of hidden rows and logits; looked at once, since a look waits for the GPU
        for step in range(read.steps):
            end = length + step  # bars so far
            left = end - self.max_context  # bars that have left the window
            if step and left <= 0:
                new = tokens[:, :, step - 1 : step]
                h = self._predictor.extend(suffix, new, read.times[:, end - 1 : end])
            elif step:
                # Layers above the first depend on the bars that left: read the window again.
                window = slice(left, length)
                prefix = self._predictor.read(
                    read.s1[:, window], read.s2[:, window], read.times[:, window]
                )
                suffix = Suffix(prefix, groups, number, step)
                new = tokens[:, :, :step]
                h = self._predictor.extend(suffix, new, read.times[:, length:end])
            s1_race, s2_race = (None, None) if draw.greedy else self._race(keys, step, paths)
            s1_logits = self._predictor.s1_logits(h)
            s1 = pick(s1_logits, s1_race, draw)
            s2_hidden = self._predictor.s2_hidden(h, s1, number, suffix)
            s2_logits = self._predictor.s2_logits(s2_hidden)
            s2 = pick(s2_logits, s2_race, draw)
            tokens[:, :, step] = torch.stack([s1, s2], dim=1).unflatten(0, (groups, number))
            sizes += [_size(rows) for rows in (h, s1_logits, s2_hidden, s2_logits)]
        _check_sizes(torch.stack(sizes), draw)
        return tokens

    def _race(self, keys: Sequence[int], step: int, paths: range) -> tuple[Race, Race]:
        """Exponential numbers [R, V] for s1 and for s2."""
        size = max(*self._predictor.sizes, 8)
        race = np.concatenate([exponentials(key, step, paths, 2, size) for key in keys])
        s1_size, s2_size = self._predictor.sizes
        return race[:, 0, :s1_size], race[:, 1, :s2_size]


def _size(rows: Tensor) -> Tensor:
    """Sum [R] of absolute values of rows [R, ...]. Infinity and NaN remain in it."""
    size: Tensor = torch.linalg.vector_norm(rows, 1, dim=1)
    return size


def _check_sizes(sizes: Tensor, draw: Draw) -> None:
    """Raise KronosError unless all sizes are finite and above 0.

    A token drawn from NaN would be a token like any other. A normed row is 0 if its squares
    overflowed, and logits of 0 are equally wrong.
    """
    if not draw.greedy:
        sizes = sizes / draw.temperature  # as `pick` divides the logits
    if not bool((torch.isfinite(sizes) & (sizes > 0)).all()):
        raise overflow_error("hidden rows or logits")


def scales(bars: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation [..., 1, 6] of bars [..., T, 6].

    The mean of a constant column is exactly its value, however large.
    """
    first = bars[..., :1, :]
    moved = bars - first
    mean = first + moved.mean(axis=-2, keepdims=True)
    return mean, moved.std(axis=-2, keepdims=True) + STD_FLOOR


def pick(logits: Tensor, race: Race | None, draw: Draw) -> Tensor:
    """Tokens [R] from logits [R, V] and exponential numbers [R, V].

    The token with the largest probability / exponential number wins, and wins with its probability.
    """
    if race is None or draw.greedy:
        return logits.argmax(dim=1)
    p = torch.softmax(logits / draw.temperature, dim=1).cpu().numpy()
    limited = 0 < draw.top_k < p.shape[1] or draw.top_p < 1
    winners = _allowed_winners(p, race, draw) if limited else (p / race).argmax(axis=1)
    return torch.from_numpy(winners).to(logits.device)


def _allowed_winners(p: Race, race: Race, draw: Draw) -> Tokens:
    """Tokens [R] that win among those that top_k and top_p leave of probabilities [R, V].

    Nothing is sorted. A winner is out if the tokens likelier than it are enough without it. Then
    all tokens that are no likelier are out too, and the likelier ones race again.
    """
    top_k = draw.top_k if 0 < draw.top_k < p.shape[1] else p.shape[1]
    total = p.sum(axis=1) if top_k == p.shape[1] else _sum_of_largest(p, top_k)
    enough = draw.top_p * total
    winners = np.empty(len(p), np.int64)
    rows = np.arange(len(p))
    while len(rows):
        winner = (p / race).argmax(axis=1)
        winners[rows] = winner
        likelier = p > np.take_along_axis(p, winner[:, None], axis=1)
        out = (p * likelier).sum(axis=1) >= enough  # never where a probability is NaN
        out |= likelier.sum(axis=1) >= top_k
        rows, p, race, enough = rows[out], (p * likelier)[out], race[out], enough[out]
    return winners


def _sum_of_largest(p: Race, number: int) -> Race:
    """[R], of the `number` largest entries of each row."""
    largest: Race = np.partition(p, -number, axis=1)[:, -number:].sum(axis=1)
    return largest


@dataclass(frozen=True)
class _Read:
    """What the paths of a group of series share."""

    s1: Tensor  # [G, T]
    s2: Tensor
    times: Tensor  # embeddings [G, T + H, d]
    steps: int
    prefix: Prefix
    decoder: Prefix


def _joined(reads: "Sequence[_Read]") -> "_Read":
    """Several series as one group."""
    if len(reads) == 1:
        return reads[0]
    s1 = torch.cat([read.s1 for read in reads])
    s2 = torch.cat([read.s2 for read in reads])
    times = torch.cat([read.times for read in reads])
    prefix = _joined_prefix([read.prefix for read in reads])
    decoder = _joined_prefix([read.decoder for read in reads])
    return _Read(s1, s2, times, reads[0].steps, prefix, decoder)


def _joined_prefix(prefixes: Sequence[Prefix]) -> Prefix:
    keys, values = [], []
    for layer in range(len(prefixes[0].keys)):
        keys.append(torch.cat([prefix.keys[layer] for prefix in prefixes]))
        values.append(torch.cat([prefix.values[layer] for prefix in prefixes]))
    last = torch.cat([prefix.last for prefix in prefixes])
    return Prefix(keys, values, last)
