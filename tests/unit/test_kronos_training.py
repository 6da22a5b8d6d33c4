"""Training of Kronos: windows without the future, losses, refusals, resuming."""

import shutil
from dataclasses import fields, replace
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
from jobs.tuning import space
from mlprojects.blocks import loop
from mlprojects.kronos import model, settings
from mlprojects.kronos import train as training
from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.folders import load_predictor, save_official
from mlprojects.kronos.settings import Config, FineTuning, SimulatedConfig
from mlprojects.kronos.shapes import PredictorConfig, TokenizerConfig
from mlprojects.kronos.simulated import Simulator
from mlprojects.kronos.train import Windows
from registry.errors import BadConfig, BadHistory, BadParameter
from registry.forecast import names
from registry.forecast.model_folder import read_spec, save_forecaster, write_spec
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
    save_forecaster(replace(first, clip=4.0), tmp_path / "version")
    config = fine_tuning(tmp_path / "version", tiny=True, learning_rate=2e-3)
    run = Run(tmp_path / "tuned", start_dir=tmp_path / "version")
    tuned = training.train(history, config, name="kronos", seed=1, run=run)
    assert tuned.forecaster.clip == 4.0  # type: ignore[attr-defined]
    assert tuned.forecaster.spec == first.spec
    shape = {"tokenizer.d_model": 16, "predictor.n_layers": 1, "predictor.ffn_dropout_p": 0.1}
    assert {key: tuned.params[key] for key in shape} == shape
    assert tuned.metrics["choice_nats"] < tuned.metrics["choice_nats_untrained"]
    weights = "model.safetensors"
    tokenizers = (tmp_path / "tuned/tokenizer" / weights, tmp_path / "first/tokenizer" / weights)
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    predictors = (
        load_predictor(tmp_path / part / "predictor").norm.weight for part in ("tuned", "first")
    )
    assert not torch.equal(*predictors)


def fine_tuning(start_dir: Path, *, tiny: bool = False, **overrides: object) -> FineTuning:
    """Settings of a fine-tune of the version in `start_dir`, in a shell with KRONOS_MAX_CONTEXT."""
    config = configs.load_config(
        families.find("kronos"),
        {"start_from": "kronos/1"} | overrides,
        tiny=tiny,
        defaults={"max_context": 48},
        start_dir=start_dir,
    )
    assert isinstance(config, FineTuning)
    return config


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a mirrored version, with random weights."""
    folder = tmp_path_factory.mktemp("official")
    with torch.random.fork_rng():
        save_official(Predictor(PredictorConfig(d_model=16, n_heads=2)), folder / "p")
        save_official(Tokenizer(TokenizerConfig(d_model=16, n_heads=2)), folder / "t")
    kronos = model.from_official(
        folder / "p", folder / "t", name="kronos", max_context=70, clip=3.0
    )
    levels = replace(kronos.spec, levels=(0.1, 0.5, 0.9))
    save_forecaster(replace(kronos, spec=levels), folder / "version")
    return folder / "version"


@pytest.mark.parametrize("is_tiny", [False, True], ids=["whole", "tiny"])
def test_a_fine_tune_inherits_what_it_does_not_set(official: Path, is_tiny: bool) -> None:
    config = fine_tuning(official, tiny=is_tiny)
    assert (config.max_context, config.horizon, config.clip) == (70, 38, 3.0)
    assert (config.anchor, config.num_samples, config.levels) == (False, 100, (0.1, 0.5, 0.9))
    assert config.targets == config.horizon
    assert (config.steps, config.report_every) == ((6, 40) if is_tiny else (500, 5))
    assert config.max_steps == config.steps


def test_a_start_that_states_one_bar_less_for_its_horizon_can_be_fine_tuned(
    official: Path, tmp_path: Path
) -> None:
    """As kronos did before the decoder kept the whole history."""
    shutil.copytree(official, tmp_path / "older")
    older = replace(read_spec(official), max_context=36, max_horizon=5)
    write_spec(older, tmp_path / "older")
    config = fine_tuning(tmp_path / "older")
    assert (config.max_context, config.horizon, config.context) == (37, 5, 32)


def test_a_fine_tuned_official_version_needs_and_answers_what_its_start_did(
    history: pd.DataFrame, official: Path, tmp_path: Path
) -> None:
    config = fine_tuning(official, tiny=True, steps=2, batch=2)
    run = Run(tmp_path, start_dir=official)
    tuned = training.train(history, config, name="kronos", seed=1, run=run)
    assert tuned.forecaster.spec == read_spec(official)


def test_what_a_fine_tune_sets_wins(official: Path) -> None:
    chosen = {"max_context": "60", "horizon": "5", "clip": "4", "anchor": "true", "levels": "0.5"}
    config = fine_tuning(official, **chosen)
    assert (config.max_context, config.horizon, config.clip) == (60, 5, 4.0)
    assert (config.anchor, config.levels, config.targets) == (True, (0.5,), 16)


@pytest.mark.parametrize(
    "key",
    sorted({field.name for field in fields(Config)} - {field.name for field in fields(FineTuning)}),
)
def test_a_fine_tune_refuses_what_its_start_decides(official: Path, key: str) -> None:
    message = f"{key} cannot be set with start_from: the version that it names decides that"
    with pytest.raises(BadConfig, match=message):
        fine_tuning(official, **{key: "8"})


def test_a_misspelt_setting_of_a_fine_tune_is_unknown(official: Path) -> None:
    with pytest.raises(BadParameter, match="kronos has no setting widht; it has ") as caught:
        fine_tuning(official, widht="8")
    assert caught.value.code == "UNKNOWN_PARAM"


def test_a_simulator_is_no_start(tmp_path: Path) -> None:
    simulated = SimulatedConfig(
        kind="simulated",
        data="bars",
        calendar="XNYS",
        fit_until="2009-12-31",
        choose_until="2010-12-31",
    )
    simulator = Simulator(settings.spec("kronos_simulated", simulated))
    save_forecaster(simulator, tmp_path / "version")
    with pytest.raises(BadConfig, match="start_from names a simulator, which has no weights"):
        fine_tuning(tmp_path / "version")


def test_a_study_of_a_fine_tune_searches_no_shape(official: Path) -> None:
    searched = space.space(families.find("kronos"), fine_tuning(official), ("start_from",))
    assert set(searched) == {"learning_rate", "batch"}


def test_the_two_kinds_of_training_are_not_mixed(tiny: Config, official: Path) -> None:
    with pytest.raises(BadConfig, match="'kronos/1', which goes with fine_tuning"):
        replace(tiny, start_from="kronos/1")
    with pytest.raises(BadConfig, match="kind is fine_tuning, expected start_from"):
        replace(fine_tuning(official), start_from="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_context": 20}, "max_context is 20, expected 37 or more"),
        ({"targets": 4}, r"targets is 4, expected the horizon \(5\)"),
        ({"tokenizer_steps": 0}, "tokenizer_steps is 0, expected 1 or more"),
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
