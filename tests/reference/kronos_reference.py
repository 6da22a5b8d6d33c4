"""Kronos sampled the plain way of upstream: every step of every sample reads the whole window.

Tests and benchmark compare with it. It shares only the modules and the random numbers with the
sampler.
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

    `steps`: stop after this many steps (the benchmark times a few in the middle).
    """
    n, length, _ = bars.shape
    horizon = stamps.shape[1] - length
    mean, std = bars.mean(axis=1, keepdims=True), bars.std(axis=1, keepdims=True)
    scaled = np.clip((bars - mean) / (std + 1e-5), -clip, clip)
    dtype = tokenizer.head.weight.dtype
    # Every sample has its own copy of the window.
    x = torch.from_numpy(scaled).to(dtype).repeat_interleave(paths, dim=0)
    all_stamps = torch.from_numpy(stamps).repeat_interleave(paths, dim=0)
    s1, s2 = tokenizer.encode(x)
    sizes = 2**predictor.config.s1_bits, 2**predictor.config.s2_bits
    for step in range(horizon if steps is None else steps):
        end = length + step
        window = slice(max(0, end - max_context), end)
        h = predictor.hidden(s1[:, window], s2[:, window], all_stamps[:, window])
        numbers = np.concatenate(
            [exponentials(key, step, range(paths), 2, max(sizes)) for key in keys]
        )
        race = torch.from_numpy(numbers)
        # Upstream computes the logits of every position and uses the last.
        logits_s1 = predictor.head.proj_s1(h)[:, -1]
        next_s1 = _pick(logits_s1, race[:, 0, : sizes[0]], temperature, top_k, top_p)
        x2 = predictor.dep_layer(h, predictor.embedding.emb_s1(next_s1)[:, None], causal=False)
        x2 = x2.expand(-1, h.shape[1], -1)
        logits_s2 = predictor.head.proj_s2(x2)[:, -1]
        next_s2 = _pick(logits_s2, race[:, 1, : sizes[1]], temperature, top_k, top_p)
        s1 = torch.cat([s1, next_s1[:, None]], dim=1)
        s2 = torch.cat([s2, next_s2[:, None]], dim=1)
    window = slice(max(0, s1.shape[1] - max_context), s1.shape[1])
    z = tokenizer.decode(s1[:, window], s2[:, window])[:, -(s1.shape[1] - length) :]
    out = z.double().numpy().reshape(n, paths, -1, bars.shape[2])
    tokens = torch.stack([s1, s2], dim=2)[:, length:].reshape(n, paths, -1, 2)
    return out * (std + 1e-5)[:, None] + mean[:, None], tokens.numpy()


def _pick(logits: Tensor, race: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Tokens [R]: sort all probabilities and zero those that top_k and top_p exclude."""
    if temperature == 0:
        return logits.argmax(dim=1)
    p = torch.softmax(logits / temperature, dim=1)
    values, order = p.sort(dim=1, descending=True)
    if top_k:
        values[:, top_k:] = 0
    if top_p < 1:
        before = values.cumsum(dim=1) - values
        values[before >= top_p * values.sum(dim=1, keepdim=True)] = 0
    allowed = torch.zeros_like(p).scatter_(1, order, values)
    return (allowed / race).argmax(dim=1)
