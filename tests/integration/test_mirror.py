"""Mirror and push with the real huggingface_hub, against a Hub on loopback."""

import hashlib
import json
import logging
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load, save

from jobs.training import planning, train
from jobs.training.references import References
from mlprojects.kronos import official
from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.folders import save_official
from mlprojects.kronos.shapes import PredictorConfig, TokenizerConfig
from registry import __main__ as program
from registry import terminal
from registry.errors import (
    BadConfig,
    BadInput,
    BadParameter,
    Conflict,
    Corrupt,
    KronosError,
    NotAvailable,
    NotFound,
)
from registry.hub import client as hub
from registry.hub import mirror, push
from registry.hub.client import CARD, CONFIG, WEIGHTS
from registry.hub.mirror import Source
from registry.settings import CHECKOUT, Settings
from registry.versions import artifacts, manifest, tracking
from registry.versions.store import Store
from registry.versions.version import Version

HERE = Path(__file__).parent
mirrored = partial(mirror.mirror, official=official)
pushed = partial(push.push, official=official)
WINDOW = 64  # bars; the tiny predictor has no official size
MODEL, TOKENIZER = "acme/kronos-tiny", "acme/kronos-tiny-tokenizer"
SECRET = "hf_secret_of_these_tests"

# The HTTP library deprecates the way in which huggingface_hub 2.4 sends large files.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning"),
    pytest.mark.usefixtures("loopback", "settings"),
]

LoopbackHub = runpy.run_path(str(HERE / "hub.py"), run_name="hub")["Hub"]


def card(licence: Any = "mit", **claims: Any) -> bytes:
    return f"---\n{yaml.safe_dump({'license': licence, **claims})}---\n\n# A tiny Kronos\n".encode()


def predictor(**shape: Any) -> Predictor:
    torch.manual_seed(0)
    tiny = {"n_layers": 1, "d_model": 16, "n_heads": 2, "ff_dim": 16, "s1_bits": 5, "s2_bits": 5}
    return Predictor(PredictorConfig(**{**tiny, **shape}))


def tokenizer(**shape: Any) -> Tokenizer:
    torch.manual_seed(1)
    tiny = {"d_model": 16, "n_heads": 2, "ff_dim": 16, "n_enc_layers": 2, "n_dec_layers": 2}
    tiny |= {"s1_bits": 5, "s2_bits": 5, "group_size": 5}
    return Tokenizer(TokenizerConfig(**{**tiny, **shape}))


def repository(module: Predictor | Tokenizer, folder: Path) -> dict[str, bytes]:
    """A repository: the official files of a network, a card, and files that a mirror ignores."""
    save_official(module, folder)
    files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    return {
        **files,
        CARD: card(),
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "onnx/model.bin": b"\0" * 100,
    }


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return repository(predictor(), tmp_path_factory.mktemp("predictor"))


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return repository(tokenizer(), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def settings(
    new_registry: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """An empty registry over real bars, without a token."""
    before = dict(os.environ)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KRONOS_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("KRONOS_MAX_CONTEXT", str(WINDOW))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    new_registry(tmp_path)
    yield Settings()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def loopback(
    weights: dict[str, bytes], tokens: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A Hub with a tiny Kronos and its tokenizer."""
    with LoopbackHub() as loopback:
        loopback.commit(MODEL, weights)
        loopback.commit(TOKENIZER, tokens)
        monkeypatch.setenv("HF_ENDPOINT", loopback.url())
        monkeypatch.setattr(hub, "PAUSE_S", 0.01)
        yield loopback
        huggingface_hub.close_session()


@pytest.fixture
def with_token(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same registry, with HF_TOKEN set."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return Settings(var_dir=settings.var_dir)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a verb in this process, as `python -m registry` does: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["registry", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            terminal.run(program.app)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


SOURCE = Source(MODEL, tokenizer_id=TOKENIZER)


def fetched(settings: Settings, repo: str, commit: str) -> Path:
    return settings.var_dir / "hub" / repo.replace("/", "--") / commit


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wait_for_bytes(path: Path) -> None:
    """Wait until another process has written to a file."""
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)


def nothing_registered(settings: Settings) -> bool:
    store = Store(settings)
    return store.names() == [] and store.client.get_experiment_by_name(mirror.EXPERIMENT) is None


def history(settings: Settings) -> pd.DataFrame:
    """The last bars of two real series."""
    bars = pd.read_parquet(settings.processed_dir / "bars.parquet")
    bars = bars[bars["unique_id"].isin(["IBM", "MSFT"])]
    return bars.groupby("unique_id").tail(WINDOW).reset_index(drop=True)


# --- a good mirror ----------------------------------------------------------------------------


def test_a_mirror_registers_the_bytes_of_the_hub_with_where_they_are_from(
    loopback, settings, weights, tokens
):
    result = mirrored(settings, SOURCE)
    version = result.version
    assert (version.uri, result.registered) == ("models:/kronos/1", True)
    model_dir = Store(settings).fetch(version) / manifest.MODEL_DIR
    for part, files in (("predictor", weights), ("tokenizer", tokens)):
        for name in (CONFIG, WEIGHTS, CARD):
            assert (model_dir / part / name).read_bytes() == files[name]
    commit, tokenizer_commit = (loopback.repositories[repo].head for repo in (MODEL, TOKENIZER))
    expected = {
        "family": "kronos",
        "contract": "2",
        "weights": "tiny",
        "licence": "mit",
        "tokenizer_licence": "mit",
        "weight_source": MODEL,
        "weight_revision": commit,
        "weight_sha256": sha256(weights[WEIGHTS]),
        "tokenizer_source": TOKENIZER,
        "tokenizer_revision": tokenizer_commit,
        "tokenizer_sha256": sha256(tokens[WEIGHTS]),
        "pretrained_until": "unknown",
        "trained_until": "none",
        "max_context": str(WINDOW),
        "clip": "5",
        "horizon": "32",
        "levels": "0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95",
        "calendar": "XNYS",
        "lock_sha256": manifest.sha256(CHECKOUT / "requirements.lock"),
        "code_digest": artifacts.code_digest(CHECKOUT, "kronos"),
        "git_commit": tracking.git_commit(),
        "data_digest": "none",
        "universe": "none",
    }
    assert {key: version.tags[key] for key in expected} == expected


def test_the_run_of_a_mirror_holds_params_cards_and_the_sha256_of_every_file(
    loopback, settings, weights, tokens
):
    version = mirrored(settings, SOURCE).version
    client = Store(settings).client
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["weight_source"] == MODEL
    assert (run.data.tags["licence"], version.tags["licence"]) == ("mit", "mit")
    files = json.loads(Path(client.download_artifacts(version.run_id, "files.json")).read_text())
    contents = {MODEL: weights, TOKENIZER: tokens}
    assert len(files) == 6
    for fact in files:
        content = contents[fact["repository"]][fact["name"]]
        assert (fact["size"], fact["sha256"]) == (len(content), sha256(content))
        assert fact["revision"] == loopback.repositories[fact["repository"]].head
    assert run.data.metrics["bytes"] == sum(fact["size"] for fact in files)
    saved_card = Path(client.download_artifacts(version.run_id, "cards/predictor.md"))
    assert saved_card.read_bytes() == weights[CARD]


def test_only_the_card_the_config_and_the_weights_are_downloaded_and_at_one_commit(
    loopback, settings
):
    mirrored(settings, SOURCE)
    commit = loopback.repositories[MODEL].head
    paths = {request.path for request in loopback.requests if request.server == "hub"}
    downloads = {path for path in paths if "/resolve/" in path and f"/{MODEL}/" in path}
    assert downloads == {f"/{MODEL}/resolve/{commit}/{name}" for name in (CARD, CONFIG, WEIGHTS)}


def test_the_same_commits_are_registered_once(loopback, settings, cli):
    first = mirrored(settings, SOURCE)
    loopback.requests.clear()
    again = mirrored(settings, SOURCE)
    assert (again.registered, again.version) == (False, first.version)
    assert not [r for r in loopback.requests if "/resolve/" in r.path or r.server == "cdn"]
    assert len(Store(settings).versions("kronos")) == 1
    code, out, _ = cli("mirror", MODEL, "--tokenizer", TOKENIZER)
    commit = loopback.repositories[MODEL].head
    assert code == 0
    assert out.startswith(f"models:/kronos/1 is {MODEL} at {commit[:12]} with {TOKENIZER} at ")
    assert out.endswith(" already: nothing was registered\n")


def test_mirrors_of_the_same_commits_at_once_register_one_version(loopback, settings):
    """The first stalls in its download: it has looked for a version, but registered none yet."""
    loopback.stalls[WEIGHTS] = 20_000  # more than a file buffers
    commit = loopback.repositories[MODEL].head
    incomplete = fetched(settings, MODEL, commit) / f"{WEIGHTS}.incomplete"
    command = [sys.executable, "-m", "registry", "mirror", MODEL, "--tokenizer", TOKENIZER]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as first:
        wait_for_bytes(incomplete)
        threading.Timer(1.0, loopback.released.set).start()
        second = mirrored(settings, SOURCE)
        out, _ = first.communicate(timeout=120)
    assert (first.returncode, out.decode().split(" is ")[0]) == (0, "models:/kronos/1")
    assert (second.registered, second.version.version) == (False, 1)
    assert len(Store(settings).versions("kronos")) == 1


@pytest.mark.parametrize("deleted", [False, True], ids=["another byte", "no files"])
def test_a_version_whose_stored_bytes_are_ruined_is_registered_anew(settings, cli, deleted):
    ruined = Store(settings).fetch(mirrored(settings, SOURCE).version)
    path = ruined / manifest.MODEL_DIR / "predictor" / WEIGHTS
    if deleted:
        shutil.rmtree(ruined)
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    code, out, err = cli("mirror", MODEL, "--tokenizer", TOKENIZER, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["uri"], answer["registered"]) == ("models:/kronos/2", True)
    assert answer["ruined"].startswith("models:/kronos/1 is ruined: ")
    assert f"warning: {answer['ruined']}; its commits were registered again" in err
    Store(settings).fetch(Store(settings).version("kronos", 2))
    again = mirrored(settings, SOURCE)
    assert (again.version.version, again.registered, again.ruined) == (2, False, "")


def test_another_window_of_the_same_commits_is_another_version(settings, monkeypatch):
    mirrored(settings, SOURCE)
    monkeypatch.setenv("KRONOS_MAX_CONTEXT", "80")
    other = mirrored(Settings(), SOURCE)
    assert (other.version.version, other.registered) == (2, True)
    assert other.version.tags["max_context"] == "80"


def test_a_commit_that_arrives_while_we_mirror_is_not_mixed_in(loopback, settings, weights):
    first = loopback.repositories[MODEL].head
    moved = []

    def move() -> None:
        if not moved:
            config = weights[CONFIG].replace(b'"ffn_dropout_p": 0.2', b'"ffn_dropout_p": 0.3')
            moved.append(loopback.commit(MODEL, {**weights, CONFIG: config}))

    loopback.after_info = move
    result = mirrored(settings, SOURCE)
    assert result.predictor.commit == first != loopback.repositories[MODEL].head == moved[0]
    model_dir = Store(settings).fetch(result.version) / manifest.MODEL_DIR
    assert (model_dir / "predictor" / CONFIG).read_bytes() == weights[CONFIG]
    second = mirrored(settings, SOURCE)
    assert (second.version.version, second.version.tags["weight_revision"]) == (2, moved[0])
    pinned = mirrored(settings, Source(MODEL, first, TOKENIZER))
    assert (pinned.version.version, pinned.registered) == (1, False)


def changed_metadata(content: bytes) -> bytes:
    """The same weights in other bytes."""
    return save(load(content), metadata={"format": "pt"})


def pretrained(settings: Settings, source: Source) -> tuple[str, str]:
    """The last date of a mirror's training data, and the source of this date."""
    tags = mirrored(settings, source).version.tags
    return tags["pretrained_until"], tags["pretrained_until_source"]


def test_only_weights_that_are_known_say_until_when_they_saw_the_market(
    loopback, settings, weights, tokens, monkeypatch
):
    """A copy of another owner and with another card has seen the same; a later commit has not."""
    monkeypatch.setitem(official.PRETRAINED_UNTIL, sha256(weights[WEIGHTS]), "2024-06-30")
    expected = ("2024-06-30", "known weights")
    loopback.commit("NeoQuasar/Kronos-small", weights)
    loopback.commit("NeoQuasar/Kronos-Tokenizer-base", tokens)
    source = Source("NeoQuasar/Kronos-small")
    assert pretrained(settings, source) == expected
    tags = Store(settings).version("kronos", 1).tags
    assert tags["weights"] == "small"
    assert tags["tokenizer_source"] == "NeoQuasar/Kronos-Tokenizer-base"
    later = {**weights, WEIGHTS: changed_metadata(weights[WEIGHTS])}
    loopback.commit("NeoQuasar/Kronos-small", later)
    assert pretrained(settings, source) == ("unknown", "unknown")
    claiming = {**weights, CARD: card("apache-2.0", pretrained_until="1999-12-31")}
    loopback.commit("elsewhere/renamed", claiming)
    copy = Source("elsewhere/renamed", tokenizer_id=TOKENIZER)
    assert pretrained(settings, copy) == expected
    told = Source("elsewhere/renamed", tokenizer_id=TOKENIZER, pretrained_until="2024-05-31")
    assert pretrained(settings, told) == ("2024-05-31", "told")


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (b"pretrained_until: 2023-12-29", ("2023-12-29", "card")),  # unquoted: YAML reads a date
        (b"pretrained_until: none", ("unknown", "card claims none, unverified")),
        (
            b"pretrained_until: none\nlibrary_name: kronos-registry",
            ("unknown", "card claims none, unverified"),
        ),
        (b"pretrained_until: soon", ("unknown", "unknown")),
    ],
)
def test_what_a_card_claims_is_taken_for_a_claim(loopback, weights, cli, claim, expected):
    claiming_card = card().replace(b"\n---\n\n", b"\n" + claim + b"\n---\n\n")
    loopback.commit(MODEL, {**weights, CARD: claiming_card})
    code, out, err = cli("mirror", MODEL, "--tokenizer", TOKENIZER, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["pretrained_until"], answer["pretrained_until_source"]) == expected
    assert ("was pretrained is unknown" in err) == (expected[0] == "unknown")


def test_progress_reports_bytes_of_every_file_up_to_its_size(settings, weights):
    reports: list[tuple[str, int, int]] = []
    mirrored(settings, SOURCE, progress=lambda *report: reports.append(report))
    done = [report[1] for report in reports if report[0] == f"{MODEL} {WEIGHTS}"]
    assert done == sorted(done)
    size = len(weights[WEIGHTS])
    assert (f"{MODEL} {WEIGHTS}", size, size) in reports
    files = {f"{repo} {name}" for repo in (MODEL, TOKENIZER) for name in mirror.OFFICIAL}
    assert {file for file, *_ in reports} == files


def test_a_mirrored_version_loads_and_answers_without_any_network(loopback, settings):
    mirrored(settings, SOURCE)
    bars = history(settings)
    params = {"horizon": 3, "num_samples": 8, "seed": 7}
    with Store(settings).load("kronos/1") as loaded:
        expected = loaded.forecast(bars, **params)
    loopback.__exit__()
    bars.to_parquet(settings.var_dir / "sent.parquet")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(params)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(settings.var_dir / "answer.parquet")
    pd.testing.assert_frame_equal(frame, expected)
    assert len(frame) == 6
    assert np.isfinite(frame["q0.5"]).all()


OFFLINE = """
import json, socket, sys
import pandas as pd

def refused(*_, **__):
    raise OSError("there is no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused

from registry.settings import Settings
from registry.versions.store import Store

settings = Settings()
bars = pd.read_parquet(settings.var_dir / "sent.parquet")
with Store(settings).load("kronos/1") as loaded:
    answer = loaded.forecast(bars, **json.loads(sys.argv[1]))
answer.to_parquet(settings.var_dir / "answer.parquet")
"""


def test_the_entry_point_of_mlflow_run_mirrors_what_the_settings_name(settings, cli, monkeypatch):
    """MLflow fills in the command with every parameter quoted, and '' for those left out."""
    monkeypatch.setenv("KRONOS_MODEL_ID", MODEL)
    monkeypatch.setenv("KRONOS_TOKENIZER_ID", TOKENIZER)
    entry = yaml.safe_load((CHECKOUT / "MLproject").read_text())["entry_points"]["mirror"]
    parameters = entry["parameters"].items()
    quoted = {name: shlex.quote(parameter["default"]) for name, parameter in parameters}
    words = shlex.split(entry["command"].format(**quoted))
    assert words[:4] == ["python", "-m", "registry", "mirror"]
    code, out, err = cli(*words[3:])
    assert (code, out.partition(" at ")[0]) == (0, f"models:/kronos/1 is {MODEL}"), err
    assert Store(settings).version("kronos", 1).tags["tokenizer_source"] == TOKENIZER


# --- downloads that go wrong ------------------------------------------------------------------


def test_a_cut_connection_is_continued_where_it_broke(loopback, settings, weights):
    loopback.cuts[WEIGHTS] = [1000, 500]
    mirrored(settings, SOURCE)
    ranges = [request.headers.get("range") for request in loopback.downloads(WEIGHTS)]
    assert ranges[:3] == [None, "bytes=1000-", "bytes=1500-"]
    commit = loopback.repositories[MODEL].head
    assert (fetched(settings, MODEL, commit) / WEIGHTS).read_bytes() == weights[WEIGHTS]


def test_a_killed_download_is_continued_by_the_next_process(loopback, settings, weights):
    loopback.stalls[WEIGHTS] = 20_000
    commit = loopback.repositories[MODEL].head
    incomplete = fetched(settings, MODEL, commit) / f"{WEIGHTS}.incomplete"
    process = subprocess.Popen([sys.executable, "-c", FETCH, MODEL, WEIGHTS], cwd=CHECKOUT)
    wait_for_bytes(incomplete)
    process.send_signal(signal.SIGKILL)
    process.wait()
    size = incomplete.stat().st_size
    assert 0 < size <= 20_000 < len(weights[WEIGHTS])
    loopback.requests.clear()
    client = hub.Hub(settings)
    client.fetch(client.snapshot(MODEL), [WEIGHTS], lambda *_: None)
    ranges = [request.headers.get("range") for request in loopback.downloads(WEIGHTS)]
    assert ranges == [f"bytes={size}-"]
    assert (incomplete.parent / WEIGHTS).read_bytes() == weights[WEIGHTS]
    assert not incomplete.exists()


FETCH = """
import sys
from registry.hub.client import Hub
from registry.settings import Settings

hub = Hub(Settings())
hub.fetch(hub.snapshot(sys.argv[1]), [sys.argv[2]], lambda *_: None)
"""


def test_a_connection_that_breaks_again_and_again_ends_in_one_line(
    loopback, settings, cli, monkeypatch
):
    monkeypatch.setattr(hub, "ATTEMPTS", 2)
    loopback.cuts[WEIGHTS] = [0] * 9
    code, out, err = cli("mirror", MODEL, "--tokenizer", TOKENIZER)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(
        f"error: HUB_UNREACHABLE: {loopback.url()} cannot be reached (RemoteProt"
    )
    assert len(loopback.downloads(WEIGHTS)) == 2
    assert nothing_registered(settings)


@pytest.mark.parametrize(
    ("name", "damage", "algorithm"),
    [
        (WEIGHTS, lambda content: content[:-10], "size"),
        (WEIGHTS, lambda content: content + b"more", "size"),
        (WEIGHTS, lambda content: content[:-1] + bytes([content[-1] ^ 1]), "sha256"),
        (CONFIG, lambda content: content.replace(b"0.2", b"0.3"), "git sha1"),
    ],
    ids=["too small", "too large", "another byte", "another byte of a small file"],
)
def test_a_file_that_is_not_what_the_hub_described_is_removed_and_fetched_anew(
    loopback, settings, weights, name, damage, algorithm
):
    loopback.replaced[name] = damage(weights[name])
    with pytest.raises(Corrupt) as caught:
        mirrored(settings, SOURCE)
    commit = loopback.repositories[MODEL].head
    assert caught.value.message.startswith(f"{name} of {MODEL} at {commit[:12]} has {algorithm} ")
    damaged = loopback.replaced[name]
    if algorithm == "size":
        expected = f" {len(damaged)}, expected {len(weights[name])}; "
        assert expected in caught.value.message
    if algorithm == "sha256":
        expected = f" {sha256(damaged)}, expected {sha256(weights[name])}; "
        assert expected in caught.value.message
    assert not list(fetched(settings, MODEL, commit).glob(f"{name}*"))
    assert nothing_registered(settings)
    loopback.replaced.clear()
    assert mirrored(settings, SOURCE).version.version == 1


def test_a_file_without_an_end_does_not_fill_the_disk(loopback, settings, weights):
    loopback.replaced[WEIGHTS] = weights[WEIGHTS] + bytes(20_000_000)
    sizes: list[int] = []
    with pytest.raises(Corrupt, match=f"expected {len(weights[WEIGHTS])}; it was removed"):
        mirrored(settings, SOURCE, progress=lambda _, done, __: sizes.append(done))
    assert len(weights[WEIGHTS]) < max(sizes) < 1_000_000


def test_a_file_that_rotted_in_the_cache_is_not_registered(settings, weights):
    client = hub.Hub(settings)
    snapshot = client.snapshot(MODEL)
    client.fetch(snapshot, [WEIGHTS], lambda *_: None)
    (snapshot.folder / WEIGHTS).write_bytes(weights[WEIGHTS][:-1] + b"\0\0")
    with pytest.raises(Corrupt, match=r"has size .* it was removed, try again"):
        mirrored(settings, SOURCE)
    assert mirrored(settings, SOURCE).version.version == 1


@pytest.mark.parametrize("repo", ["NeoQuasar/Kronos-mini", "elsewhere/renamed"])
def test_released_weights_are_held_to_their_known_sha256(
    loopback, settings, weights, tmp_path, repo
):
    """The config has the released bytes; the weights do not."""
    commit = "f4e68697d9d5aed55cef5c96aabc3376bcad9f81"
    PredictorConfig().write(tmp_path / CONFIG)
    loopback.commit(repo, {**weights, CONFIG: (tmp_path / CONFIG).read_bytes()}, commit)
    with pytest.raises(Corrupt) as caught:
        mirrored(settings, Source(repo, tokenizer_id=TOKENIZER))
    pinned = "a7d5f37e2e9fbd9891f7d7d4f72574512dd1f704fee14223e0a8cd0fbf54197c"
    digest = sha256(weights[WEIGHTS])
    message = f"{WEIGHTS} of {repo} at {commit[:12]} has sha256 {digest}, expected {pinned}"
    assert message in caught.value.message
    assert nothing_registered(settings)


def test_a_hub_that_answers_for_another_commit_is_not_believed(loopback, settings):
    head = loopback.repositories[MODEL].head
    for revision, claimed, expected in (
        (head, "b" * 40, head),
        ("main", "../../etc", "a commit of 40 hex digits"),
    ):
        loopback.repositories[MODEL].claims = claimed
        with pytest.raises(Corrupt) as caught:
            mirrored(settings, Source(MODEL, revision, TOKENIZER))
        assert caught.value.message == (
            f"{loopback.url()} says that {MODEL} is at '{claimed}', "
            f"expected {expected}; use another Hub"
        )
    assert not (settings.var_dir / "hub").exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b/c", ""])
def test_a_hub_that_gives_a_repository_no_name_is_not_believed(loopback, settings, name):
    loopback.repositories[MODEL].renamed = name or " "
    error = refused(settings)
    assert error.code == "HUB_ANSWER"
    assert error.message.startswith(f"{loopback.url()} says that {MODEL} is named '{name or ' '}';")
    assert not (settings.var_dir / "hub").exists()


def test_a_renamed_repository_is_one_repository(loopback, settings, monkeypatch):
    """As the real Hub does, both names answer, the former with a redirect."""
    monkeypatch.setitem(official.TOKENIZERS, MODEL, TOKENIZER)
    loopback.moved = {"acme/former": f"|{MODEL}", "acme/former-tokens": f"|{TOKENIZER}"}
    version = mirrored(settings, Source("acme/former")).version
    assert version.tags["weight_source"] == MODEL
    assert version.tags["tokenizer_source"] == TOKENIZER
    for model, tokens in ((MODEL, TOKENIZER), ("acme/former", "acme/former-tokens")):
        again = mirrored(settings, Source(model, tokenizer_id=tokens))
        assert (again.version.version, again.registered) == (1, False)
    folders = sorted(path.name for path in (settings.var_dir / "hub").iterdir() if path.is_dir())
    assert folders == sorted(name.replace("/", "--") for name in (MODEL, TOKENIZER))


def test_a_redirect_in_a_circle_is_named_and_followed_once(loopback, settings):
    loopback.moved = {"acme/a": "|acme/b", "acme/b": "|acme/a"}
    error = refused(settings, Source("acme/a", tokenizer_id=TOKENIZER))
    assert error.code == "HUB_ANSWER"
    assert "requests for acme/a to other addresses without end" in error.message
    loopback.moved = {MODEL: f"ftp://127.0.0.1|{MODEL}"}
    error = refused(settings)
    assert error.code == "HUB_ANSWER"
    assert error.message.startswith(f"{loopback.url()} sends requests for {MODEL} to other ")


def test_the_token_is_not_sent_where_a_repository_was_moved_to_another_host(loopback, with_token):
    other = loopback.url().replace("127.0.0.1", "localhost")
    loopback.moved = {"acme/former": f"{other}|{MODEL}"}
    loopback.repositories[MODEL].token = SECRET
    error = refused(with_token, Source("acme/former", tokenizer_id=TOKENIZER))
    assert error.code == "NOT_FOUND"
    sent = [(r.path, r.headers.get("authorization")) for r in loopback.requests]
    assert sent == [
        ("/api/models/acme/former", f"Bearer {SECRET}"),
        (f"/api/models/{MODEL}", None),
    ]


@pytest.mark.parametrize(
    ("name", "left_out", "missing"),
    [
        (WEIGHTS, "size", "size"),
        (WEIGHTS, "lfs blobId", "digest"),
        (CONFIG, "size", "size"),
        (CONFIG, "blobId", "digest"),
        (CARD, "blobId", "digest"),
    ],
)
def test_a_hub_that_does_not_describe_a_file_is_named_before_it_is_downloaded(
    loopback, settings, name, left_out, missing
):
    loopback.undescribed[name] = left_out
    error = refused(settings)
    assert error.code == "HUB_ANSWER"
    head = loopback.repositories[MODEL].head
    assert error.message == (
        f"{loopback.url()} states no {missing} of {name} of {MODEL} at {head[:12]}; "
        "check HF_ENDPOINT and proxies, or use another Hub"
    )
    assert not [r for r in loopback.requests if r.path.endswith(f"/{name}")]


def test_a_file_that_nobody_needs_may_be_undescribed(loopback, settings):
    loopback.undescribed[".gitattributes"] = "size blobId"
    assert mirrored(settings, SOURCE).registered


def test_a_hub_that_zips_what_it_sends_is_understood(loopback, settings, weights):
    loopback.zipped = True
    version = mirrored(settings, SOURCE).version
    assert version.tags["weight_sha256"] == sha256(weights[WEIGHTS])


@pytest.mark.parametrize("existing", [True, False])
def test_a_link_in_place_of_a_partial_download_is_not_followed(
    loopback, settings, weights, tmp_path, existing
):
    elsewhere = tmp_path / "elsewhere"
    if existing:
        elsewhere.write_bytes(b"of somebody else")
    folder = fetched(settings, MODEL, loopback.repositories[MODEL].head)
    folder.mkdir(parents=True)
    (folder / f"{WEIGHTS}.incomplete").symlink_to(elsewhere)
    client = hub.Hub(settings)
    client.fetch(client.snapshot(MODEL), [WEIGHTS], lambda *_: None)
    assert (folder / WEIGHTS).read_bytes() == weights[WEIGHTS]
    assert not (folder / WEIGHTS).is_symlink()
    assert elsewhere.exists() == existing
    if existing:
        assert elsewhere.read_bytes() == b"of somebody else"


def test_a_folder_that_cannot_be_written_is_one_line(settings, cli):
    (settings.var_dir / "hub").write_text("not a folder")
    code, _, err = cli("mirror", MODEL, "--tokenizer", TOKENIZER)
    assert code == 1
    assert err.splitlines()[-1].startswith(
        f"error: NOT_WRITABLE: cannot write {settings.var_dir / 'hub'}: "
    )


# --- refused repositories ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "named"),
    [
        ("cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("other", "other"),
        ("unknown", "unknown"),
        (None, "none"),
        (["mit", "cc-by-nc-sa-4.0"], "mit, cc-by-nc-sa-4.0"),
    ],
)
def test_a_licence_that_is_not_allowed_is_refused_before_weights_are_fetched(
    loopback, settings, weights, licence, named
):
    loopback.commit(MODEL, {**weights, CARD: card(licence)})
    with pytest.raises(BadInput) as caught:
        mirrored(settings, SOURCE)
    assert caught.value.code == "LICENCE"
    assert f" has the licence {named}; allowed are apache-2.0, mit, " in caught.value.message
    assert loopback.downloads(WEIGHTS) == []
    assert nothing_registered(settings)


def test_the_tokenizers_licence_counts_too_and_a_repository_without_a_card_has_none(
    loopback, settings, tokens
):
    loopback.commit(TOKENIZER, {name: tokens[name] for name in (CONFIG, WEIGHTS)})
    with pytest.raises(BadInput, match=f"{TOKENIZER} at .* has the licence none; allowed are"):
        mirrored(settings, SOURCE)
    assert loopback.downloads(WEIGHTS) == []


def test_a_card_that_cannot_be_read_is_no_licence(loopback, settings, weights):
    loopback.commit(MODEL, {**weights, CARD: b"---\n- license: mit\n---\n"})
    with pytest.raises(BadInput, match=r"the YAML at the top of README.md of acme/kronos-tiny at"):
        mirrored(settings, SOURCE)


def test_a_repository_with_pickled_weights_only_is_refused(loopback, settings, weights):
    loopback.commit(
        MODEL,
        {CONFIG: weights[CONFIG], CARD: card(), "pytorch_model.bin": b"\x80", "old.ckpt": b"\x80"},
    )
    with pytest.raises(BadInput) as caught:
        mirrored(settings, SOURCE)
    assert caught.value.code == "PICKLE_ONLY"
    message = "pickled weights only (old.ckpt, pytorch_model.bin), which can run any code"
    assert message in caught.value.message
    assert loopback.downloads("pytorch_model.bin") == []


def test_a_repository_with_sharded_weights_is_refused_and_says_what_to_do(
    loopback, settings, weights
):
    shard = "model-00001-of-00002.safetensors"
    files = {CONFIG: weights[CONFIG], CARD: card(), f"{WEIGHTS}.index.json": b"{}", shard: b"1"}
    commit = loopback.commit(MODEL, files)
    error = refused(settings)
    assert error.code == "SHARDED"
    assert error.message.startswith(
        f"{MODEL} at {commit[:12]} has sharded weights ({WEIGHTS}.index.json), "
        f"expected one {WEIGHTS}; "
    )


def test_a_repository_that_is_no_kronos_says_what_it_lacks(loopback, settings):
    loopback.commit(MODEL, {CARD: card()})
    message = r"lacks config.json and model.safetensors; a Kronos repository holds"
    with pytest.raises(NotFound, match=message):
        mirrored(settings, SOURCE)


def test_a_tokenizer_of_other_bits_is_refused(loopback, settings, tmp_path):
    loopback.commit(TOKENIZER, repository(tokenizer(s1_bits=6, s2_bits=4), tmp_path / "other"))
    with pytest.raises(BadConfig) as caught:
        mirrored(settings, SOURCE)
    assert caught.value.code == "PAIRING"
    assert nothing_registered(settings)


def test_weights_of_others_need_their_tokenizer_named(settings):
    message = f"the tokenizer of {MODEL} is unknown; set --tokenizer ORG/NAME"
    with pytest.raises(BadParameter, match=message):
        mirrored(settings, Source(MODEL))


def test_a_date_that_is_none_is_refused():
    message = "--pretrained-until is '2024', expected a date like 2024-06-30"
    with pytest.raises(BadParameter, match=message):
        Source(MODEL, pretrained_until="2024")


def test_without_bars_the_command_that_makes_them_is_named_and_nothing_is_fetched(
    loopback, settings
):
    (settings.var_dir / "data").unlink()
    with pytest.raises(NotFound, match="run `python -m jobs compile --source builtin`"):
        mirrored(settings, SOURCE)
    assert not [r for r in loopback.requests if "/resolve/" in r.path]


# --- refused access -----------------------------------------------------------------------------


def refused(settings: Settings, source: Source = SOURCE) -> KronosError:
    with pytest.raises(KronosError) as caught:
        mirrored(settings, source)
    assert "\n" not in caught.value.message
    assert SECRET not in caught.value.message
    return caught.value


def test_a_private_repository_without_a_token_says_to_set_one(loopback, settings):
    loopback.repositories[MODEL].token = SECRET
    error = refused(settings)
    assert error.code == "NOT_FOUND"
    assert error.message == (
        f"{loopback.url()} has no repository {MODEL}, or it is private and "
        "your token (none, set HF_TOKEN) may not read it"
    )


def test_a_private_repository_of_somebody_else_is_not_found(loopback, with_token):
    loopback.repositories[MODEL].token = "hf_of_somebody_else"
    message = "it is private and your token (that of HF_TOKEN) may not read it"
    assert message in refused(with_token).message


def test_a_private_repository_is_mirrored_with_its_token(loopback, with_token):
    loopback.repositories[MODEL].token = SECRET
    assert mirrored(with_token, SOURCE).version.version == 1


def test_a_token_that_the_hub_does_not_know_is_refused_as_such(loopback, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "no_token_at_all")
    error = refused(Settings())
    assert error.code == "HUB_DENIED"
    assert error.message == (
        f"{loopback.url()} refuses the token in HF_TOKEN; "
        "make a new one under Settings, Access Tokens"
    )


def test_a_token_with_a_blank_inside_is_refused_before_it_is_sent(loopback, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}\nsecond line")
    error = refused(Settings())
    assert type(error) is BadConfig
    assert error.message.startswith("HF_TOKEN holds a blank or a character ")
    assert loopback.requests == []


@pytest.mark.parametrize(
    ("token", "mine"), [(SECRET, "that of HF_TOKEN"), ("", "none, set HF_TOKEN")]
)
def test_a_gated_repository_is_described_and_its_files_say_where_to_accept_its_terms(
    loopback, monkeypatch, token, mine
):
    monkeypatch.setenv("HF_TOKEN", token)
    loopback.repositories[MODEL].token = "hf_of_somebody_else"
    loopback.repositories[MODEL].gated = True
    assert WEIGHTS in hub.Hub(Settings()).snapshot(MODEL).files
    error = refused(Settings())
    assert error.code == "HUB_DENIED"
    assert error.message == (
        f"{MODEL} is gated: accept its terms at {loopback.url()}/{MODEL} "
        f"with the account of your token ({mine})"
    )


def test_an_unknown_revision_is_named(settings):
    error = refused(settings, Source(MODEL, "0" * 40, TOKENIZER))
    message = f"{MODEL} has no revision {'0' * 40}; expected a commit, branch or tag of it"
    assert error.message == message


def test_a_name_that_is_none_is_refused(settings):
    error = refused(settings, Source("a/b/c", tokenizer_id=TOKENIZER))
    assert type(error) is BadParameter
    assert error.message.startswith("'a/b/c' is not a repository name; ")


def test_a_hub_that_does_not_answer_is_one_line_and_exit_code_1(loopback, cli):
    url = loopback.url()
    loopback.__exit__()
    code, out, err = cli("mirror", MODEL, "--tokenizer", TOKENIZER)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(
        f"error: HUB_UNREACHABLE: {url} cannot be reached (ConnectError); check the"
    )


def test_offline_mode_is_named(settings, monkeypatch):
    # huggingface_hub reads the variable HF_HUB_OFFLINE at import.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    error = refused(settings)
    assert error.code == "HUB_UNREACHABLE"
    assert error.message == "HF_HUB_OFFLINE is set; unset it to reach the Hub"


def test_an_endpoint_that_is_no_hub_is_named(loopback, settings):
    loopback.portal = b"<html>Please log in to the hotel's network</html>"
    error = refused(settings)
    assert error.code == "HUB_ANSWER"
    message = "does not answer like a Hub (JSONDecodeError); check HF_ENDPOINT and proxies"
    assert error.message == f"{loopback.url()} {message}, or use another Hub"


@pytest.mark.parametrize(
    "endpoint",
    [
        "huggingface.co",
        "ftp://huggingface.co",
        "https://",
        "https:huggingface.co",
        "//host",
        "[::1",
    ],
)
def test_an_endpoint_that_is_no_url_is_refused_with_an_example(settings, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    error = refused(settings)
    assert type(error) is BadConfig
    assert error.message.endswith("expected a URL such as https://huggingface.co; "
                                  "without it, this one is used")  # fmt: skip
    assert error.message.startswith(f"HF_ENDPOINT is '{endpoint.rstrip('/')}'")


def test_user_and_password_of_an_endpoint_that_is_no_url_are_not_shown(settings, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "somebody:p@ssword@hub.example")
    assert refused(settings).message.startswith("HF_ENDPOINT is 'hub.example', expected a URL")


def test_an_empty_endpoint_is_the_default_and_blanks_and_slashes_are_left_out(
    loopback, settings, monkeypatch
):
    # huggingface_hub takes an empty variable for an address without a host.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "")
    for empty in ("", " ", "/"):
        monkeypatch.setenv("HF_ENDPOINT", empty)
        assert hub.Hub(settings).endpoint == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", f" {loopback.url()}// ")
    assert hub.Hub(settings).snapshot(MODEL).commit == loopback.repositories[MODEL].head


@pytest.mark.parametrize("port", ["{port}", "9"], ids=["a hub that refuses it", "no hub"])
def test_user_and_password_of_the_endpoint_are_shown_nowhere(loopback, cli, monkeypatch, port):
    address = f"127.0.0.1:{port.format(port=loopback.url().rpartition(':')[2])}"
    monkeypatch.setenv("HF_ENDPOINT", f"http://somebody:p@ssword@{address}")
    code, out, err = cli("mirror", MODEL, "--tokenizer", TOKENIZER)
    assert code != 0
    assert f" http://{address} " in err.splitlines()[-1]
    assert not any(word in text for word in ("somebody", "ssword") for text in (out, err))
    # The library logs "... requesting {url}" as a warning.
    library_log = logging.getLogger("huggingface_hub.utils._http")
    assert not library_log.isEnabledFor(logging.WARNING)


# --- the token --------------------------------------------------------------------------------


def test_the_token_is_sent_to_the_hub_alone_and_written_nowhere(loopback, with_token, cli, caplog):
    caplog.set_level("INFO")
    for repo in (MODEL, TOKENIZER):
        loopback.repositories[repo].token = SECRET
    code, out, err = cli("mirror", MODEL, "--tokenizer", TOKENIZER, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["uri"], answer["version"]) == ("models:/kronos/1", 1)
    assert answer["registered"] is True
    assert answer["revision"] == loopback.repositories[MODEL].head
    loopback.writer, loopback.refuses_with = "hf_of_the_owner", 507
    code, out_of_push, err_of_push = cli("push", "kronos", "--version", "1", "--repo", "acme/mine")
    assert code == 1
    assert "answered 507 for acme/mine-Tokenizer: Denied. " in err_of_push
    # The message is cut inside the token, so the token must be hidden before the cut.
    assert "Denied. The token HF_TOKEN has no wr; try again later" in err_of_push
    tokens_by_server = {"hub": set(), "cdn": set()}
    for request in loopback.requests:
        tokens_by_server[request.server].add(request.headers.get("authorization"))
    assert tokens_by_server == {"hub": {f"Bearer {SECRET}"}, "cdn": {None}}
    texts = (out, err, out_of_push, err_of_push, caplog.text)
    assert not any(SECRET[:9] in text for text in texts)
    files = [path for path in with_token.var_dir.rglob("*") if path.is_file()]
    assert {"mlflow.db", "MLmodel", "files.json", WEIGHTS} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    version = Store(with_token).version("kronos", 1)
    run = Store(with_token).client.get_run(version.run_id)
    assert SECRET not in f"{version} {run.to_dictionary()}"


def test_a_token_that_hf_token_does_not_name_is_not_sent(loopback, settings, monkeypatch):
    # By itself the library uses this token, or one from the user's home.
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", SECRET)
    mirrored(settings, SOURCE)
    assert {r.headers.get("authorization") for r in loopback.requests} == {None}


# --- push -------------------------------------------------------------------------------------


@pytest.fixture
def owned(loopback: Any) -> Any:
    """The Hub, where HF_TOKEN may write."""
    loopback.writer = SECRET
    return loopback


def front_matter(files: Mapping[str, bytes]) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(files[CARD].decode().split("---\n")[1])
    return data


def test_what_was_pushed_can_be_mirrored_back_byte_for_byte(
    owned, with_token, cli, weights, tokens
):
    mirrored(with_token, Source(MODEL, tokenizer_id=TOKENIZER, pretrained_until="2023-12-29"))
    code, out, err = cli("push", "kronos", "--version", "latest", "--repo", "acme/mine", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["uri"], answer["version"]) == ("models:/kronos/1", 1)
    assert answer["repo"] == "acme/mine"
    assert answer["revision"] == owned.repositories["acme/mine"].head
    assert answer["tokenizer_revision"] == owned.repositories["acme/mine-Tokenizer"].head
    for repo, files in (("acme/mine", weights), ("acme/mine-Tokenizer", tokens)):
        assert set(owned.files(repo)) == {CONFIG, WEIGHTS, CARD}
        for name in (CONFIG, WEIGHTS):
            assert owned.files(repo)[name] == files[name]
    back = mirrored(with_token, Source("acme/mine", tokenizer_id="acme/mine-Tokenizer")).version
    assert back.version == 2
    assert back.tags["weight_revision"] == answer["revision"]
    assert back.tags["weight_sha256"] == sha256(weights[WEIGHTS])
    assert back.tags["tokenizer_sha256"] == sha256(tokens[WEIGHTS])
    assert (back.tags["licence"], back.tags["pretrained_until"]) == ("mit", "2023-12-29")


def test_the_card_says_units_origin_metrics_and_limits(owned, with_token):
    version = mirrored(with_token, SOURCE).version
    run = tracking.Run(version.run_id, Store(with_token).client)
    run.metrics({"crps": 0.0061, "coverage_90": 0.87})
    result = pushed(with_token, "kronos/1", "acme/mine", "acme/mine-t")
    files = owned.files("acme/mine")
    assert front_matter(files) == {
        "license": "mit",
        "library_name": "kronos-registry",
        "pipeline_tag": "time-series-forecasting",
        "tags": ["kronos", "finance", "time-series"],
        "pretrained_until": "unknown",
        "trained_until": "none",
        "base_model": MODEL,
    }
    text = files[CARD].decode()
    command = "python -m registry mirror acme/mine --tokenizer acme/mine-t"
    for line in (
        "| crps | 0.0061 |",
        "| coverage_90 | 0.87 |",
        "| trained_until | none |",
        f"| weight_revision | {owned.repositories[MODEL].head} |",
        f"    {command} --tokenizer-revision {result.tokenizer_revision}",
        "## Units",
        "## Limits",
    ):
        assert line in text.splitlines()
    assert (
        "Input: bars of sessions (open, high, low, close, volume, amount) in one currency" in text
    )
    assert "The model needs at least 32 sessions and uses the last 64." in text
    assert "| seconds |" not in text
    assert front_matter(owned.files("acme/mine-t"))["base_model"] == TOKENIZER


@pytest.fixture
def trained(with_token: Settings) -> Version:
    """A kronos, barely trained from scratch."""
    short = {"report_until": "2011-03-31", "report_every": 20}
    plan = planning.plan(with_token, "kronos", short, seed=0, tiny=True)
    return train.train(with_token, plan, References()).version


def test_the_card_of_a_version_trained_here_says_what_its_scores_are_of(owned, with_token, trained):
    pushed(with_token, "kronos/1", "acme/mine")
    text = owned.files("acme/mine")[CARD].decode()
    measured = Store(with_token).metrics(trained)
    assert "crps_by_step" in measured
    assert f"| crps | {measured['crps']:.6g} |" in text.splitlines()
    assert "_by_step" not in text
    assert "| data | bars |" in text.splitlines()
    levels = "0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"
    line = (
        "Measured on the data set bars, sessions after 2010-12-31, up to 2011-03-31, "
        f"origins 20 session(s) apart, 5 session(s) ahead, at the levels {levels}."
    )
    assert line in text.splitlines()
    source = Source("acme/mine", tokenizer_id="acme/mine-Tokenizer")
    back = mirrored(with_token, source).version.tags
    assert trained.tags["pretrained_until"] == "none"
    assert trained.tags["trained_until"] == "2010-12-31"
    trained_here = ("none", "trained as kronos/1")
    assert (back["pretrained_until"], back["pretrained_until_source"]) == trained_here
    assert back["trained_until"] == "2010-12-31"
    # A copy whose card claims other dates was trained here all the same.
    files = {**owned.files("acme/mine"), CARD: card(trained_until="2001-01-01")}
    owned.commit("elsewhere/copy", files)
    copy = Source("elsewhere/copy", tokenizer_id="acme/mine-Tokenizer")
    tags = mirrored(with_token, copy).version.tags
    assert (tags["pretrained_until"], tags["pretrained_until_source"]) == trained_here
    assert tags["trained_until"] == "2010-12-31"


def test_pushing_the_same_version_again_makes_no_commit(owned, with_token):
    mirrored(with_token, SOURCE)
    reports: list[tuple[str, int, int]] = []
    first = pushed(with_token, "kronos/1", "acme/mine", progress=lambda *r: reports.append(r))
    size = len(owned.files("acme/mine")[CARD])
    assert ("acme/mine README.md", size, size) in reports
    assert pushed(with_token, "kronos/1", "acme/mine") == first
    for repo in ("acme/mine", "acme/mine-Tokenizer"):
        assert len(owned.repositories[repo].commits) == 1


def test_large_files_that_the_hub_lacks_are_sent_with_progress(owned, with_token, weights):
    mirrored(with_token, SOURCE)
    del owned.objects[sha256(weights[WEIGHTS])]
    reports: list[tuple[str, int, int]] = []
    pushed(with_token, "kronos/1", "acme/mine", progress=lambda *r: reports.append(r))
    assert owned.files("acme/mine")[WEIGHTS] == weights[WEIGHTS]
    done = [report[1] for report in reports if report[0] == f"acme/mine {WEIGHTS}"]
    assert done == sorted(done)
    assert done[-1] == len(weights[WEIGHTS])


def test_private_repositories_are_made_private_and_public_ones_are_refused(owned, with_token):
    mirrored(with_token, SOURCE)
    pushed(with_token, "kronos/1", "acme/mine", private=True)
    for repo in ("acme/mine", "acme/mine-Tokenizer"):
        assert owned.repositories[repo].private
    owned.commit("acme/open", {CARD: card()})
    with pytest.raises(Conflict, match="acme/open is public, expected a private repository"):
        pushed(with_token, "kronos/1", "acme/open", "acme/open-t", private=True)
    assert set(owned.files("acme/open")) == {CARD}


def test_a_version_whose_bytes_differ_is_not_pushed(owned, with_token):
    version = mirrored(with_token, SOURCE).version
    stored = Store(with_token).fetch(version) / manifest.MODEL_DIR / "predictor" / WEIGHTS
    stored.write_bytes(stored.read_bytes()[:-1] + b"\xff")
    owned.requests.clear()
    with pytest.raises(Corrupt, match="differs from what was registered"):
        pushed(with_token, "kronos/1", "acme/mine")
    assert owned.requests == []


def test_a_version_of_another_family_cannot_be_pushed(with_token):
    from mlprojects.baselines import model as baselines
    from registry.forecast.spec import ModelSpec
    from registry.versions.store import example_history

    spec = ModelSpec("ewma", "baselines", min_context=10, max_context=1000, max_horizon=5)
    store = Store(with_token)
    with tracking.start(with_token, "train", "ewma"):
        store.log(
            spec,
            lambda folder: baselines.save(baselines.Ewma(spec), folder),
            requirements=baselines.REQUIREMENTS,
            example=example_history(history(with_token), spec),
            tags={"family": "baselines"},
        )
    message = "models:/ewma/1 holds no predictor and no tokenizer; only versions of Kron"
    with pytest.raises(NotAvailable, match=message):
        pushed(with_token, "ewma/1", "acme/mine")


def test_push_without_the_right_to_write_says_so(owned, settings, with_token):
    mirrored(with_token, SOURCE)
    with pytest.raises(BadInput, match="set HF_TOKEN to a Hub token with write access"):
        pushed(settings, "kronos/1", "acme/mine")
    owned.writer = "hf_of_the_owner"
    with pytest.raises(BadInput) as caught:
        pushed(with_token, "kronos/1", "acme/mine")
    assert (caught.value.code, SECRET in caught.value.message) == ("HUB_DENIED", False)
    assert "has no right to do this with acme/mine-Tokenizer" in caught.value.message


@pytest.mark.parametrize(
    ("repo", "tokenizer_repo", "named"),
    [
        ("mine", "", "mine"),
        ("acme/mine", "tokens", "tokens"),
        ("acme/a--b", "acme/tokens", "acme/a--b"),
    ],
)
def test_a_name_that_is_none_is_refused_before_anything_is_made(
    owned, with_token, repo, tokenizer_repo, named
):
    mirrored(with_token, SOURCE)
    before = set(owned.repositories)
    with pytest.raises(BadParameter) as caught:
        pushed(with_token, "kronos/1", repo, tokenizer_repo)
    message = f"'{named}' is not a repository name; expected ORG/NAME, as in NeoQuasar/Kronos-mini"
    assert caught.value.message == message
    assert set(owned.repositories) == before


def test_weights_and_tokenizer_need_two_repositories(with_token):
    with pytest.raises(BadParameter, match="weights and tokenizer cannot share acme/mine"):
        pushed(with_token, "kronos/1", "acme/mine", "acme/mine")
