"""The pages of the MLflow UI that the README leads to, in a real browser on real versions.

Pictures of them are in reports/ui/. It needs Debian's package `chromium`.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote

import browser
import pytest

from jobs.training import planning, train
from jobs.training.references import References
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import CHECKOUT, Settings
from registry.versions import environments
from registry.versions.store import Store
from registry.versions.version import Version

PICTURES = CHECKOUT / "reports" / "ui"
COLUMNS = ("crps", "skill_vs_fhs", "coverage_90", "horizon", "trained_until")


@pytest.fixture(scope="module")
def settings(compiled: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A registry of its own over the compiled data."""
    folder = tmp_path_factory.mktemp("ui")
    for name in ("data", "logs"):
        (folder / name).symlink_to(compiled.var_dir / name)
    return Settings(var_dir=folder)


@pytest.fixture(scope="module")
def versions(settings: Settings) -> list[Version]:
    """fhs and har, trained; har is in Production."""
    references = References()
    trained = []
    for name in ("fhs", "har"):
        plan = planning.plan(settings, name, {"report_every": 20}, seed=0, tiny=True)
        trained.append(train.train(settings, plan, references).version)
    store = Store(settings)
    with open_ledger(store) as ledger:
        moves.promote(store, ledger, "har", 1, who="ann@desk", why="better than fhs")
    return trained


@pytest.fixture(scope="module")
def url(settings: Settings, versions: list[Version]) -> Iterator[str]:
    """`python -m registry ui` on that registry."""
    assert versions
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "registry", "ui", "--port", str(port)]
    environment = environments.of_programs(settings)
    environment |= {"KRONOS_VAR_DIR": str(settings.var_dir), "KRONOS_TRACKING_URI": ""}
    server = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", server)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"{address} did not answer")


@pytest.fixture(scope="module")
def page(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    """The UI as it opens, switched to model training as the README says."""
    assert shutil.which("chromium"), "no chromium on PATH; install Debian's package chromium"
    with browser.opened(tmp_path_factory.mktemp("profile")) as page:
        page.open(f"{url}/")
        page.click("Model training")
        yield page


@pytest.fixture(scope="module")
def scores(settings: Settings, versions: list[Version]) -> str:
    """The scores of har as its descriptions have them."""
    metrics = Store(settings).metrics(versions[1])
    return f"CRPS {metrics['crps']:.6f}, {100 * metrics['skill_vs_fhs']:+.2f} % against fhs"


def test_the_list_of_models_is_two_clicks_away(page: browser.Page) -> None:
    page.click("Model registry")
    page.click("Try it now")  # MLflow's dialog, shown once in a browser
    page.wait("Registered Models", "fhs", "har", "@ production")
    page.save(PICTURES / "models.png")


def test_a_models_page_says_what_it_is_and_what_is_in_production(
    page: browser.Page, url: str, scores: str
) -> None:
    page.open(f"{url}/#/models/har")
    page.wait(f"In Production: version 1, {scores}.")
    page.wait("har: expected absolute return by step", "Version 1", "Kept by Kronos Registry")
    page.save(PICTURES / "model.png")


def test_a_versions_page_shows_its_stage_card_and_few_tags(
    page: browser.Page, url: str, scores: str
) -> None:
    page.open(f"{url}/#/models/har/versions/1")
    page.wait("Version 1", f"{scores}, on the sessions after 2019-12-31.", "Production")
    page.save(PICTURES / "version.png")
    page.wait("manifest_sha256", "trained_until")
    text = page.text()
    tags = text[text.rindex("Tags") :]
    for name in ("family", "data", "trained_until", "licence", "recipe", "manifest_sha256"):
        assert name in tags
    for name in ("lock_sha256", "code_digest", "git_commit", "weight_source"):
        assert name not in tags


def test_the_trainings_have_a_description_and_the_columns_that_the_readme_names(
    page: browser.Page, scores: str, settings: Settings, versions: list[Version]
) -> None:
    readme = (CHECKOUT / "README.md").read_text()
    page.click("Experiments")
    page.wait("Trainings, one run each")
    page.save(PICTURES / "experiments.png")
    page.click("forecasters")
    page.wait("2 matching runs", "panel (", f"version 1, {scores}")
    page.click("Columns")
    for column in COLUMNS:
        assert f"`{column}`" in readme
        page.click(column)
    for column in ("Dataset", "Source"):  # MLflow's own ones, so that all fit on the picture
        page.click(column)
    page.click("Columns")
    metrics = Store(settings).metrics(versions[1])
    page.wait(*(str(metrics[name]) for name in ("crps", "skill_vs_fhs", "coverage_90")))
    page.wait("2019-12-31")
    page.save(PICTURES / "runs.png")


def test_runs_are_compared_side_by_side(
    page: browser.Page, url: str, settings: Settings, versions: list[Version]
) -> None:
    runs = [version.run_id for version in versions]
    experiment = Store(settings).client.get_run(runs[0]).info.experiment_id
    query = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"
    page.open(f"{url}/#/compare-runs?{query}")
    page.wait("Comparing 2 Runs from 1 Experiment", "Show diff only", "crps")
    page.save(PICTURES / "comparison.png")


def test_the_picture_of_a_fan_is_on_the_page_of_a_run(
    page: browser.Page, url: str, settings: Settings, versions: list[Version]
) -> None:
    run_id = versions[1].run_id
    experiment = Store(settings).client.get_run(run_id).info.experiment_id
    page.open(f"{url}/#/experiments/{experiment}/runs/{run_id}/artifacts/figures/fan_chart.png")
    page.wait("fan_chart.png", "model_card.md")
    page.save(PICTURES / "run.png")
