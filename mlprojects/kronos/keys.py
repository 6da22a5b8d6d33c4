"""Random numbers for each path and step; more paths or steps never change the earlier numbers."""

import hashlib
import math

import numpy as np
import numpy.typing as npt

from registry.forecast.arrays import Floats

BLOCK = 64  # steps; changing it changes every path ever drawn


def series_key(seed: int, unique_id: str, cutoff: np.datetime64) -> int:
    """128 bits for the paths of a series after a cutoff.

    They are the start of the sha256 of seed, session date and symbol.
    """
    text = f"{seed} {cutoff.astype('datetime64[D]')} {unique_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def uniforms(key: int, paths: int, steps: int, per_step: int) -> Floats:
    """Numbers in [0, 1), [paths, steps, per_step], from the 128 bits of `key`.

    The numbers of path s at step h depend only on (key, s, h) and on per_step, which is fixed for a
    model. The generator is Philox (Salmon et al., SC11). Each block of 64 steps has its own counter
    range, and in it each path has a row of fixed width. The code takes the upper 53 bits of raw
    words, because NumPy promises that raw words never change.
    """
    width = BLOCK * per_step
    blocks = []
    for block in range(math.ceil(steps / BLOCK)):
        philox = np.random.Philox(key=key, counter=block << 192)
        words = philox.random_raw(paths * width)
        blocks.append(words.reshape(paths, BLOCK, per_step))
    upper = np.concatenate(blocks, axis=1)[:, :steps] >> np.uint64(11)
    return upper.astype(np.float64) * 2.0**-53


def exponentials(
    key: int, step: int, paths: range, per_step: int, size: int
) -> npt.NDArray[np.float32]:
    """Standard exponential numbers [P, per_step, size] of one step, of 23 bits each.

    Each draw is a race of `size` tokens: the token with the largest p / e wins, with probability p.
    Rounding in p changes the winner only if the two best are equal up to that rounding. Inverting a
    distribution function would have `size` edges where rounding can change the token.

    The numbers of path s depend only on (key, step, s), per_step and size, a multiple of 8.
    """
    words = per_step * size // 2  # of 64 bits, for a path; Philox counts in fours
    # 1 << 255 keeps the counters apart from those of `uniforms`.
    counter = (1 << 255) + (step << 192) + paths.start * words // 4
    philox = np.random.Philox(key=key, counter=counter)
    drawn = philox.random_raw(len(paths) * words).view(np.uint32)
    upper = (drawn >> np.uint32(9)).astype(np.float32)
    u = (upper + np.float32(0.5)) * np.float32(2.0**-23)  # never 0, never 1
    numbers: npt.NDArray[np.float32] = -np.log(u).reshape(len(paths), per_step, size)
    return numbers
