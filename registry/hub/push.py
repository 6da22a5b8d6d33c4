"""A registered Kronos as two repositories of the Hugging Face Hub, in the layout that it was mirrored from."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from registry.errors import BadParameter, NotAvailable
from registry.forecast import names
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec
from registry.hub.client import CARD, CONFIG, WEIGHTS, Hub, Progress, check_name
from registry.hub.mirror import LIBRARY, Official
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.manifest import MODEL_DIR
from registry.versions.store import Store
from registry.versions.version import Version

_FACTS = ("weights", "weight_source", "weight_revision", "tokenizer_source", "tokenizer_revision",
          "pretrained_until", "pretrained_until_source", "trained_until", "data", "data_digest", "max_context", "clip",
          "git_commit", "lock_sha256", "code_digest")  # fmt: skip
_SCORES = ("crps", "pinball", "coverage_", "winkler_", "mae_", "bias", "direction", "rank_ic", "skill_", "dm_p_",
           "bars_corrected")  # fmt: skip
_MEASURED_ON = {  # a tag of the version, then parameters of its run
    "data": "the data set {}",
    "choose_until": "sessions after {}",
    "report_until": "up to {}",
    "report_every": "origins {} session(s) apart",
    "horizon": "{} session(s) ahead",
    "levels": "at the levels {}",
}
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Pushed:
    """A version, and the commits that hold it."""

    version: Version
    repo: str
    revision: str
    tokenizer_repo: str
    tokenizer_revision: str

    def summary(self) -> dict[str, Any]:
        return {
            "uri": self.version.uri,
            "model": self.version.name,
            "version": self.version.version,
            "repo": self.repo,
            "revision": self.revision,
            "tokenizer_repo": self.tokenizer_repo,
            "tokenizer_revision": self.tokenizer_revision,
        }


def push(
    settings: Settings,
    reference: str,
    repo: str,
    tokenizer_repo: str = "",
    *,
    official: Official,
    private: bool = False,
    progress: Progress = lambda *_: None,
) -> Pushed:
    """Send a verified version, as in 'kronos/3'; what is unchanged makes no new commit.

    Raises NotFound, Corrupt, NotAvailable for a version that is no Kronos, BadInput without the right to write.
    """
    tokenizer_repo = tokenizer_repo or f"{repo}-Tokenizer"
    for name in (repo, tokenizer_repo):
        check_name(name)
    if repo == tokenizer_repo:
        raise BadParameter(
            f"weights and tokenizer cannot share {repo}: both are a {CONFIG} and a {WEIGHTS}"
        )
    store, hub = Store(settings), Hub(settings)
    version = store.resolve(reference)
    model_dir = store.fetch(version) / MODEL_DIR
    missing = [part for part in official.PARTS if not (model_dir / part / WEIGHTS).is_file()]
    if missing:
        raise NotAvailable(
            f"{version.uri} holds no {' and no '.join(missing)}; only versions of Kronos are pushed"
        )
    spec = read_spec(model_dir)
    message = f"{version.name} version {version.version} of a Kronos Registry"

    def send(part: str, where: str, card: str) -> str:
        with tracking.scratch() as folder:
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(model_dir / part / name, folder / name)
            (folder / CARD).write_text(card)
            return hub.send(where, folder, message, private=private, progress=progress)

    tokenizer_revision = send(
        "tokenizer", tokenizer_repo, tokenizer_card(version, tokenizer_repo, repo)
    )
    tokenizer = f"{tokenizer_repo}@{tokenizer_revision}"
    metrics = store.metrics(version)
    measured_on = reported(store, version) if metrics else {}
    revision = send(
        "predictor", repo, predictor_card(version, spec, metrics, measured_on, repo, tokenizer)
    )
    return Pushed(version, repo, revision, tokenizer_repo, tokenizer_revision)


def reported(store: Store, version: Version) -> dict[str, str]:
    """What the metrics of a version were measured on, as far as its tags and the parameters of its run say.

    The version has metrics, and so there is a run.
    """
    params = store.client.get_run(version.run_id).data.params
    used = {
        key: params.get(f"used_{key}", params.get(key)) for key in _MEASURED_ON
    }  # as tracking.Run logs them
    told = used | {key: version.tags[key] for key in ("data", "data_digest") if key in version.tags}
    return {key: value.strip("'") for key, value in told.items() if value}


# --- cards ------------------------------------------------------------------------------------


def predictor_card(
    version: Version,
    spec: ModelSpec,
    metrics: Mapping[str, float],
    measured_on: Mapping[str, str],
    repo: str,
    tokenizer: str,
) -> str:
    """What the Hub shows of the weights; `tokenizer` is its repository and commit, as in ORG/NAME@0a1b..."""
    name, _, commit = tokenizer.partition("@")
    overall = [
        key for key in sorted(metrics) if key.startswith(_SCORES) and not key.endswith("_by_step")
    ]
    scores = [f"| {key} | {metrics[key]:.6g} |" for key in overall]
    table = (
        "\n".join(["| score | value |", "|---|---|", *scores]) if scores else "Its run has none."
    )
    facts = "\n".join(f"| {key} | {version.tags[key]} |" for key in _FACTS if key in version.tags)
    fields = ", ".join(c for c in (*spec.columns, *spec.optional) if c not in names.HISTORY)
    return f"""{_front_matter(version, "licence", "weight_source")}# {repo.partition("/")[2]}

Weights of Kronos (Shi et al., AAAI 2026, arXiv 2508.02739): version {version.version} of the registered model
`{version.name}`. Its tokenizer is [{name}](https://huggingface.co/{name}) at `{commit}`; no other fits.

    python -m registry mirror {repo} --tokenizer {name} --tokenizer-revision {commit}

## Units

In: bars of sessions ({fields}) in one currency, on one price basis, volume in shares; at least {spec.min_context} of
them, of which the last {spec.max_context} are looked at. Each window is standardised by its own mean and deviation and
clipped at {version.tags.get("clip", "5")} deviations. Out: sampled bars of the next 1 to {spec.max_horizon} sessions in
the units of the input, and quantiles of their single-session log returns.

## Origin

| | |
|---|---|
{facts}

## Metrics of its run

Single-session log returns, raw forecasts; lower is better for crps and pinball.{_measured(measured_on)}

{table}

## Limits

What the weights saw up to `pretrained_until` and `trained_until` is no evidence of skill: judge them on later sessions,
beside a volatility baseline. Sampled paths of Kronos tend to be too narrow; calibrate before quantiles are used.
It forecasts no halts, splits or news. Not investment advice.
"""


def _measured(on: Mapping[str, str]) -> str:
    """Which rows were scored, as a sentence on a line of its own."""
    told = {
        key: "the end of the data" if on[key] == "None" else on[key]
        for key in _MEASURED_ON
        if key in on
    }
    return (
        f"\nMeasured on {', '.join(_MEASURED_ON[key].format(value) for key, value in told.items())}."
        if told
        else ""
    )


def tokenizer_card(version: Version, repo: str, predictor: str) -> str:
    """What the Hub shows of the tokenizer."""
    return f"""{_front_matter(version, "tokenizer_licence", "tokenizer_source")}# {repo.partition("/")[2]}

Tokenizer of [{predictor}](https://huggingface.co/{predictor}), from version {version.version} of the registered model
`{version.name}`. It turns standardised bars (open, high, low, close, volume, amount) into two tokens each, and back.
"""


def _front_matter(version: Version, licence: str, source: str) -> str:
    """YAML that the Hub and `registry mirror` read; `licence` and `source` are tags of the version."""
    tags = version.tags
    facts: dict[str, Any] = {
        "license": tags.get(licence, tags["licence"]).lower(),
        "library_name": LIBRARY,
        "pipeline_tag": "time-series-forecasting",
        "tags": ["kronos", "finance", "time-series"],
        **{key: tags[key] for key in ("pretrained_until", "trained_until") if key in tags},
    }
    if _REPOSITORY.fullmatch(tags.get(source, "")):
        facts["base_model"] = tags[source]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n\n"
