"""Kronos behind the contract: bars in, sampled bars and their quantiles out, and refusals."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.data import catalog
from mlprojects.kronos import model
from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.folders import load_predictor, load_tokenizer, save_official
from mlprojects.kronos.keys import series_key
from mlprojects.kronos.model import Kronos
from mlprojects.kronos.sampler import Draw, Sampled, Sampler
from mlprojects.kronos.shapes import SIZES, PredictorConfig, TokenizerConfig
from registry.errors import BadConfig, BadHistory, Corrupt, KronosError
from registry.forecast import bars as bars_module
from registry.forecast import calendars, names
from registry.forecast.answer import forecast_of
from registry.forecast.bars import correct
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.settings import CHECKOUT, Settings

CUT = pd.Timestamp("2012-06-14")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official files with tiny random weights."""
    folder = tmp_path_factory.mktemp("official")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_official(Predictor(PredictorConfig(d_model=32, ff_dim=48, n_layers=2)), folder / "p")
        save_official(
            Tokenizer(TokenizerConfig(d_model=32, ff_dim=48, n_enc_layers=2, n_dec_layers=2)),
            folder / "t",
        )
    return folder


@pytest.fixture(scope="module")
def kronos(official: Path) -> Kronos:
    return model.from_official(official / "p", official / "t", name="kronos", max_context=128)


@pytest.fixture(scope="module")
def bars(compiled: Settings) -> pd.DataFrame:
    """The last 120 real bars of three series up to CUT."""
    frame = catalog.BARS.load(compiled).history
    until_cut = frame[
        frame[names.UNIQUE_ID].isin(["AAPL", "IBM", "SP500"]) & (frame[names.DS] <= CUT)
    ]
    columns = [*names.HISTORY, *names.BAR]
    return until_cut.groupby(names.UNIQUE_ID).tail(60)[columns].reset_index(drop=True)


def ask(
    kronos: Kronos, frame: pd.DataFrame, *, horizon: int = 5, seed: int = 0, **options: Any
) -> Forecast:
    request = kronos.spec.request({"horizon": horizon, "seed": seed, "num_samples": 20} | options)
    return forecast_of(kronos, check_history(frame, kronos.spec), request)


def test_forecast_holds_possible_bars_and_their_quantiles(
    kronos: Kronos, bars: pd.DataFrame
) -> None:
    forecast = ask(kronos, bars)
    assert forecast.price_paths is not None
    assert forecast.paths is not None
    assert forecast.price_paths.shape == (3, 20, 5, 6)
    opened, high, low, close, volume, amount = np.moveaxis(forecast.price_paths, 3, 0)
    assert (low <= np.minimum(opened, close)).all()
    assert (high >= np.maximum(opened, close)).all()
    assert (low > 0).all()
    assert (volume >= 0).all()
    assert (amount >= 0).all()
    last = bars.groupby("unique_id")["close"].last().to_numpy()
    npt.assert_allclose(
        forecast.paths[:, :, 0], np.log(close[:, :, 0] / last[:, None]), rtol=0, atol=1e-12
    )
    npt.assert_allclose(
        forecast.paths[:, :, 1], np.log(close[:, :, 1] / close[:, :, 0]), rtol=0, atol=1e-12
    )
    npt.assert_allclose(
        forecast.quantiles[..., 5], np.median(forecast.paths, axis=1), rtol=0, atol=1e-12
    )
    assert (
        (forecast.measured["bars_corrected"] >= 0) & (forecast.measured["bars_corrected"] <= 1)
    ).all()


def test_series_of_unequal_lengths_are_forecast_as_if_alone(
    kronos: Kronos, bars: pd.DataFrame
) -> None:
    shorter = bars[
        (bars["unique_id"] != "IBM") | (bars["ds"] > bars["ds"].unique()[20])
    ].reset_index(drop=True)
    together = ask(kronos, shorter)
    for i, name in enumerate(("AAPL", "IBM", "SP500")):
        alone = ask(kronos, shorter[shorter["unique_id"] == name].reset_index(drop=True))
        npt.assert_array_equal(alone.price_paths[0], together.price_paths[i])  # type: ignore[index]


def test_seed_symbol_and_cutoff_decide_the_draws(kronos: Kronos, bars: pd.DataFrame) -> None:
    ibm = bars[bars["unique_id"] == "IBM"].reset_index(drop=True)
    first = ask(kronos, ibm)
    npt.assert_array_equal(ask(kronos, ibm).price_paths, first.price_paths)
    assert not np.array_equal(ask(kronos, ibm, seed=1).price_paths, first.price_paths)
    assert not np.array_equal(
        ask(kronos, ibm.assign(unique_id="MBI")).price_paths, first.price_paths
    )


def test_missing_amount_and_volume_are_filled_and_said(kronos: Kronos, bars: pd.DataFrame) -> None:
    derived = ask(kronos, bars.drop(columns="amount"))
    assert derived.notes["amount"] == "amount was missing and taken as mean price x volume"
    # The built-in amount is mean price x volume, too.
    npt.assert_array_equal(derived.price_paths, ask(kronos, bars).price_paths)
    blind = ask(kronos, bars.drop(columns=["amount", "volume"]))
    assert blind.notes["volume"] == "volume was missing and taken as 0"
    zeros = ask(kronos, bars.assign(volume=0.0, amount=0.0))
    npt.assert_array_equal(blind.price_paths, zeros.price_paths)
    # Upstream sets an amount without volume to 0.
    half_blind = ask(kronos, bars.drop(columns="volume"))
    assert half_blind.notes["amount"] == "amount was sent without volume, so it was taken as 0"
    npt.assert_array_equal(half_blind.price_paths, zeros.price_paths)


@pytest.mark.parametrize("low", [-3.0, 1.0], ids=["possible", "impossible"])
def test_a_large_share_of_corrected_bars_is_said(
    official: Path, bars: pd.DataFrame, tmp_path: Path, low: float
) -> None:
    """Every decoded bar is open 0, high 3, low -3 or 1, close 0, in units of the scale."""
    tokenizer = load_tokenizer(official / "t")
    with torch.no_grad():
        tokenizer.head.weight.zero_()
        tokenizer.head.bias.copy_(torch.tensor([0.0, 3.0, low, 0.0, 1.0, 1.0]))
    save_official(tokenizer, tmp_path)
    kronos = model.from_official(official / "p", tmp_path, name="kronos", max_context=128)
    forecast = ask(kronos, bars)
    npt.assert_array_equal(forecast.measured["bars_corrected"], float(low > 0))
    expected = "3 of 3 series: more than 50% of the sampled bars were impossible"
    assert forecast.notes.get("corrected", "").startswith(expected) == (low > 0)
    assert ("corrected" in forecast.notes) == (low > 0)


def test_a_longer_history_is_cut_and_the_reply_says_so(official: Path, bars: pd.DataFrame) -> None:
    small = model.from_official(official / "p", official / "t", name="kronos", max_context=64)
    used = 64 - small.spec.max_horizon
    cut = ask(small, bars)
    assert cut.notes["truncated"] == f"only the last {used} bars of a history were looked at"
    tail = bars.groupby("unique_id").tail(used).reset_index(drop=True)
    npt.assert_array_equal(ask(small, tail).price_paths, cut.price_paths)
    assert "truncated" not in ask(small, tail).notes
    exact = ask(small, bars, overflow="exact")
    assert "truncated" not in exact.notes
    assert not np.array_equal(exact.price_paths, cut.price_paths)


def direct(
    kronos: Kronos, frame: pd.DataFrame, draw: Draw, *, seed: int, paths: int, **arguments: Any
) -> Sampled:
    """The result of a direct call of the sampler for one series."""
    values = frame[list(names.BAR)].to_numpy()[None]
    cutoff = frame["ds"].iloc[-1].to_datetime64().astype("datetime64[D]")
    future = calendars.next_sessions("XNYS", frame["ds"].iloc[-1], 5).to_numpy()
    days = np.concatenate([frame["ds"].to_numpy(), future]).astype("datetime64[D]").astype(np.int64)
    key = series_key(seed, str(frame["unique_id"].iloc[0]), cutoff)
    sampler = Sampler(
        load_tokenizer(kronos.tokenizer_dir),
        load_predictor(kronos.predictor_dir),
        max_context=128,
        clip=kronos.clip,
        products=arguments.pop("products", None),
    )
    stamps = model.stamps(days)[None]
    room = kronos.spec.max_horizon
    return sampler.sample(values, stamps, [key], paths, draw, room=room, **arguments)


@pytest.mark.parametrize(
    ("options", "draw", "arguments"),
    [
        ({}, Draw(), {}),
        ({"temperature": 0.5, "top_k": 40, "top_p": 0.7}, Draw(0.5, 40, 0.7), {}),
        ({"precision": "bf16"}, Draw(), {"products": torch.bfloat16}),
        ({"overflow": "exact"}, Draw(), {"overflow": "exact"}),
        ({"num_samples": 3}, Draw(), {"group": 10}),
    ],
    ids=str,
)
def test_options_reach_the_sampler_with_the_dates_of_sessions(
    official: Path,
    bars: pd.DataFrame,
    options: dict[str, Any],
    draw: Draw,
    arguments: dict[str, Any],
) -> None:
    """2012-06-14 was a Thursday, and the fifth session after it is a Thursday again."""
    kronos = model.from_official(
        official / "p", official / "t", name="kronos", max_context=128, clip=2.0
    )
    ibm = bars[bars["unique_id"] == "IBM"].reset_index(drop=True)
    paths = options.get("num_samples", 20)
    expected, _ = correct(
        direct(kronos, ibm, draw, seed=3, paths=paths, **arguments).bars,
        ibm["close"].to_numpy()[-1:],
    )
    npt.assert_allclose(ask(kronos, ibm, seed=3, **options).price_paths, expected, rtol=1e-12)


def test_series_with_other_cutoffs_draw_other_numbers(kronos: Kronos, bars: pd.DataFrame) -> None:
    earlier = bars[(bars["unique_id"] != "IBM") | (bars["ds"] < CUT)].reset_index(drop=True)
    together = ask(kronos, earlier).price_paths
    assert together is not None
    alone = ask(kronos, earlier[earlier["unique_id"] == "IBM"].reset_index(drop=True)).price_paths
    npt.assert_array_equal(together[1:2], alone)


def test_an_anchored_path_is_moved_by_what_tokens_lose_of_the_last_close(
    kronos: Kronos, bars: pd.DataFrame
) -> None:
    ibm = bars[bars["unique_id"] == "IBM"].reset_index(drop=True)
    sampled = direct(kronos, ibm, Draw(), seed=0, paths=20)
    lost = ibm["close"].iloc[-1] - sampled.last[0, 3]
    assert abs(lost) > 0
    moved = sampled.bars.copy()
    moved[..., :4] += lost
    expected, _ = correct(moved, ibm["close"].to_numpy()[-1:])
    npt.assert_allclose(ask(kronos, ibm, anchor=True).price_paths, expected, rtol=1e-12)


def test_closes_that_move_too_little_for_the_floor_are_said(
    kronos: Kronos, bars: pd.DataFrame
) -> None:
    prices = bars.assign(**{name: bars[name] * 1e-6 for name in names.OHLC})
    assert ask(kronos, prices).notes["scale"].startswith("closes move by less than 0.001")
    assert "scale" not in ask(kronos, bars).notes


def test_one_series_with_one_path_is_read_once(official: Path, bars: pd.DataFrame) -> None:
    """Further paths of a series fill up a pass, but the series is read once."""
    kronos = model.from_official(official / "p", official / "t", name="kronos", max_context=128)
    rows: list[int] = []
    sampler = kronos.sampler("fp32")
    original = sampler._read

    def counted(scaled: Any, stamps: Any, room: int) -> Any:
        rows.append(len(scaled))
        return original(scaled, stamps, room)

    sampler._read = counted  # type: ignore[method-assign]
    ask(kronos, bars, num_samples=1)
    assert rows == [1, 1, 1]


def test_days_become_stamps() -> None:
    """2012-02-29 was a Wednesday, 2023-01-01 a Sunday."""
    days = np.array(["2012-02-29", "2023-01-01"], dtype="datetime64[D]").astype(np.int64)
    assert model.stamps(days).tolist() == [[0, 0, 2, 29, 2], [0, 0, 6, 1, 1]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"close": np.nan}, "NON_FINITE"),
        ({"volume": np.inf}, "NON_FINITE"),
        ({"open": 0.0}, "BAD_PRICE"),
        ({"low": 1e9}, "BAD_BAR"),
        ({"volume": -1.0}, "BAD_VOLUME"),
        ({"y": 0.5}, "PRICE_BASIS"),
    ],
    ids=str,
)
def test_impossible_bars_are_refused(
    kronos: Kronos, bars: pd.DataFrame, change: dict[str, float], code: str
) -> None:
    broken = bars.head(60)  # one series
    for name, value in change.items():
        broken.loc[30, name] = value
    with pytest.raises(BadHistory) as caught:
        ask(kronos, broken)
    assert caught.value.code == code


def test_too_few_bars_and_a_constant_series_are_refused(kronos: Kronos, bars: pd.DataFrame) -> None:
    with pytest.raises(BadHistory, match="has 31 sessions, kronos needs 32"):
        ask(kronos, bars.groupby("unique_id").tail(31).reset_index(drop=True))
    flat = bars.assign(y=0.0, open=5.0, high=5.0, low=5.0, close=5.0)
    with pytest.raises(BadHistory, match="has a return of 0 throughout its last 20") as caught:
        ask(kronos, flat)
    assert caught.value.code == "HALTED"


def test_saved_files_are_those_that_came(kronos: Kronos, official: Path, tmp_path: Path) -> None:
    model.save(kronos, tmp_path)
    for part, folder in (("predictor", "p"), ("tokenizer", "t")):
        for file in ("config.json", "model.safetensors"):
            assert (tmp_path / part / file).read_bytes() == (official / folder / file).read_bytes()
    (tmp_path / "spec.json").write_text(json.dumps(kronos.spec.to_json()))
    again = model.load(tmp_path)
    assert isinstance(again, Kronos)
    assert (again.spec, again.clip) == (kronos.spec, kronos.clip)


def test_window_of_official_and_other_shapes(official: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="of no official size; set KRONOS_MAX_CONTEXT"):
        model.from_official(official / "p", official / "t", name="kronos")
    save_official(Predictor(SIZES["mini"].shape), tmp_path / "mini")
    save_official(Tokenizer(TokenizerConfig(group_size=5)), tmp_path / "2k")
    save_official(Tokenizer(TokenizerConfig(group_size=4)), tmp_path / "base")
    mini = model.from_official(tmp_path / "mini", tmp_path / "2k", name="kronos")
    assert mini.spec.max_context == 2048
    message = r"max_context is 4096, expected 64\.\.2048 bars for Kronos-mini"
    with pytest.raises(BadConfig, match=message):
        model.from_official(tmp_path / "mini", tmp_path / "2k", name="kronos", max_context=4096)
    with pytest.raises(BadConfig, match="mini goes with Kronos-Tokenizer-2k"):
        model.from_official(tmp_path / "mini", tmp_path / "base", name="kronos")


@pytest.mark.parametrize("name", ["cuda:7", "abacus", "meta", "hpu"])
def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KRONOS_DEVICE", name)
    with pytest.raises(BadConfig, match=f"KRONOS_DEVICE is '{name}'.*use auto or cpu") as caught:
        model.device()
    assert caught.value.code == "BAD_DEVICE"


def test_out_of_memory_is_one_line_with_three_ways_out(
    official: Path, bars: pd.DataFrame, tmp_path: Path
) -> None:
    """A process that may grow by at most 60 MB gets a request for a thousand paths of a large
    window."""
    bars.to_parquet(tmp_path / "bars.parquet")
    program = f"""
import resource, pandas as pd, psutil
from pathlib import Path
from mlprojects.kronos import model
from registry.forecast.checks import check_history
from registry.errors import KronosError
official = Path({str(official)!r})
kronos = model.from_official(official / "p", official / "t", name="kronos", max_context=128)
history = check_history(pd.read_parquet({str(tmp_path / "bars.parquet")!r}), kronos.spec)
kronos.predict(history, kronos.spec.request({{"horizon": 1, "num_samples": 1}}))
limit = psutil.Process().memory_info().vms + (60 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    kronos.predict(history, kronos.spec.request({{"horizon": 60, "num_samples": 1000}}))
except KronosError as error:
    print(error.code, error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("OUT_OF_MEMORY out of memory on cpu: 1000 paths of 3 series"), (
        done.stderr[-500:]
    )
    for way in ("fewer num_samples", "shorter histories", "KRONOS_DEVICE"):
        assert way in done.stdout


def test_an_error_that_is_not_about_memory_is_not_called_so(
    kronos: Kronos, bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(bars_module, "correct", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        ask(kronos, bars)


def test_a_horizon_that_the_window_cannot_hold_is_refused(
    kronos: Kronos, bars: pd.DataFrame
) -> None:
    beyond = dataclasses.replace(kronos.spec.request(), horizon=128)
    with pytest.raises(KronosError, match="128 steps were asked for"):
        kronos.predict(check_history(bars, kronos.spec), beyond)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layers", "four"),
        ("s1_bits", -1),
        ("ffn_dropout_p", 2.0),
        ("group_size", 0),
        ("learn_te", "no"),
    ],
)
def test_a_config_with_values_that_no_model_can_have_is_refused(
    official: Path, tmp_path: Path, key: str, value: object
) -> None:
    for part, kind in (("p", PredictorConfig), ("t", TokenizerConfig)):
        path = official / part / "config.json"
        values = json.loads(path.read_text())
        if key not in values:
            continue
        (tmp_path / "config.json").write_text(json.dumps(values | {key: value}))
        with pytest.raises(
            BadConfig, match=f"{key} is {value!r}, not a valid value for {kind.__name__}"
        ):
            kind.read(tmp_path / "config.json")


def test_weights_that_are_not_finite_are_refused(official: Path, tmp_path: Path) -> None:
    weights = load_file(official / "p" / "model.safetensors")
    weights["norm.weight"][3] = torch.nan
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((official / "p" / "config.json").read_text())
    with pytest.raises(Corrupt, match=r"norm\.weight holds a value that is not finite"):
        load_predictor(tmp_path)
