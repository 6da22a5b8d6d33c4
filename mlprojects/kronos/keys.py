"""Random numbers that belong to a path and a step: asking for more of either changes none of those before."""

import hashlib

import numpy as np
import numpy.typing as npt

from registry.forecast.arrays import Floats

BLOCK = 64  # steps; changing it changes every path ever drawn


def series_key(seed: int, unique_id: str, cutoff: np.datetime64) -> int:
    """128 bits for the paths of one series after one cutoff: sha256 of seed, session date and symbol."""
    text = f"{seed} {cutoff.astype('datetime64[D]')} {unique_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def uniforms(key: int, paths: int, steps: int, per_step: int) -> Floats:
    """Numbers in [0, 1), [paths, steps, per_step], from the 128 bits of `key`.

    Those of path s at step h depend on (key, s, h) and per_step only, which is fixed for a model: Philox (Salmon et
    al., SC11) counts from a place of its own for every block of 64 steps, in which each path has a row of fixed width.
    Raw words, of which NumPy promises that they never change; the upper 53 bits of each are the number.
    """
    width = BLOCK * per_step
    words = [
        np.random.Philox(key=key, counter=block << 192)
        .random_raw(paths * width)
        .reshape(paths, BLOCK, per_step)
        for block in range(-(-steps // BLOCK))
    ]
    upper = np.concatenate(words, axis=1)[:, :steps] >> np.uint64(11)
    return upper.astype(np.float64) * 2.0**-53


def exponentials(
    key: int, step: int, paths: range, per_step: int, size: int
) -> npt.NDArray[np.float32]:
    """Standard exponential numbers [P, per_step, size] of one step: a race of `size` tokens for every draw.

    The token with the largest p / e wins with probability p. A race decides the same after rounding in p unless the two
    foremost are equal to that rounding, while the inverse of a distribution function has `size` edges to fall off.
    Numbers of path s depend on (key, step, s), per_step and size only; size is a multiple of 8. 23 bits each.
    """
    words = per_step * size // 2  # of 64 bits, for a path; Philox counts in fours
    place = (1 << 255) + (step << 192) + paths.start * words // 4  # apart from those of `uniforms`
    drawn = np.random.Philox(key=key, counter=place).random_raw(len(paths) * words).view(np.uint32)
    u = ((drawn >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(
        2.0**-23
    )  # never 0, never 1
    raced: npt.NDArray[np.float32] = -np.log(u).reshape(len(paths), per_step, size)
    return raced
