"""Kronos sampled the plain way, as upstream does it: the whole window again for every step of every sample.

The yardstick of tests and benchmark. It shares the modules with the sampler, and nothing else but the random numbers.
"""

import numpy as np
import torch
from torch import Tensor

from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.keys import exponentials


@torch.inference_mode()
def sample(
    tokenizer: Tokenizer,
    predictor: Predictor,
    bars: np.ndarray,
    stamps: np.ndarray,
    keys: list[int],
    paths: int,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    max_context: int,
    clip: float = 5.0,
    steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Bars [N, S, H, 6] and tokens [N, S, H, 2] of histories [N, T, 6] with stamps [N, T + H, 5].

    `steps` stops after so many (the benchmark times a few in the middle).
    """
    n, length, _ = bars.shape
    horizon = stamps.shape[1] - length
    mean, std = bars.mean(axis=1, keepdims=True), bars.std(axis=1, keepdims=True)
    scaled = np.clip((bars - mean) / (std + 1e-5), -clip, clip)
    dtype = tokenizer.head.weight.dtype
    x = (
        torch.from_numpy(scaled).to(dtype).repeat_interleave(paths, dim=0)
    )  # every sample its own copy
    when = torch.from_numpy(stamps).repeat_interleave(paths, dim=0)
    s1, s2 = tokenizer.encode(x)
    for step in range(horizon if steps is None else steps):
        end = length + step
        window = slice(max(0, end - max_context), end)
        h = predictor.hidden(s1[:, window], s2[:, window], when[:, window])
        sizes = 2**predictor.config.s1_bits, 2**predictor.config.s2_bits
        numbers = np.concatenate(
            [exponentials(key, step, range(paths), 2, max(sizes)) for key in keys]
        )
        race = torch.from_numpy(numbers)
        logits = predictor.head.proj_s1(h)[
            :, -1
        ]  # upstream computes every position and uses the last
        one = _pick(logits, race[:, 0, : sizes[0]], temperature, top_k, top_p)
        x2 = predictor.dep_layer(h, predictor.embedding.emb_s1(one)[:, None], causal=False)
        x2 = x2.expand(-1, h.shape[1], -1)
        two = _pick(
            predictor.head.proj_s2(x2)[:, -1], race[:, 1, : sizes[1]], temperature, top_k, top_p
        )
        s1, s2 = torch.cat([s1, one[:, None]], dim=1), torch.cat([s2, two[:, None]], dim=1)
    window = slice(max(0, s1.shape[1] - max_context), s1.shape[1])
    z = tokenizer.decode(s1[:, window], s2[:, window])[:, -(s1.shape[1] - length) :]
    out = z.double().numpy().reshape(n, paths, -1, bars.shape[2])
    tokens = torch.stack([s1, s2], dim=2)[:, length:].reshape(n, paths, -1, 2)
    return out * (std + 1e-5)[:, None] + mean[:, None], tokens.numpy()


def _pick(logits: Tensor, race: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Tokens [R], by sorting all of them and crossing out the rest."""
    if temperature == 0:
        return logits.argmax(dim=1)
    p = torch.softmax(logits / temperature, dim=1)
    values, order = p.sort(dim=1, descending=True)
    if top_k:
        values[:, top_k:] = 0
    if top_p < 1:
        before = values.cumsum(dim=1) - values
        values[before >= top_p * values.sum(dim=1, keepdim=True)] = 0
    kept = torch.zeros_like(p).scatter_(1, order, values)
    return (kept / race).argmax(dim=1)
