"""Register Kronos weights from the Hugging Face Hub: pinned, checked, then usable offline."""

import contextlib
import hashlib
import io
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from huggingface_hub import metadata_load

from registry import compiled
from registry.compiled import COMMAND, KEY
from registry.dates import check_date, is_date
from registry.errors import BadInput, BadParameter, Corrupt, KronosError, NotFound
from registry.forecast import names
from registry.forecast.answer import forecast_of
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecaster
from registry.forecast.model_folder import family_module
from registry.forecast.spec import ModelSpec
from registry.hub.client import CARD, CONFIG, WEIGHTS, Hub, Progress, Snapshot
from registry.settings import CHECKOUT, Settings
from registry.versions import artifacts, describing, tracking
from registry.versions.manifest import MODEL_DIR, sha256
from registry.versions.store import Store, example_history
from registry.versions.version import RECIPE_TAG, Version

EXPERIMENT = "mirrors"
LICENCES = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "isc",
    "cc0-1.0",
    "cc-by-4.0",
    "unlicense",
)
OFFICIAL = (CARD, CONFIG, WEIGHTS)
SHOWN = ("weight_source", "weight_revision", "weight_sha256",
         "tokenizer_source", "tokenizer_revision", "tokenizer_sha256",
         "licence", "pretrained_until", "pretrained_until_source", "trained_until",
         "max_context", "clip")  # fmt: skip
INDEX = f"{WEIGHTS}.index.json"  # lists the files of sharded weights
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Official(Protocol):
    """A family's module `official`: facts about its weights on the Hub."""

    @property
    def NAME(self) -> str:
        """Name of the registered model."""
        ...

    @property
    def FAMILY(self) -> str: ...

    @property
    def MODEL_ID(self) -> str:
        """Default repository of the weights."""
        ...

    @property
    def PARTS(self) -> tuple[str, str]:
        """Folders of weights and tokenizer in a version's model, in this order."""
        ...

    @property
    def COLUMNS(self) -> tuple[str, ...]:
        """Columns that a history must have."""
        ...

    @property
    def TOKENIZERS(self) -> Mapping[str, str]:
        """Repository of the tokenizer, by the repository of the weights."""
        ...

    @property
    def PRETRAINED_UNTIL(self) -> Mapping[str, str]:
        """Last session in the training data, by sha256 of the weights."""
        ...

    @property
    def PINNED(self) -> Mapping[str, Mapping[str, str]]:
        """sha256 by file name, by commit."""
        ...

    def forecaster(
        self, weights: Path, tokenizer: Path, *, max_context: int, clip: float
    ) -> Forecaster:
        """Load a model from folders in the official layout."""
        ...

    def size(self, config: Path) -> str | None:
        """Name of the official size that has this config.json; None for another shape."""
        ...


@dataclass(frozen=True)
class Source:
    """Repositories to mirror.

    An empty revision is main. An empty tokenizer_id is the tokenizer of these weights, if known.
    """

    model_id: str
    revision: str = ""
    tokenizer_id: str = ""
    tokenizer_revision: str = ""
    pretrained_until: str = ""

    def __post_init__(self) -> None:
        if self.pretrained_until:
            check_date(self.pretrained_until, "--pretrained-until")


@dataclass(frozen=True)
class Mirrored:
    """A registered version and its commits; `registered` is False if it existed before.

    `ruined` describes the damage of an older version with the same commits; empty if none.
    """

    version: Version
    predictor: Snapshot
    tokenizer: Snapshot
    registered: bool
    ruined: str = ""

    def summary(self) -> dict[str, Any]:
        tags = self.version.tags
        return {
            "uri": self.version.uri,
            "model": self.version.name,
            "version": self.version.version,
            "registered": self.registered,
            "run_id": self.version.run_id,
            "source": self.predictor.repo,
            "revision": self.predictor.commit,
            "tokenizer": self.tokenizer.repo,
            "tokenizer_revision": self.tokenizer.commit,
            "weights": tags["weights"],
            "licence": tags["licence"],
            "pretrained_until": tags["pretrained_until"],
            "pretrained_until_source": tags["pretrained_until_source"],
            "ruined": self.ruined,
        }


@dataclass(frozen=True)
class Part:
    """One of the two repositories, with an allowed licence and the front matter of its card."""

    snapshot: Snapshot
    licence: str
    card: Mapping[str, Any]

    def path(self, name: str) -> Path:
        return self.snapshot.folder / name

    def names(self) -> list[str]:
        return [name for name in OFFICIAL if name in self.snapshot.files]


def mirror(
    settings: Settings, source: Source, official: Official, progress: Progress = lambda *_: None
) -> Mirrored:
    """Register the commits of `source`.

    An intact version of the same commits, code and settings is returned instead. Raises NotFound,
    BadInput (licence, pickled weights, pairing, no forecast), Corrupt, Conflict if the registered
    model is another program's, and KronosError without a connection.
    """
    start = time.monotonic()
    store, hub = Store(settings), Hub(settings, official.PINNED)
    store.check_free(official.NAME)
    predictor = hub.snapshot(source.model_id, source.revision)
    tokenizer_id = _tokenizer_id(settings, source, official, predictor.repo)
    tokenizer = hub.snapshot(tokenizer_id, source.tokenizer_revision)
    recipe = _recipe(settings, source, official, predictor, tokenizer)
    with hub.lock(recipe):
        existing = store.find(official.NAME, {RECIPE_TAG: recipe})
        damage = _damage(store, existing) if existing else ""
        if existing and not damage:
            return Mirrored(existing, predictor, tokenizer, registered=False)
        bars = _real_history(settings, official.COLUMNS)
        repositories = [_part(hub, snapshot, progress) for snapshot in (predictor, tokenizer)]
        parts = dict(zip(official.PARTS, repositories, strict=True))
        for snapshot in (predictor, tokenizer):
            hub.fetch(snapshot, [CONFIG, WEIGHTS], progress)
        family = family_module(official.FAMILY, "model")
        forecaster = official.forecaster(
            predictor.folder, tokenizer.folder, max_context=settings.max_context, clip=settings.clip
        )
        example = example_history(bars, forecaster.spec)
        _try_forecast(forecaster, example, predictor, tokenizer)

        def save(directory: Path) -> None:
            """Save the family's files, byte for byte the Hub's, with the Hub's cards."""
            family.save(forecaster, directory)
            for name, part in parts.items():
                if CARD in part.names():
                    shutil.copyfile(part.path(CARD), directory / name / CARD)

        dates = _dates(store, source, official, parts[official.PARTS[0]])
        tags = _tags(settings, dates, official, forecaster.spec, parts)
        tags[RECIPE_TAG] = recipe
        files = []
        for part in parts.values():
            files += _files(part)
        run_name = f"{official.NAME} {tags['weights']}"
        with tracking.start(settings, EXPERIMENT, run_name, tags=tags) as run:
            run.params({key: tags[key] for key in SHOWN})
            run.json(files, "files.json")
            for name, part in parts.items():
                if CARD in part.names():
                    run.text(part.path(CARD).read_text(), f"cards/{name}.md")
            description = _description(tags, official)
            run.text(description, "model_card.md")
            version = store.log(
                forecaster.spec,
                save,
                requirements=family.REQUIREMENTS,
                example=example,
                tags=tags,
                description=description,
            )
            describing.update(store, official.NAME)
            total = sum(file["size"] for file in files)
            run.metrics({"bytes": total, "seconds": time.monotonic() - start})
    return Mirrored(version, predictor, tokenizer, registered=True, ruined=damage)


def _damage(store: Store, version: Version) -> str:
    """Description of damage to the stored bytes of a version; empty if they are intact."""
    try:
        store.fetch(version)
    except (Corrupt, NotFound) as error:
        return f"{version.uri} is ruined: {error.message}"
    return ""


# --- checks of the repositories ---------------------------------------------------------------


def _tokenizer_id(settings: Settings, source: Source, official: Official, repo: str) -> str:
    """`repo` is the present name of the repository of the weights."""
    is_default = source.model_id == (settings.model_id or official.MODEL_ID)
    configured = settings.tokenizer_id if is_default else ""
    known = official.TOKENIZERS.get(repo) or official.TOKENIZERS.get(source.model_id)
    tokenizer_id = source.tokenizer_id or configured or known
    if not tokenizer_id:
        raise BadParameter(
            f"the tokenizer of {source.model_id} is unknown; set --tokenizer ORG/NAME "
            "to the one that these weights were trained with"
        )
    return tokenizer_id


def _part(hub: Hub, snapshot: Snapshot, progress: Progress) -> Part:
    """Check a repository's files and licence; fetch only its card. Raises BadInput, NotFound."""
    missing = [name for name in (CONFIG, WEIGHTS) if name not in snapshot.files]
    pickles = sorted(name for name in snapshot.files if name.endswith(PICKLES))
    if WEIGHTS in missing and INDEX in snapshot.files:
        raise BadInput(
            f"{snapshot} has sharded weights ({INDEX}), expected one {WEIGHTS}; "
            "load them with upstream's code and save them in one file, or ask the owner to",
            code="SHARDED",
        )
    if WEIGHTS in missing and pickles:
        raise BadInput(
            f"{snapshot} has pickled weights only ({', '.join(pickles)}), which can run any code "
            f"when loaded; ask the owner for {WEIGHTS}, or convert them in a sandbox",
            code="PICKLE_ONLY",
        )
    if missing:
        raise NotFound(
            f"{snapshot} lacks {' and '.join(missing)}; "
            f"a Kronos repository holds {CONFIG} and {WEIGHTS}"
        )
    card: Mapping[str, Any] = {}
    if CARD in snapshot.files:
        hub.fetch(snapshot, [CARD], progress)
        card = _front_matter(snapshot)
    return Part(snapshot, _licence(snapshot, card), card)


def _front_matter(snapshot: Snapshot) -> Mapping[str, Any]:
    try:
        return metadata_load(snapshot.folder / CARD) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(
            f"the YAML at the top of {CARD} of {snapshot} cannot be read, "
            "expected a licence in it; ask the owner to correct it"
        ) from error


def _licence(snapshot: Snapshot, card: Mapping[str, Any]) -> str:
    """Licence in the card, else according to the Hub, in the Hub's identifiers. Raises BadInput."""
    declared = card.get("license") or snapshot.licence or "none"
    if not isinstance(declared, list):
        declared = [declared]
    licences = [str(name).strip().lower() for name in declared]
    if not set(licences) <= set(LICENCES):
        title = f" ({card['license_name']})" if "license_name" in card else ""
        raise BadInput(
            f"{snapshot} has the licence {', '.join(licences)}{title}; "
            f"allowed are {', '.join(LICENCES)}: other licences may forbid the use of forecasts",
            code="LICENCE",
        )
    return ", ".join(licences)


def _try_forecast(
    forecaster: Forecaster, example: pd.DataFrame, predictor: Snapshot, tokenizer: Snapshot
) -> None:
    """Sample one path, so that weights which cannot answer are never registered.

    Raises BadInput (NO_FORECAST), and KronosError (OUT_OF_MEMORY) if memory runs out.
    """
    history = check_history(example, forecaster.spec)
    request = forecaster.spec.request({"num_samples": 1})
    try:
        with np.errstate(all="ignore"):  # the error says it
            forecast_of(forecaster, history, request)
    except (KronosError, RuntimeError) as error:  # torch raises RuntimeError
        if isinstance(error, KronosError) and error.code == "OUT_OF_MEMORY":
            raise
        raise BadInput(
            f"{predictor} with {tokenizer} made no forecast of {len(example)} bars, so nothing was "
            f"registered ({error}); ask the owner for weights that work",
            code="NO_FORECAST",
        ) from error


# --- facts of the version ---------------------------------------------------------------------


def _recipe(
    settings: Settings, source: Source, official: Official, predictor: Snapshot, tokenizer: Snapshot
) -> str:
    """sha256 of everything that decides the content of the version."""
    weights = predictor.files.get(WEIGHTS)
    pretrained_until = official.PRETRAINED_UNTIL.get(weights.sha256) if weights else None
    code_digest = artifacts.code_digest(CHECKOUT, official.FAMILY)
    content = {
        "commits": [[snapshot.repo, snapshot.commit] for snapshot in (predictor, tokenizer)],
        "settings": [settings.max_context, settings.clip],
        "pretrained_until": [source.pretrained_until, pretrained_until],
        "code": [code_digest, sha256(CHECKOUT / "requirements.lock")],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _tags(
    settings: Settings,
    dates: Mapping[str, str],
    official: Official,
    spec: ModelSpec,
    parts: Mapping[str, Part],
) -> dict[str, str]:
    """Tags of every version, and the origin of the weights; `dates` are those of `_dates`."""
    predictor, tokenizer = (parts[name] for name in official.PARTS)
    return {
        "family": official.FAMILY,
        "contract": str(names.CONTRACT),
        "data_digest": "none",
        "universe": "none",
        "git_commit": tracking.git_commit(),
        "lock_sha256": sha256(CHECKOUT / "requirements.lock"),
        "code_digest": artifacts.code_digest(CHECKOUT, official.FAMILY),
        **dates,
        "horizon": str(spec.max_horizon),
        "levels": ",".join(f"{level:g}" for level in spec.levels),
        "calendar": spec.calendar,
        "weights": _weights(official, predictor),
        "licence": predictor.licence,
        "weight_source": predictor.snapshot.repo,
        "weight_revision": predictor.snapshot.commit,
        "weight_sha256": sha256(predictor.path(WEIGHTS)),
        "tokenizer_licence": tokenizer.licence,
        "tokenizer_source": tokenizer.snapshot.repo,
        "tokenizer_revision": tokenizer.snapshot.commit,
        "tokenizer_sha256": sha256(tokenizer.path(WEIGHTS)),
        "max_context": str(spec.max_context),
        "clip": f"{settings.clip:g}",
    }


def _dates(store: Store, source: Source, official: Official, predictor: Part) -> dict[str, str]:
    """Tags: the last sessions in the training data of the weights, and how they are known.

    The sha256 of the weights decides, for released weights and for those trained in this registry.
    Of other weights the card may claim dates. Its claim that there was no pretraining is not
    believed: nobody can check it, and it would clear the weights for any report.
    """
    digest = sha256(predictor.path(WEIGHTS))
    claimed = str(predictor.card.get("trained_until"))  # YAML parses dates
    trained_until = claimed if is_date(claimed) else "none"
    pretrained_until, known_by = _claimed(predictor)
    version = _trained_here(store, official, digest)
    if version:
        trained_until = version.tags["trained_until"]
        pretrained_until = version.tags["pretrained_until"]
        known_by = f"trained as {version.reference}"
    if digest in official.PRETRAINED_UNTIL:
        pretrained_until, known_by = official.PRETRAINED_UNTIL[digest], "known weights"
    if source.pretrained_until:
        pretrained_until, known_by = source.pretrained_until, "told"
    return {
        "trained_until": trained_until,
        "pretrained_until": pretrained_until,
        "pretrained_until_source": known_by,
    }


def _claimed(predictor: Part) -> tuple[str, str]:
    """The card's `pretrained_until`, a date or "unknown", and how it is known."""
    claimed = str(predictor.card.get("pretrained_until"))
    if is_date(claimed):
        return claimed, "card"
    return "unknown", "card claims none, unverified" if claimed == "none" else "unknown"


def _trained_here(store: Store, official: Official, digest: str) -> Version | None:
    """The newest intact version with weights of this sha256 that was trained in this registry.

    Its tags are all its facts.
    """
    path = f"{MODEL_DIR}/{official.PARTS[0]}/{WEIGHTS}"
    try:
        versions = store.versions(official.NAME)
    except NotFound:
        return None
    for version in versions:
        with contextlib.suppress(Corrupt, NotFound):
            if store.digests(version).get(path) == digest:
                facts = store.facts(version)
                if facts.get("data_digest", "none") != "none":  # else it was mirrored, too
                    return replace(version, tags=facts)
    return None


def _weights(official: Official, predictor: Part) -> str:
    """Official size with the network's shape, else the repository's name without the prefix."""
    size = official.size(predictor.path(CONFIG))
    repo_name = predictor.snapshot.repo.lower().rpartition("/")[2]
    return size or repo_name.removeprefix(f"{official.NAME}-")


def _files(part: Part) -> list[dict[str, Any]]:
    origin = {"repository": part.snapshot.repo, "revision": part.snapshot.commit}
    files = []
    for name in part.names():
        path = part.path(name)
        files.append({**origin, "name": name, "size": path.stat().st_size, "sha256": sha256(path)})
    return files


def _real_history(settings: Settings, columns: Sequence[str]) -> pd.DataFrame:
    """Compiled prices with these columns, for the example input of a version.

    Files that `jobs compile` did not write are skipped. Raises Corrupt for a file that cannot be
    read, NotFound if none has the columns.
    """
    for path in sorted(settings.processed_dir.glob("*.parquet")):
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise Corrupt(
                f"{path} cannot be read ({error}); move it away, then run `{COMMAND}`"
            ) from error
        if KEY in (schema.metadata or {}) and set(columns) <= set(schema.names):
            return pd.read_parquet(io.BytesIO(compiled.read(settings, path)))
    raise NotFound(
        f"no file in {settings.processed_dir} has the columns {', '.join(columns)}, "
        "expected prices for the version's example; "
        f"run `{COMMAND}`"
    )


def _description(tags: Mapping[str, str], official: Official) -> str:
    """Description of the version; lists in the UI show its first line."""
    rows = "\n".join(f"| {key} | {tags[key]} |" for key in SHOWN)
    card = (CHECKOUT / "mlprojects" / official.FAMILY / "README.md").read_text()
    origin = f"{tags['weight_source']} at {tags['weight_revision'][:12]}"
    headline = f"Kronos {tags['weights']}, mirrored from {origin}."
    return f"{headline}\n\n| | |\n|---|---|\n{rows}\n\n{card}"
