"""Push a registered Kronos to two Hugging Face repositories, in the layout that `mirror` reads."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.errors import BadParameter, NotAvailable
from registry.files import temporary_folder
from registry.forecast import names
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec
from registry.hub.client import CARD, CONFIG, WEIGHTS, Hub, Progress, check_name
from registry.hub.mirror import Official
from registry.settings import Settings
from registry.versions.manifest import MODEL_DIR
from registry.versions.store import Store
from registry.versions.version import Version

_FACTS = ("weights", "weight_source", "weight_revision", "tokenizer_source", "tokenizer_revision",
          "pretrained_until", "pretrained_until_source", "trained_until", "data", "data_digest",
          "max_context", "clip", "git_commit", "lock_sha256", "code_digest")  # fmt: skip
_SCORES = ("crps", "pinball", "coverage_", "winkler_", "mae_", "bias", "direction", "rank_ic",
           "skill_", "dm_p_", "bars_corrected")  # fmt: skip
_SCORED_ROWS = {  # "data" is a tag of the version, the others are parameters of its run
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
    """A version and its commits on the Hub."""

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
    """Send a verified version, as in 'kronos/3'; unchanged files make no new commit.

    Raises NotFound, Corrupt, NotAvailable if the version is no Kronos, BadInput without the right
    to write, BadParameter for a wrong repository name, and Conflict for a public repository if
    `private`.
    """
    tokenizer_repo = tokenizer_repo or f"{repo}-Tokenizer"
    for name in (repo, tokenizer_repo):
        check_name(name)
    if repo == tokenizer_repo:
        raise BadParameter(
            f"weights and tokenizer cannot share {repo}, since both have a {CONFIG} "
            f"and a {WEIGHTS}; name two repositories"
        )
    store, hub = Store(settings), Hub(settings)
    version = store.resolve(reference)
    model_dir = store.fetch(version) / MODEL_DIR
    missing = [part for part in official.PARTS if not (model_dir / part / WEIGHTS).is_file()]
    if missing:
        raise NotAvailable(
            f"{version.uri} holds no {' and no '.join(missing)}; "
            "only versions of Kronos can be pushed"
        )
    spec = read_spec(model_dir)
    message = f"{version.name} version {version.version} of a Kronos Registry"

    def send(part: str, target: str, card: str) -> str:
        with temporary_folder(settings.state_dir, "push") as temporary:
            folder = Path(temporary)
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(model_dir / part / name, folder / name)
            (folder / CARD).write_text(card)
            return hub.send(target, folder, message, private=private, progress=progress)

    card = tokenizer_card(version, tokenizer_repo, repo)
    tokenizer_revision = send("tokenizer", tokenizer_repo, card)
    tokenizer = f"{tokenizer_repo}@{tokenizer_revision}"
    metrics = store.metrics(version)
    rows = scored_rows(store, version) if metrics else {}
    card = predictor_card(version, spec, metrics, rows, repo, tokenizer)
    revision = send("predictor", repo, card)
    return Pushed(version, repo, revision, tokenizer_repo, tokenizer_revision)


def scored_rows(store: Store, version: Version) -> dict[str, str]:
    """Data set and settings that define the scored rows; unknown ones are left out.

    They come from the version's tags and its run. A version with metrics has a run.
    """
    params = store.client.get_run(version.run_id).data.params
    facts = {}
    for key in _SCORED_ROWS:
        facts[key] = params.get(f"used_{key}", params.get(key))  # see tracking.Run.params
    for key in ("data", "data_digest"):
        if key in version.tags:
            facts[key] = version.tags[key]
    return {key: value.strip("'") for key, value in facts.items() if value}


# --- cards ------------------------------------------------------------------------------------


def predictor_card(
    version: Version,
    spec: ModelSpec,
    metrics: Mapping[str, float],
    rows: Mapping[str, str],
    repo: str,
    tokenizer: str,
) -> str:
    """Model card of the weights.

    `rows` comes from `scored_rows`. `tokenizer` is a repository at a commit: ORG/NAME@0a1b...
    """
    name, _, commit = tokenizer.partition("@")
    scores = []
    for key in sorted(metrics):
        if key.startswith(_SCORES) and not key.endswith("_by_step"):
            scores.append(f"| {key} | {metrics[key]:.6g} |")
    table = "Its run has none."
    if scores:
        table = "\n".join(["| score | value |", "|---|---|", *scores])
    facts = "\n".join(f"| {key} | {version.tags[key]} |" for key in _FACTS if key in version.tags)
    columns = (*spec.columns, *spec.optional)
    fields = ", ".join(column for column in columns if column not in names.HISTORY)
    clip = version.tags.get("clip", "5")
    front_matter = _front_matter(version, "licence", "weight_source")
    return f"""{front_matter}# {repo.partition("/")[2]}

Weights of Kronos (Shi et al., AAAI 2026, arXiv 2508.02739): version {version.version} of the
registered model `{version.name}`. They work only with the tokenizer
[{name}](https://huggingface.co/{name}) at `{commit}`.

    python -m registry mirror {repo} --tokenizer {name} --tokenizer-revision {commit}

## Units

Input: bars of sessions ({fields}) in one currency, on one price basis, volume in shares.
The model needs at least {spec.min_context} sessions and uses the last {spec.max_context}.
Each window is standardised by its own mean and standard deviation, then clipped at
{clip} standard deviations.

Output: sampled bars of the next 1 to {spec.max_horizon} sessions in the units of the input, and
quantiles of their single-session log returns.

## Origin

| | |
|---|---|
{facts}

## Metrics of its run

Scores of raw forecasts of single-session log returns.
Lower is better for crps and pinball.{_measured(rows)}

{table}

## Limits

Sessions up to `pretrained_until` and `trained_until` were used for training and are no evidence of
skill: judge the weights on later sessions, beside a volatility baseline. Sampled paths of Kronos
tend to be too narrow; calibrate the quantiles before use. The model does not forecast halts, splits
or news. Not investment advice.
"""


def _measured(rows: Mapping[str, str]) -> str:
    """A line that describes the scored rows; empty if nothing is known of them."""
    phrases = []
    for key, phrase in _SCORED_ROWS.items():
        if key in rows:
            value = "the end of the data" if rows[key] == "None" else rows[key]
            phrases.append(phrase.format(value))
    return f"\nMeasured on {', '.join(phrases)}." if phrases else ""


def tokenizer_card(version: Version, repo: str, predictor: str) -> str:
    """Model card of the tokenizer."""
    front_matter = _front_matter(version, "tokenizer_licence", "tokenizer_source")
    return f"""{front_matter}# {repo.partition("/")[2]}

Tokenizer of [{predictor}](https://huggingface.co/{predictor}), from version {version.version} of
the registered model `{version.name}`. It encodes each standardised bar (open, high, low, close,
volume, amount) as two tokens and decodes them again.
"""


def _front_matter(version: Version, licence: str, source: str) -> str:
    """YAML for the Hub and `registry mirror`; `licence` and `source` name tags of the version."""
    tags = version.tags
    facts: dict[str, Any] = {
        "license": tags.get(licence, tags["licence"]).lower(),
        "library_name": "kronos-registry",
        "pipeline_tag": "time-series-forecasting",
        "tags": ["kronos", "finance", "time-series"],
    }
    for key in ("pretrained_until", "trained_until"):
        if key in tags:
            facts[key] = tags[key]
    if _REPOSITORY.fullmatch(tags.get(source, "")):
        facts["base_model"] = tags[source]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n\n"
