"""Training of Kronos: windows without the future, losses, refusals, resuming."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from watched import Run

from jobs.data import catalog
from jobs.training import configs, families
from mlprojects.blocks import loop
from mlprojects.kronos import model
from mlprojects.kronos import train as training
from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.folders import load_predictor
from mlprojects.kronos.settings import Config
from mlprojects.kronos.shapes import PredictorConfig, TokenizerConfig
from mlprojects.kronos.train import Windows
from registry.errors import BadConfig, BadHistory
from registry.forecast import names
from registry.settings import Settings


@pytest.fixture(scope="module")
def tiny() -> Config:
    config = configs.load_config(families.find("kronos"), {}, tiny=True)
    assert isinstance(config, Config)
    return config


@pytest.fixture(scope="module")
def history(compiled: Settings, tiny: Config) -> pd.DataFrame:
    """All bars up to the end of the choice period, as training gets them."""
    frame = catalog.BARS.load(compiled).history
    until_choice: pd.DataFrame = frame[frame[names.DS] <= tiny.choose_until].reset_index(drop=True)
    return until_choice


def test_a_window_is_scaled_by_its_context_alone(history: pd.DataFrame, tiny: Config) -> None:
    """Sessions after the context change no token of it, and later sessions no earlier token."""
    windows = Windows.of(history, tiny)
    rows = windows.fit[[100, 5000]]
    batch = windows._batch(rows)
    context, length = tiny.context, tiny.context + tiny.targets
    npt.assert_allclose(batch.scaled[:, :context].mean(dim=1), 0, atol=1e-5)
    changed = replace(windows, values=windows.values.copy())
    for row in rows:
        changed.values[row + context + 2 : row + length] *= 1.2
    changed_batch = changed._batch(rows)
    tokenizer = Tokenizer(TokenizerConfig(d_model=16, n_heads=2, ff_dim=32))
    for tokens, changed_tokens in zip(
        tokenizer.encode(batch.scaled), tokenizer.encode(changed_batch.scaled), strict=True
    ):
        assert torch.equal(tokens[:, : context + 2], changed_tokens[:, : context + 2])
        assert not torch.equal(tokens, changed_tokens)


def test_windows_to_fit_end_in_time_and_windows_to_choose_on_begin_after(
    history: pd.DataFrame, tiny: Config
) -> None:
    windows = Windows.of(history, tiny)
    ds, ids = history[names.DS].to_numpy(), history[names.UNIQUE_ID].to_numpy()
    last = tiny.context + tiny.targets - 1
    assert ds[windows.fit + last].max() <= np.datetime64(tiny.fit_until)
    assert ds[windows.chosen + tiny.context].min() > np.datetime64(tiny.fit_until)
    for rows in (windows.fit, windows.chosen):
        assert (ids[rows] == ids[rows + last]).all()  # never across two series
    assert set(ids[windows.chosen]) == {"AAPL", "GOOG", "IBM", "MSFT", "NASDAQ", "SP500"}


def test_a_batch_depends_on_its_generator_alone(history: pd.DataFrame, tiny: Config) -> None:
    windows = Windows.of(history, tiny)
    draws = [windows.batch(torch.Generator().manual_seed(seed), 200) for seed in (1, 1, 2)]
    assert torch.equal(draws[0].scaled, draws[1].scaled)
    assert not torch.equal(draws[0].scaled, draws[2].scaled)
    blind = (draws[0].scaled[:, :, 4:] == 0).all(dim=(1, 2)).float().mean()
    assert 0 < blind < 0.15  # one in twenty shows no volume


def test_nothing_to_choose_on_and_nothing_to_fit_are_refused(
    history: pd.DataFrame, tiny: Config
) -> None:
    cut = history[history[names.DS] <= tiny.fit_until].reset_index(drop=True)
    with pytest.raises(
        BadHistory, match=r"no window of context .* to choose on between 2009-12-31 and 2010-12-31"
    ):
        Windows.of(cut, tiny)
    with pytest.raises(BadHistory, match="to fit on up to 1999-01-31"):
        Windows.of(history, replace(tiny, fit_until="1999-01-31"))


def test_reconstruction_entropies_and_commitment_by_hand() -> None:
    """A tokenizer whose points are known: two bits, one group."""
    tokenizer = Tokenizer(
        TokenizerConfig(d_model=16, n_heads=2, s1_bits=1, s2_bits=1, group_size=2)
    )
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    z = tokenizer.project(x)
    p = torch.sigmoid(4 * z / 2**0.5)
    sure = -(p * p.log() + (1 - p) * (1 - p).log()).sum(dim=-1).mean()
    a, b = p[..., 0], p[..., 1]
    cells = torch.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b], dim=-1).mean(
        dim=(0, 1)
    )
    used = -(cells * cells.log()).sum()
    corner = torch.where(z > 0, 1.0, -1.0) / 2**0.5
    commit = (corner - z).square().sum(dim=-1).mean()
    fine = F.mse_loss(tokenizer.decode(*tokenizer.encode(x)), x)
    coarse = F.mse_loss(tokenizer.reconstruct(tokenizer.post_quant_embed_pre(corner[..., :1])), x)
    expected = (coarse + fine + 0.05 * commit + 0.05 * (sure - 1.1 * used)) / 2
    npt.assert_allclose(training.tokenizer_loss(tokenizer, x).item(), expected.item(), rtol=1e-5)


def test_only_targets_are_learnt(history: pd.DataFrame, tiny: Config) -> None:
    """Cross entropies of s1 and s2 at the last M positions, one by one."""
    windows = Windows.of(history, tiny)
    batch = windows.batch(torch.Generator().manual_seed(1), 4)
    tokenizer = Tokenizer(
        TokenizerConfig(d_model=16, n_heads=2, ff_dim=32, s1_bits=4, s2_bits=4)
    ).eval()
    predictor = Predictor(
        PredictorConfig(d_model=16, n_heads=2, ff_dim=32, n_layers=1, s1_bits=4, s2_bits=4)
    ).eval()
    s1, s2 = tokenizer.encode(batch.scaled)
    nats = []
    for t in range(tiny.context, tiny.context + tiny.targets):
        h = predictor.hidden(s1[:, :t], s2[:, :t], batch.stamps[:, :t])
        nats.append(F.cross_entropy(predictor.s1_logits(h), s1[:, t]))
        nats.append(F.cross_entropy(predictor.s2_logits(h, s1[:, t]), s2[:, t]))
    npt.assert_allclose(
        training.predictor_loss(predictor, tokenizer, batch).item(),
        torch.stack(nats).mean().item(),
        rtol=1e-5,
    )


def test_fine_tuning_at_a_ruinous_rate_ends_no_worse_than_it_began(
    history: pd.DataFrame, tiny: Config, tmp_path: Path
) -> None:
    config = replace(tiny, learning_rate=0.9)
    measured = training.train(history, config, name="kronos", seed=1, run=Run(tmp_path)).metrics
    assert measured["choice_nats"] <= measured["choice_nats_untrained"]


def test_the_largest_seed_trains(history: pd.DataFrame, tiny: Config, tmp_path: Path) -> None:
    measured = training.train(
        history, tiny, name="kronos", seed=2**32 - 1, run=Run(tmp_path)
    ).metrics
    assert np.isfinite(measured["choice_nats"])


def test_a_fingerprint_knows_seed_settings_and_history(history: pd.DataFrame, tiny: Config) -> None:
    fingerprints = {
        loop.fingerprint(history, tiny, 1),
        loop.fingerprint(history, tiny, 2),
        loop.fingerprint(history, replace(tiny, learning_rate=0.1), 1),
        loop.fingerprint(history.assign(volume=history["volume"] + 1), tiny, 1),
    }
    assert len(fingerprints) == 4
    assert loop.fingerprint(history.copy(), tiny, 1) in fingerprints


def test_windows_are_clipped_and_those_to_choose_on_are_a_horizon_apart(
    history: pd.DataFrame, tiny: Config
) -> None:
    windows = Windows.of(history, replace(tiny, clip=1.5))
    batch = windows.batch(torch.Generator().manual_seed(1), 50)
    assert batch.scaled.abs().max() == 1.5
    gaps = np.diff(windows.chosen)
    assert (gaps[gaps < 250] == tiny.horizon).all()


@pytest.mark.parametrize("given_up", [3, 9], ids=["in-the-tokenizer", "in-the-predictor"])
def test_a_given_up_training_resumes_to_the_same_files(
    history: pd.DataFrame, tiny: Config, tmp_path: Path, given_up: int
) -> None:
    config = replace(tiny, tokenizer_steps=6, steps=9, patience=50)
    uninterrupted = Run(tmp_path / "whole")
    training.train(history, config, name="kronos", seed=1, run=uninterrupted)
    losses = {"train_loss", "valid_loss", "tokenizer_train_loss", "tokenizer_valid_loss"}
    assert uninterrupted.names == losses
    cut = Run(tmp_path / "cut", give_up_at=given_up)
    training.train(history, config, name="kronos", seed=1, run=cut)
    # Only the predictor is given up: half a tokenizer would give it other tokens.
    assert cut.steps[-1] == 9
    resumed = Run(tmp_path / "cut")
    training.train(history, config, name="kronos", seed=1, run=resumed)
    assert resumed.steps[0] > 9  # it repeats neither the tokenizer nor the start of the predictor
    for part in ("predictor", "tokenizer"):
        files = [tmp_path / run / part / "model.safetensors" for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_fine_tuning_keeps_the_tokenizer_and_moves_the_predictor(
    history: pd.DataFrame, tiny: Config, tmp_path: Path
) -> None:
    first = training.train(
        history, tiny, name="kronos", seed=1, run=Run(tmp_path / "first")
    ).forecaster
    first = replace(first, clip=4.0)
    model.save(first, _made(tmp_path / "version"))
    (tmp_path / "version" / "spec.json").write_text(json.dumps(first.spec.to_json()))
    config = replace(tiny, start_from="kronos/1", tokenizer_steps=0)
    wide = replace(config, max_context=41)
    with pytest.raises(
        BadConfig, match="expected at most 40, the window that kronos/1 was trained with"
    ):
        training.train(
            history, wide, name="kronos", seed=1, run=Run(tmp_path / "wide", tmp_path / "version")
        )
    run = Run(tmp_path / "tuned", start_dir=tmp_path / "version")
    tuned = training.train(history, config, name="kronos", seed=1, run=run)
    assert tuned.forecaster.clip == 4.0  # type: ignore[attr-defined]
    assert tuned.metrics["choice_nats"] < tuned.metrics["choice_nats_untrained"]
    weights = "model.safetensors"
    tokenizers = (tmp_path / "tuned/tokenizer" / weights, tmp_path / "first/tokenizer" / weights)
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    predictors = (
        load_predictor(tmp_path / part / "predictor").norm.weight for part in ("tuned", "first")
    )
    assert not torch.equal(*predictors)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_context": 20}, "max_context is 20, expected 37 or more"),
        ({"targets": 4}, r"targets is 4, expected the horizon \(5\)"),
        ({"tokenizer_steps": 0}, "there is no tokenizer to start from"),
        ({"width": 20}, "width is 20, expected a multiple of 8"),
        ({"batch": 0}, "batch is 0"),
        ({"group_size": 3}, "group_size is 3, expected a divisor of the 8 bits"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(
    tiny: Config, change: dict[str, object], message: str
) -> None:
    with pytest.raises(BadConfig, match=message):
        replace(tiny, **change)
