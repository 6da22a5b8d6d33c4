"""Training of Kronos on daily bars: the tokenizer, then the predictor."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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
from mlprojects.kronos.settings import Config, FineTuning, Shared, SimulatedConfig, spec
from mlprojects.kronos.shapes import PREDICTOR, TOKENIZER, PredictorConfig, TokenizerConfig
from registry.errors import BadConfig, BadHistory
from registry.forecast import bars, names
from registry.forecast.history import History
from registry.training import Trained, TrainRun

# Share of training windows without volume, because histories without it are answered too.
WITHOUT_VOLUME = 0.05
INVERSE_TEMPERATURE = 1.0  # of the entropies in the tokenizer's loss
SMALLEST = 1e-8  # added to a probability so that its logarithm stays finite
CHOICE_BATCH = 64  # windows


def train(
    history: pd.DataFrame,
    config: Config | FineTuning | SimulatedConfig,
    *,
    name: str,
    seed: int,
    run: TrainRun,
) -> Trained:
    """Train the tokenizer, then the predictor; fine-tuning trains the predictor alone.

    The simulator needs no training.

    Windows to fit have targets that end by config.fit_until. Windows to choose on have targets
    that begin after it.
    """
    model_spec = spec(name, config)
    if isinstance(config, SimulatedConfig):
        run.report(1)
        simulator = simulated.Simulator(model_spec)
        return Trained(simulator, params={"parameters": 0, "simulated": True})
    windows = Windows.of(history, config)
    fingerprint = loop.fingerprint(history, config, seed)
    tokenizer_dir, predictor_dir = run.checkpoint_dir / TOKENIZER, run.checkpoint_dir / PREDICTOR
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(config, run.start_dir)
        predictor = _predictor(config, run.start_dir)
    params: dict[str, object] = {}
    steps_before = 0
    if isinstance(config, FineTuning):
        params |= _shape_params(tokenizer, predictor)
    else:

        def report_tokenizer(step: int, losses: Mapping[str, float]) -> None:
            run.report(step, **{f"tokenizer_{key}": loss for key, loss in losses.items()})

        steps_before = config.tokenizer_steps
        fitted = loop.fit(
            tokenizer,
            lambda draw: tokenizer_loss(tokenizer, windows.batch(draw, config.batch).scaled),
            lambda: windows.mean(lambda batch: tokenizer_loss(tokenizer, batch.scaled)),
            _schedule(config, config.tokenizer_steps, config.tokenizer_rate),
            seed=seed,
            checkpoint=run.checkpoint_dir / "tokenizer.safetensors",
            fingerprint=fingerprint,
            report=report_tokenizer,
        )
        params["tokenizer_best_step"] = fitted.best_step
    tokenizer.eval().requires_grad_(False)
    save_official(tokenizer, tokenizer_dir)
    fitted = loop.fit(
        predictor,
        lambda draw: predictor_loss(predictor, tokenizer, windows.batch(draw, config.batch)),
        lambda: windows.mean(lambda batch: predictor_loss(predictor, tokenizer, batch)),
        _schedule(config, config.steps, config.learning_rate),
        seed=seed,
        checkpoint=run.checkpoint_dir / "predictor.safetensors",
        fingerprint=fingerprint,
        report=lambda step, losses: run.report(steps_before + step, **losses),
        should_stop=run.should_stop,
    )
    save_official(predictor, predictor_dir)
    tokenizer_parameters = sum(p.numel() for p in tokenizer.parameters())
    predictor_parameters = sum(p.numel() for p in predictor.parameters())
    params |= {
        "best_step": fitted.best_step,
        "parameters": tokenizer_parameters + predictor_parameters,
        "tokenizer_parameters": tokenizer_parameters,
        "predictor_parameters": predictor_parameters,
    }
    metrics = {
        "choice_nats_untrained": fitted.first_loss,
        "choice_nats": fitted.best_loss,
        "tokenizer_error": windows.mean(
            lambda batch: reconstruction_error(tokenizer, batch.scaled)
        ),
    }
    forecaster = model.Kronos(model_spec, predictor_dir, tokenizer_dir, config.clip, model.device())
    return Trained(forecaster, params=params, metrics=metrics)


def _shape_params(tokenizer: Tokenizer, predictor: Predictor) -> dict[str, object]:
    """The shapes of a fine-tuned version as parameters of its run; no setting says them."""
    params = {f"tokenizer.{key}": value for key, value in asdict(tokenizer.config).items()}
    for key, value in asdict(predictor.config).items():
        params[f"predictor.{key}"] = value
    return params


def _schedule(config: Shared, steps: int, rate: float) -> loop.Schedule:
    return loop.Schedule(steps, rate, check_every=config.check_every, patience=config.patience)


def _tokenizer(config: Config | FineTuning, start_dir: Path | None) -> Tokenizer:
    if isinstance(config, FineTuning):
        return load_tokenizer(_require(start_dir) / TOKENIZER)
    shape = TokenizerConfig(
        d_model=config.tokenizer_width,
        n_heads=config.heads,
        ff_dim=2 * config.tokenizer_width,
        n_enc_layers=config.tokenizer_layers + 1,
        n_dec_layers=config.tokenizer_layers + 1,
        s1_bits=config.s1_bits,
        s2_bits=config.s2_bits,
        group_size=config.group_size,
    )
    return Tokenizer(shape)


def _predictor(config: Config | FineTuning, start_dir: Path | None) -> Predictor:
    if isinstance(config, FineTuning):
        return load_predictor(_require(start_dir) / PREDICTOR)
    shape = PredictorConfig(
        s1_bits=config.s1_bits,
        s2_bits=config.s2_bits,
        n_layers=config.layers,
        d_model=config.width,
        n_heads=config.heads,
        ff_dim=2 * config.width,
        ffn_dropout_p=config.dropout,
        resid_dropout_p=config.dropout,
        attn_dropout_p=0.0,
        token_dropout_p=0.0,
    )
    return Predictor(shape)


def _require(start_dir: Path | None) -> Path:
    if start_dir is None:
        raise BadConfig("start_from is set, but the run has no folder of that version")
    return start_dir


# --- windows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Windows of L bars of context and M targets.

    Scaled bars [B, L + M, 6] and stamps [B, L + M, 5]; `context` is L.
    """

    scaled: Tensor
    stamps: Tensor
    context: int


@dataclass(frozen=True)
class Windows:
    """All windows of a history. `fit` and `chosen` hold first rows: to fit, and to choose on."""

    values: npt.NDArray[np.float64]  # [rows, 6] of names.BAR
    stamps: npt.NDArray[np.int64]  # [rows, 5]
    fit: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    context: int
    targets: int
    clip: float

    @classmethod
    def of(cls, history: pd.DataFrame, config: Shared) -> "Windows":
        """Raises BadHistory if no window is left to fit or to choose on."""
        columns = [name for name in names.BAR if name in history]
        series = History.of(history, [names.Y, *columns])
        values, _ = bars.complete(series.columns)
        stamps = model.stamps(series.ds.astype("datetime64[D]").astype(np.int64))
        length = config.context + config.targets
        fit_until = np.datetime64(config.fit_until)
        fit, chosen = [], []
        for start, end in zip(series.bounds[:-1], series.bounds[1:], strict=True):
            first = np.arange(start, end - length + 1)
            last_day = series.ds[first + length - 1]
            fit.append(first[last_day <= fit_until])
            first_target_day = series.ds[first + config.context]
            later = first[first_target_day > fit_until]
            chosen.append(later[:: config.horizon])
        windows = cls(
            values,
            stamps,
            np.concatenate(fit),
            np.concatenate(chosen),
            config.context,
            config.targets,
            config.clip,
        )
        choice_dates = f"between {config.fit_until} and {config.choose_until}"
        for purpose, rows, dates in (
            ("fit", windows.fit, f"up to {config.fit_until}"),
            ("choose", windows.chosen, choice_dates),
        ):
            if not len(rows):
                raise BadHistory(
                    f"no window of context + targets = {length} sessions to {purpose} on {dates}; "
                    "lower max_context or targets, or move the dates",
                    code="TOO_SHORT",
                )
        return windows

    def batch(self, draw: torch.Generator, size: int) -> Batch:
        """Windows to fit. They depend on the generator alone."""
        places = torch.randint(len(self.fit), (size,), generator=draw).numpy()
        blind = (torch.rand(size, generator=draw) < WITHOUT_VOLUME).numpy()
        return self._batch(self.fit[places], blind)

    @torch.no_grad()
    def mean(self, measure: Callable[[Batch], Tensor]) -> float:
        """Mean of a measure over the windows to choose on."""
        starts = range(0, len(self.chosen), CHOICE_BATCH)
        batches = [self._batch(self.chosen[i : i + CHOICE_BATCH]) for i in starts]
        weights = [len(batch.scaled) for batch in batches]
        measured = [measure(batch).item() for batch in batches]
        return float(np.average(measured, weights=weights))

    def _batch(
        self, first: npt.NDArray[np.int64], blind: npt.NDArray[np.bool_] | None = None
    ) -> Batch:
        rows = first[:, None] + np.arange(self.context + self.targets)
        values = self.values[rows]
        if blind is not None:
            values[blind, :, 4:] = 0.0
        # The context alone sets the scale: targets are unknown at inference.
        mean, deviation = scales(values[:, : self.context])
        scaled = np.clip((values - mean) / deviation, -self.clip, self.clip)
        stamps = torch.from_numpy(self.stamps[rows])
        return Batch(torch.from_numpy(scaled).float(), stamps, self.context)


# --- losses -----------------------------------------------------------------------------------


def tokenizer_loss(tokenizer: Tokenizer, scaled: Tensor) -> Tensor:
    """Loss of the tokenizer: (MSE of s1 + MSE of all bits + BSQ) / 2.

    The first MSE reconstructs bars from the s1 bits alone. BSQ, binary spherical quantization, adds
    a commitment and two entropies. It lowers the entropy of each sample, so that bits are certain.
    It raises the entropy of the codebook, by groups of bits, so that all codes are used. Upstream's
    code takes that entropy bit by bit: it overwrites the shares of the groups with those of bits.

    Zhao, Xiong and Krähenbühl, Image and Video Tokenization with Binary Spherical Quantization
    (arXiv 2406.07548), eq. 8 to 10.
    """
    config = tokenizer.config
    z = tokenizer.project(scaled)
    code = tokenizer.quantize(z)
    coarse = tokenizer.reconstruct(tokenizer.post_quant_embed_pre(code[..., : config.s1_bits]))
    fine = tokenizer.reconstruct(tokenizer.post_quant_embed(code))
    commit = (code.detach() - z).square().sum(dim=-1).mean()
    p = torch.sigmoid(4 * z / tokenizer.bits**0.5 * INVERSE_TEMPERATURE)  # of each bit to be 1
    sample_entropy = _entropy(torch.stack([p, 1 - p], dim=-1)).sum(dim=-1).mean()
    grouped = p.unflatten(-1, (-1, config.group_size))[..., None, :]
    bit_values = [torch.tensor([0.0, 1.0])] * config.group_size
    codes = torch.cartesian_prod(*bit_values).reshape(-1, config.group_size)
    shares = torch.where(codes.bool(), grouped, 1 - grouped).prod(dim=-1)
    codebook_entropy = _entropy(shares.flatten(0, -3).mean(dim=0)).sum()
    entropies = config.gamma0 * sample_entropy - config.gamma * codebook_entropy
    bsq = config.beta * commit + config.zeta * entropies / INVERSE_TEMPERATURE
    loss: Tensor = (F.mse_loss(coarse, scaled) + F.mse_loss(fine, scaled) + bsq) / 2
    return loss


def _entropy(p: Tensor) -> Tensor:
    """Nats along the last axis."""
    return -(p * (p + SMALLEST).log()).sum(dim=-1)


def reconstruction_error(tokenizer: Tokenizer, scaled: Tensor) -> Tensor:
    """Mean absolute error of bars decoded from their tokens, in deviations of the context."""
    return (tokenizer.decode(*tokenizer.encode(scaled)) - scaled).abs().mean()


def predictor_loss(predictor: Predictor, tokenizer: Tokenizer, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the targets' s1, and of their s2 given the true s1.

    In nats per token. The cross attention is causal and has no positions, as at inference. Upstream
    trains it with positions and with an s1 drawn by the model, from which s2 can learn nothing.
    """
    with torch.no_grad():
        s1, s2 = tokenizer.encode(batch.scaled)
    h = predictor.hidden(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1])
    s1_logits, s2_logits = predictor(h, s1[:, 1:])
    first = batch.context  # of the targets; each is predicted at the row before it
    s1_loss = F.cross_entropy(s1_logits[:, first - 1 :].flatten(0, 1), s1[:, first:].flatten())
    s2_loss = F.cross_entropy(s2_logits[:, first - 1 :].flatten(0, 1), s2[:, first:].flatten())
    return (s1_loss + s2_loss) / 2
