"""Training of Kronos on daily bars: the tokenizer, then the predictor."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mlprojects.blocks import loop
from mlprojects.kronos import model, simulated
from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.folders import load_predictor, load_tokenizer, save_official
from mlprojects.kronos.sampler import scales
from mlprojects.kronos.settings import Config, SimulatedConfig, spec
from mlprojects.kronos.shapes import CONFIG, PREDICTOR, TOKENIZER, PredictorConfig, TokenizerConfig
from registry.errors import BadConfig, BadHistory
from registry.forecast import bars, names
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.training import Trained, TrainRun

WITHOUT_VOLUME = (
    0.05  # of the training windows show no volume: histories without it are answered too
)
INVERSE_TEMPERATURE = 1.0  # of the entropies in the tokenizer's loss
SMALLEST = 1e-8
CHOICE_BATCH = 64  # windows


def train(
    history: pd.DataFrame, config: Config | SimulatedConfig, *, name: str, seed: int, run: TrainRun
) -> Trained:
    """Fit windows whose targets end by config.fit_until; choose on those whose targets begin after it."""
    what = spec(name, config)
    if isinstance(config, SimulatedConfig):
        run.report(1)
        return Trained(simulated.Simulator(what), params={"parameters": 0, "simulated": True})
    if config.start_from:
        config = _as_started(config, run.start_dir)
    windows = Windows.of(history, config)
    fingerprint = loop.fingerprint(history, config, seed)
    files = {part: run.checkpoint_dir / part for part in (TOKENIZER, PREDICTOR)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, predictor = _tokenizer(config, run.start_dir), _predictor(config, run.start_dir)
    facts: dict[str, Any] = {}
    offset = 0
    if not config.start_from:
        offset = config.tokenizer_steps
        fitted = loop.fit(
            tokenizer,
            lambda draw: tokenizer_loss(tokenizer, windows.batch(draw, config.batch).scaled),
            lambda: windows.mean(lambda part: tokenizer_loss(tokenizer, part.scaled)),
            _schedule(config, config.tokenizer_steps, config.tokenizer_rate),
            seed=seed, checkpoint=run.checkpoint_dir / "tokenizer.safetensors", fingerprint=fingerprint,
            report=lambda step, losses: run.report(step, **{f"tokenizer_{k}": v for k, v in losses.items()}),
        )  # fmt: skip
        facts |= {"tokenizer_best_step": fitted.best_step}
    tokenizer.eval().requires_grad_(False)
    save_official(tokenizer, files[TOKENIZER])
    fitted = loop.fit(
        predictor,
        lambda draw: predictor_loss(predictor, tokenizer, windows.batch(draw, config.batch)),
        lambda: windows.mean(lambda part: predictor_loss(predictor, tokenizer, part)),
        _schedule(config, config.steps, config.learning_rate),
        seed=seed, checkpoint=run.checkpoint_dir / "predictor.safetensors", fingerprint=fingerprint,
        report=lambda step, losses: run.report(offset + step, **losses),
        should_stop=run.should_stop,
    )  # fmt: skip
    save_official(predictor, files[PREDICTOR])
    parameters = {
        part: sum(p.numel() for p in net.parameters())
        for part, net in (("tokenizer", tokenizer), ("predictor", predictor))
    }
    forecaster = model.Kronos(what, files[PREDICTOR], files[TOKENIZER], config.clip, model.device())
    return Trained(
        forecaster,
        params={
            **facts,
            "best_step": fitted.best_step,
            "parameters": sum(parameters.values()),
            **{f"{part}_parameters": count for part, count in parameters.items()},
        },
        metrics={
            "choice_nats_untrained": fitted.first_loss,
            "choice_nats": fitted.best_loss,
            "tokenizer_error": windows.mean(
                lambda part: reconstruction_error(tokenizer, part.scaled)
            ),
        },
    )


def _schedule(config: Config, steps: int, rate: float) -> loop.Schedule:
    return loop.Schedule(steps, rate, check_every=config.check_every, patience=config.patience)


def _tokenizer(config: Config, start_dir: Path | None) -> Tokenizer:
    if config.start_from:
        return load_tokenizer(_started(start_dir) / TOKENIZER)
    width = config.tokenizer_width
    return Tokenizer(
        TokenizerConfig(
            d_model=width, n_heads=config.heads, ff_dim=2 * width, n_enc_layers=config.tokenizer_layers + 1,
            n_dec_layers=config.tokenizer_layers + 1, s1_bits=config.s1_bits, s2_bits=config.s2_bits,
            group_size=config.group_size,
        )
    )  # fmt: skip


def _predictor(config: Config, start_dir: Path | None) -> Predictor:
    if config.start_from:
        return load_predictor(_started(start_dir) / PREDICTOR)
    return Predictor(
        PredictorConfig(
            s1_bits=config.s1_bits, s2_bits=config.s2_bits, n_layers=config.layers, d_model=config.width,
            n_heads=config.heads, ff_dim=2 * config.width, ffn_dropout_p=config.dropout,
            resid_dropout_p=config.dropout, attn_dropout_p=0.0, token_dropout_p=0.0,
        )
    )  # fmt: skip


def _started(start_dir: Path | None) -> Path:
    if start_dir is None:
        raise BadConfig("start_from is set, but the run has no folder of that version")
    return start_dir


def _as_started(config: Config, start_dir: Path | None) -> Config:
    """The settings with the clip of the version that is started from, whose window must not be exceeded."""
    folder = _started(start_dir)
    window = read_spec(folder).max_context
    if config.max_context > window:
        raise BadConfig(
            f"max_context is {config.max_context}; {config.start_from} has a window of {window} bars and was never "
            "trained beyond"
        )
    return replace(config, clip=json.loads((folder / CONFIG).read_text())["clip"])


# --- windows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Windows of context and targets: scaled bars [B, L + M, 6], stamps [B, L + M, 5]; `context` is L."""

    scaled: Tensor
    stamps: Tensor
    context: int


@dataclass(frozen=True)
class Windows:
    """All windows of a history: the first rows of those to fit, and of those to choose on."""

    values: npt.NDArray[np.float64]  # [rows, 6] of names.BAR
    stamps: npt.NDArray[np.int64]  # [rows, 5]
    fit: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    context: int
    targets: int
    clip: float

    @classmethod
    def of(cls, history: pd.DataFrame, config: Config) -> "Windows":
        """Raises BadHistory when there is nothing to fit or nothing to choose on."""
        columns = [name for name in names.BAR if name in history]
        whole = History.of(history, [names.Y, *columns])
        values, _ = bars.complete(whole.columns)
        stamps = model.stamps(whole.ds.astype("datetime64[D]").astype(np.int64))
        last = np.datetime64(config.fit_until)
        fit, chosen = [], []
        for start, end in zip(whole.bounds[:-1], whole.bounds[1:], strict=True):
            length = config.context + config.targets
            first = np.arange(start, end - length + 1)
            fit.append(first[whole.ds[first + length - 1] <= last])
            later = first[whole.ds[first + config.context] > last]
            chosen.append(later[:: config.horizon])
        found = cls(
            values,
            stamps,
            np.concatenate(fit),
            np.concatenate(chosen),
            config.context,
            config.targets,
            config.clip,
        )
        for part, rows, when in (
            ("fit", found.fit, f"up to {config.fit_until}"),
            ("choose", found.chosen, f"between {config.fit_until} and {config.choose_until}"),
        ):
            if not len(rows):
                raise BadHistory(
                    f"no window of context + targets = {config.context + config.targets} sessions to {part} on "
                    f"{when}; lower context or targets, or move the dates",
                    code="TOO_SHORT",
                )
        return found

    def batch(self, draw: torch.Generator, size: int) -> Batch:
        """Windows to fit, drawn from the generator alone."""
        which = torch.randint(len(self.fit), (size,), generator=draw).numpy()
        blind = (torch.rand(size, generator=draw) < WITHOUT_VOLUME).numpy()
        return self._batch(self.fit[which], blind)

    @torch.no_grad()
    def mean(self, measure: Callable[[Batch], Tensor]) -> float:
        """Mean of a measure over the windows to choose on."""
        parts = [
            self._batch(self.chosen[i : i + CHOICE_BATCH])
            for i in range(0, len(self.chosen), CHOICE_BATCH)
        ]
        weights = [len(part.scaled) for part in parts]
        return float(np.average([measure(part).item() for part in parts], weights=weights))

    def _batch(
        self, first: npt.NDArray[np.int64], blind: npt.NDArray[np.bool_] | None = None
    ) -> Batch:
        rows = first[:, None] + np.arange(self.context + self.targets)
        values = self.values[rows]
        if blind is not None:
            values[blind, :, 4:] = 0.0
        mean, deviation = scales(
            values[:, : self.context]
        )  # nothing later says how a window is scaled
        scaled = np.clip((values - mean) / deviation, -self.clip, self.clip)
        return Batch(
            torch.from_numpy(scaled).float(), torch.from_numpy(self.stamps[rows]), self.context
        )


# --- losses -----------------------------------------------------------------------------------


def tokenizer_loss(tokenizer: Tokenizer, scaled: Tensor) -> Tensor:
    """Reconstruction by all bits and by the first ones alone, and the entropies of binary spherical quantization.

    Zhao, Xiong and Krähenbühl, Image and Video Tokenization with Binary Spherical Quantization (arXiv 2406.07548), eq.
    8 to 10, as Kronos uses it: (MSE of s1 + MSE of all + BSQ) / 2. The entropy of each sample is lowered (a bit is sure
    of itself), that of the codebook, by groups of bits, is raised (all codes are used).
    """
    config = tokenizer.config
    z = tokenizer.project(scaled)
    code = tokenizer.quantize(z)
    coarse = tokenizer.reconstruct(tokenizer.post_quant_embed_pre(code[..., : config.s1_bits]))
    fine = tokenizer.reconstruct(tokenizer.post_quant_embed(code))
    commit = (code.detach() - z).square().sum(dim=-1).mean()
    p = torch.sigmoid(4 * z / tokenizer.bits**0.5 * INVERSE_TEMPERATURE)  # of each bit to be 1
    sure = _entropy(torch.stack([p, 1 - p], dim=-1)).sum(dim=-1).mean()
    grouped = p.unflatten(-1, (-1, config.group_size))
    codes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * config.group_size).reshape(
        -1, config.group_size
    )
    shares = torch.where(codes.bool(), grouped[..., None, :], 1 - grouped[..., None, :]).prod(
        dim=-1
    )
    used = _entropy(shares.flatten(0, -3).mean(dim=0)).sum()
    bsq = (
        config.beta * commit
        + config.zeta * (config.gamma0 * sure - config.gamma * used) / INVERSE_TEMPERATURE
    )
    loss: Tensor = (F.mse_loss(coarse, scaled) + F.mse_loss(fine, scaled) + bsq) / 2
    return loss


def _entropy(p: Tensor) -> Tensor:
    """Nats along the last axis."""
    return -(p * (p + SMALLEST).log()).sum(dim=-1)


def reconstruction_error(tokenizer: Tokenizer, scaled: Tensor) -> Tensor:
    """Mean absolute error of bars that went through their tokens, in deviations of the context."""
    return (tokenizer.decode(*tokenizer.encode(scaled)) - scaled).abs().mean()


def predictor_loss(predictor: Predictor, tokenizer: Tokenizer, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of s1, and of s2 given the true s1, over the targets; nats per token.

    The cross attention is causal and without positions, as it is at inference; upstream trains it with positions and
    with an s1 that the model drew, which leaves s2 nothing to depend on.
    """
    with torch.no_grad():
        s1, s2 = tokenizer.encode(batch.scaled)
    h = predictor.hidden(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1])
    asked = slice(batch.context - 1, None)
    one, two = predictor(h, s1[:, 1:])
    losses = [
        F.cross_entropy(logits[:, asked].flatten(0, 1), tokens[:, 1:][:, asked].flatten())
        for logits, tokens in ((one, s1), (two, s2))
    ]
    return (losses[0] + losses[1]) / 2
