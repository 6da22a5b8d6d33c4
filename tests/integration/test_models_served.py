"""Every family behind the stock `mlflow models serve`: served numbers equal a direct forecast."""

import httpx
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.training import planning, train
from jobs.training.references import References
from registry.forecast import names
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import environments
from registry.versions.store import Store
from serving.scorer import Scorer

# Other files serve nbeats, kronos and ewma. The ensemble holds three volnet models and a baseline.
MODELS = ("ensemble", "itransformer", "stemgnn", "tft", "graph", "ssm")


@pytest.mark.parametrize("model", MODELS)
def test_a_promoted_version_answers_its_own_example_as_a_direct_predict_does(
    compiled: Settings, model: str
) -> None:
    overrides = {"report_until": "2020-02-28", "report_every": 10}
    plan = planning.plan(compiled, model, overrides, seed=3, tiny=True)
    version = train.train(compiled, plan, References()).version
    store = Store(compiled)
    with open_ledger(Store(compiled)) as ledger:
        moves.promote(store, ledger, model, version.version, who="tests", why="to be served")
    body = store.example_request(version)
    scorer = Scorer(compiled, version, store.fetch(version), host="127.0.0.1", port=0)
    command = scorer.launch.command
    command[command.index("-m", 3) + 1] = f"models:/{model}/Production"
    scorer.launch.environment.update(environments.of_mlflow(compiled))
    with scorer:
        scorer.wait_ready()
        reply = httpx.post(f"{scorer.url}/invocations", json=body, timeout=60)
    assert reply.status_code == 200, reply.text[:500]
    frame = pd.DataFrame(reply.json()["predictions"])
    split = body["dataframe_split"]
    history = pd.DataFrame(split["data"], columns=split["columns"])
    with store.load(f"{model}/{version.version}") as loaded:
        direct = loaded.forecast(history.assign(ds=pd.to_datetime(history[names.DS])))
    assert frame["unique_id"].tolist() == direct["unique_id"].tolist()
    numbers = ["mean", *(names.quantile_column(level) for level in plan.config.levels)]
    npt.assert_allclose(frame[numbers], direct[numbers], rtol=0, atol=1e-9)
