"""ensemble: the equal-weight average of its members' quantiles, level by level."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.forecast.forecast import Forecast, Forecaster
from registry.forecast.history import History
from registry.forecast.model_folder import load_forecaster, read_spec, save_forecaster
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS: tuple[str, ...] = ()  # in addition to those of the members' families
FOLDER = "members"


@dataclass(frozen=True)
class Ensemble:
    """The average of quantile functions; averages of sorted quantiles stay sorted.

    Lichtendahl, Grushka-Cockayne and Winkler, Is It Better to Average Probabilities or Quantiles?,
    Management Science 59 (2013). Members give quantiles at the ensemble's levels.
    """

    spec: ModelSpec
    members: tuple[Forecaster, ...]

    def predict(self, history: History, request: Request) -> Forecast:
        quantiles = []
        notes: dict[str, str] = {}
        for member in self.members:
            forecast = member.predict(history, _for_member(member.spec, request))
            forecast = forecast.at(self.spec.levels)
            quantiles.append(forecast.quantiles)
            notes |= forecast.notes
        return Forecast.of_quantiles(history, self.spec, np.mean(quantiles, axis=0), notes)


def _for_member(spec: ModelSpec, request: Request) -> Request:
    return spec.request({"horizon": request.horizon, "seed": request.seed})


def save(forecaster: Ensemble, directory: Path) -> None:
    """Write every member's model folder."""
    members = [member.spec.name for member in forecaster.members]
    for member in forecaster.members:
        save_forecaster(member, directory / FOLDER / member.spec.name)
    config = {"kind": "ensemble", "members": members}
    (directory / "config.json").write_text(json.dumps(config) + "\n")


def load(directory: Path) -> Ensemble:
    """The forecaster that `save` wrote beside spec.json."""
    members = json.loads((directory / "config.json").read_text())["members"]
    forecasters = [load_forecaster(directory / FOLDER / name) for name in members]
    return Ensemble(read_spec(directory), tuple(forecasters))
