"""Times the direct forecast of 500 series against the libraries' own predict; one function per key.

    make bench ONLY=zoo

Both sides take a frame and return a frame. They run the same barely trained network on the same
windows of real returns, alternating in one process; their forecasts are compared before anything is
timed. To add a model, add a function to CASES.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from forecast import TALK, alternate, compare, direct, histories, numbered
from neuralforecast import NeuralForecast
from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.data.encoders import NaNLabelEncoder, TorchNormalizer

from jobs.data import catalog
from jobs.data.compile import compile_builtin
from jobs.training import configs, families
from mlprojects.nixtla.model import WindowForecaster
from mlprojects.nixtla.networks import network
from mlprojects.tft import inputs
from mlprojects.tft import network as tft
from mlprojects.tft.model import TFT
from registry.forecast import names, rendering
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec
from registry.settings import Settings

SERIES = 500
PAIRS = 5


@dataclass(frozen=True)
class Case:
    """Two ways to the same forecast of SERIES series, and the goal for their ratio of times."""

    direct: Callable[[], pd.DataFrame]
    library: Callable[[], pd.DataFrame]
    goal: float


def nhits_500(panel: pd.DataFrame) -> Case:
    return _nixtla("nhits", panel, goal=10.0)


def patchtst_500(panel: pd.DataFrame) -> Case:
    return _nixtla("patchtst", panel, goal=3.0)


def itransformer_500(panel: pd.DataFrame) -> Case:
    """A network of 500 channels."""
    return _nixtla("itransformer", panel, goal=3.0)


def _nixtla(name: str, panel: pd.DataFrame, goal: float) -> Case:
    """The committed network of a model, trained a few steps, against NeuralForecast.predict."""
    model = families.find(name)
    config = configs.load_config(model, {})
    spec = model.spec(config)
    training_history = histories(panel, SERIES, config.context + 20)
    if spec.joint:
        spec = replace(spec, universe=tuple(training_history[names.UNIQUE_ID].unique()))
    quiet = dict.fromkeys(TALK, False)
    net = network(spec, config.shape, max_steps=5, learning_rate=0.01, accelerator="cpu", **quiet)
    library = NeuralForecast(models=[net], freq=1)
    library.fit(numbered(training_history))
    forecaster = WindowForecaster(spec, config.shape, library.models[0].eval())
    history = histories(panel, SERIES, config.context)
    direct_call = partial(direct, forecaster, history)
    library_call = partial(library.predict, df=numbered(history))
    compare(direct_call(), library_call())
    return Case(direct_call, library_call, goal)


def tft_500(panel: pd.DataFrame) -> Case:
    """A network of the committed size with noise on its weights, so that all of them matter.

    The library gets the frame of its own variables, made beforehand. The direct side makes them
    from the history, which is the shortest that it takes: a longer one slows the direct side only.
    """
    model = families.find("tft")
    config = configs.load_config(model, {})
    spec = model.spec(config)
    market = panel[[names.DS, *names.MARKET]].drop_duplicates()
    history = histories(panel, SERIES, spec.min_context).merge(market, on=names.DS)
    forecaster = _scrambled(spec, config, panel, history[names.UNIQUE_ID].unique())
    x, sigma = forecaster.inputs(History.of(history, spec.columns[2:]))
    frame, net = _library_tft(forecaster, x)
    quantiles = [names.quantile_column(level) for level in spec.levels]

    def library_call() -> pd.DataFrame:
        trainer = {"accelerator": "cpu", **dict.fromkeys(TALK, False)}
        result = net.predict(frame, mode="quantiles", return_index=True, trainer_kwargs=trainer)
        symbols = result.index[names.UNIQUE_ID].repeat(spec.max_horizon).reset_index(drop=True)
        scaled = result.output.numpy() * sigma[:, None, None]
        out = pd.DataFrame(scaled.reshape(len(symbols), -1), columns=quantiles)
        return out.assign(**{names.UNIQUE_ID: symbols, names.DS: out.index % spec.max_horizon})

    def direct_call() -> pd.DataFrame:
        forecast = forecaster.predict(History.of(history, spec.columns[2:]), spec.request())
        return rendering.render(forecast, spec.calendar, rendering.FRAME)

    compare(direct_call(), library_call())
    return Case(direct_call, library_call, goal=3.0)


def _scrambled(spec: ModelSpec, config: Any, panel: pd.DataFrame, symbols: Sequence[str]) -> TFT:
    """A forecaster of the symbols, in the panel's sectors by turns; the state is not scaled."""
    sectors = sorted(panel[names.SECTOR].unique())
    sector_of = {name: sectors[i % len(sectors)] for i, name in enumerate(symbols)}
    zeros = (0.0,) * len(inputs.STATE)
    ones = (1.0,) * len(inputs.STATE)
    parameters = inputs.DataParameters(
        (inputs.UNKNOWN, *sectors), sector_of, (), zeros, ones, (), ()
    )
    keys = ("width", "inner", "heads", "dropout", "context")
    shape = {key: getattr(config, key) for key in keys}
    arguments = tft.arguments(parameters, levels=len(spec.levels), **shape)
    net = tft.build(arguments, spec.levels)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return TFT(spec, parameters, arguments, tft.weights(net))


def _library_tft(
    forecaster: TFT, x: inputs.Inputs
) -> tuple[pd.DataFrame, TemporalFusionTransformer]:
    """The library's frame of these windows, one row per session, and its network with the
    parameters of its data set."""
    at = forecaster.arguments
    windows = tft.library(x)
    n, length, _ = windows["encoder_cont"].shape
    sessions = length + windows["decoder_cont"].shape[1]
    flat = {}
    for kind in ("cont", "cat"):
        window = torch.cat([windows[f"encoder_{kind}"], windows[f"decoder_{kind}"]], dim=1)
        flat[kind] = window.flatten(0, 1).numpy()
    columns = dict(zip(at["x_reals"], flat["cont"].T, strict=True))
    for name, codes in zip(at["x_categoricals"], flat["cat"].T, strict=True):
        columns[name] = [f"{code:02d}" for code in codes]
    frame = pd.DataFrame(columns).assign(y=0.0, session=np.tile(np.arange(sessions), n))
    frame[names.UNIQUE_ID] = np.repeat([f"S{i:04d}" for i in range(n)], sessions)
    encoders = {name: NaNLabelEncoder() for name in at["x_categoricals"]}
    for name, (size, _) in at["embedding_sizes"].items():
        encoders[name].fit(pd.Series([f"{i:02d}" for i in range(size)]))
    known_reals = at["time_varying_reals_decoder"]
    unknown_reals = [name for name in at["time_varying_reals_encoder"] if name not in known_reals]
    data = TimeSeriesDataSet(
        frame,
        time_idx="session",
        target="y",
        group_ids=[names.UNIQUE_ID],
        max_encoder_length=length,
        max_prediction_length=sessions - length,
        static_categoricals=at["static_categoricals"],
        static_reals=at["static_reals"],
        time_varying_known_categoricals=at["time_varying_categoricals_decoder"],
        time_varying_known_reals=known_reals,
        time_varying_unknown_reals=unknown_reals,
        categorical_encoders=encoders,
        scalers=dict.fromkeys(at["x_reals"]),
        target_normalizer=TorchNormalizer("identity"),
    )
    net = tft.build({**at, "x_reals": data.reals}, forecaster.spec.levels)
    net.load_state_dict(dict(forecaster.weights), strict=False)
    net.dataset_parameters = data.get_parameters()
    return frame, net.eval()


CASES = (nhits_500, patchtst_500, itransformer_500, tft_500)


def main() -> None:
    torch.set_num_threads(1)  # for both sides: a second thread only adds noise at these sizes
    for name in list(logging.root.manager.loggerDict):
        if "lightning" in name:
            logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # Lightning warns about its own trainer at every predict
    ratios, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(var_dir=Path(folder))
        compile_builtin(settings)
        panel = catalog.PANEL.load(settings).history
    for make in CASES:
        case = make(panel)
        fast, slow = alternate(case.direct, case.library, PAIRS)
        key = make.__name__
        ratios[key], seconds[key] = slow / fast, fast
        print(
            f"{key:<18} direct {1e3 * fast:7.2f} ms   library {1e3 * slow:7.2f} ms   "
            f"{ratios[key]:5.1f} x (goal {case.goal:g})"
        )
    print(json.dumps({"bench": "zoo", "ratios": ratios, "seconds": seconds}))


if __name__ == "__main__":
    main()
