"""A version's answer to one request: a table and parameters in, a checked reply out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from registry.errors import BadParameter, NotAvailable
from registry.forecast import names
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast, Forecaster, check_forecast
from registry.forecast.history import History
from registry.forecast.identity import Identity
from registry.forecast.rendering import FRAME, PACKED, PRICES, refused, render
from registry.forecast.spec import ModelSpec, Request, shown


def answer(
    forecaster: Forecaster, history: Any, parameters: Any, identity: Identity | None = None
) -> Any:
    """The reply to a caller's table and parameters: horizon, levels, seed, output, options.

    `output` is one of names.OUTPUTS. The reply names `identity`, the version of the forecaster.
    Raises BadInput, NotAvailable, BadForecast, and KronosError if the machine fails: memory, a
    worker.
    """
    spec = forecaster.spec
    if not isinstance(parameters, Mapping):
        raise BadParameter(f"parameters are names with values, found {type(parameters).__name__}")
    request_parameters = dict(parameters)
    output = _output(request_parameters.pop("output", FRAME), spec)
    request = spec.request(request_parameters)
    checked_history = check_history(history, spec)
    forecast = forecast_of(forecaster, checked_history, request)
    reply = render(forecast.at(request.levels), spec.calendar, output, identity)
    if output == PACKED and checked_history.refused:
        reply[names.REFUSED] = refused(checked_history)
    return reply


def forecast_of(forecaster: Forecaster, history: History, request: Request) -> Forecast:
    """A model's checked forecast at spec.levels, with the notes of its spec and of its history."""
    spec = forecaster.spec
    forecast = forecaster.predict(history, request)
    check_forecast(forecast, spec, request)
    notes = dict(forecast.notes)
    if spec.synthetic:
        notes["synthetic"] = f"trained on synthetic {', '.join(spec.synthetic)}"
    for name in history.notes:  # a worker has checked the history, too, and said the same
        notes.pop(name, None)
    return replace(forecast, notes={**notes, **history.notes})


def _output(output: Any, spec: ModelSpec) -> str:
    if not isinstance(output, str) or output not in names.OUTPUTS:
        raise BadParameter(
            f"output is {shown(output)}, expected one of {', '.join(names.OUTPUTS)}",
            code="BAD_OUTPUT",
        )
    if output == PRICES and not spec.has_prices:
        raise NotAvailable(f"{spec.name} forecasts returns; it knows no prices")
    return str(output)
