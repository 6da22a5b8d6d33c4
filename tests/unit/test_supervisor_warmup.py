"""The warm-up: what a scorer must answer to the stored example before it gets requests."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import BadForecast, KronosError
from registry.forecast import names
from registry.forecast.forecast import Forecast
from registry.forecast.rendering import frame, packed
from registry.forecast.spec import ModelSpec
from serving.supervisor.candidates import Candidate, Pointer
from serving.supervisor.runners import Runner
from serving.supervisor.warmup import warm_up

SPEC = ModelSpec("ewma", "baselines", min_context=10, max_context=100, max_horizon=3)
IDS = ("A", "B")
Change = Callable[[Forecast], Any]


def forecast() -> Forecast:
    """Two series, three steps."""
    quantiles = np.tile(np.linspace(-0.02, 0.02, len(SPEC.levels)), (2, 3, 1))
    cutoffs = np.array(["2022-12-28", "2022-12-28"], dtype="datetime64[D]")
    return Forecast(IDS, cutoffs, SPEC.levels, quantiles, quantiles.mean(axis=2))


class Scorer:
    """A server whose forecasts a test changes."""

    def __init__(self, folder: Path) -> None:
        self.change: Change = lambda _: None
        self.status = 200
        self.error: dict[str, Any] = {}
        self.token = "its own"
        self.parameters: list[dict[str, Any]] = []
        rows = [[name, "2022-12-28", 0.01] for name in IDS]
        split = {"columns": list(names.HISTORY), "data": rows}
        example = {"dataframe_split": split}
        (folder / "serving_input_example.json").write_text(json.dumps(example))
        scorer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = json.dumps(scorer.reply(body["params"])).encode()
                self.send_response(scorer.status)
                self.send_header("kronos-server", scorer.token)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        candidate = Candidate(Pointer("ewma", 1, "0" * 64, ""), folder, SPEC.to_json())
        port = self.server.server_port
        self.runner = Runner("ewma-1", candidate, "127.0.0.1", port, "its own", 0.0)

    def reply(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self.parameters.append(parameters)
        if self.error:
            return self.error
        changed = forecast()
        self.change(changed)
        days = np.arange("2022-12-29", "2023-01-01", dtype="datetime64[D]")
        sessions = np.tile(days, (len(changed.unique_id), 1))
        if parameters["output"] == "packed":
            return {"predictions": packed(changed, sessions)}
        rows = frame(changed, sessions).drop(columns=names.DS).to_dict("records")
        return {"predictions": rows}


@pytest.fixture
def scorer(tmp_path: Path) -> Iterator[Scorer]:
    scorer = Scorer(tmp_path)
    yield scorer
    scorer.server.shutdown()
    scorer.server.server_close()


def test_a_scorer_that_answers_well_is_warm_in_both_forms(scorer: Scorer) -> None:
    assert 0 < warm_up(scorer.runner) < 5
    assert [sent["output"] for sent in scorer.parameters] == ["frame", "packed", "packed"]


def crossing(changed: Forecast) -> None:
    changed.quantiles[1, 2, 3] = 1.0


def nan_mean(changed: Forecast) -> None:
    changed.mean[0, 1] = np.nan


def infinite(changed: Forecast) -> None:
    changed.quantiles[0, 0, -1] = np.inf


def one_series(changed: Forecast) -> None:
    object.__setattr__(changed, "unique_id", IDS[:1])
    for field in ("cutoffs", "quantiles", "mean"):
        object.__setattr__(changed, field, getattr(changed, field)[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (crossing, "are not ascending"),
        (nan_mean, "has numbers that are not finite"),
        (infinite, "has numbers that are not finite"),
        (one_series, r"has shape \(1, 3, 12\), expected \(2, 3, 12\)"),
    ],
)
@pytest.mark.parametrize("form", ["frame", "packed"])
def test_a_bad_forecast_in_either_form_is_refused(
    scorer: Scorer, change: Change, message: str, form: str
) -> None:
    bad = change
    scorer.change = lambda changed: (
        bad(changed) if scorer.parameters[-1]["output"] == form else None
    )
    with pytest.raises(KronosError, match=message) as raised:
        warm_up(scorer.runner)
    assert raised.value.code == "LOAD_FAILED"


def test_the_error_of_the_version_is_kept(scorer: Scorer) -> None:
    scorer.status = 500
    scorer.error = {"code": "BAD_FORECAST", "message": "quantiles cross"}
    with pytest.raises(BadForecast, match="quantiles cross"):
        warm_up(scorer.runner)


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (500, {"detail": "x"}, "was answered with status 500"),
        (200, {"detail": "x"}, "is no JSON with predictions"),
        (200, {"predictions": 7}, "is no table of a forecast"),
        (200, {"predictions": [{"mean": 1.0}]}, "is no table of a forecast"),
    ],
)
def test_an_answer_of_another_form_is_refused(
    scorer: Scorer, status: int, content: dict[str, Any], message: str
) -> None:
    scorer.status, scorer.error = status, content
    with pytest.raises(KronosError, match=message):
        warm_up(scorer.runner)


def test_another_server_on_the_port_is_not_taken_for_the_scorer(scorer: Scorer) -> None:
    scorer.token = "another"
    with pytest.raises(KronosError, match="another server answered"):
        warm_up(scorer.runner)


def test_a_scorer_that_is_gone_fails(scorer: Scorer) -> None:
    scorer.server.shutdown()
    scorer.server.server_close()
    with pytest.raises(KronosError, match="the example was not answered: ConnectError"):
        warm_up(scorer.runner)
