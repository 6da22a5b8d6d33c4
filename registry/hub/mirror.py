"""A Kronos of the Hugging Face Hub as a registered version: pinned, checked, and in need of no Hub afterwards."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow.parquet as pq
import yaml
from huggingface_hub import metadata_load

from registry.errors import BadInput, BadParameter, Corrupt, NotFound
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.forecast.model_folder import family_module
from registry.forecast.spec import ModelSpec
from registry.hub.client import CARD, CONFIG, WEIGHTS, Hub, Progress, Snapshot
from registry.settings import CHECKOUT, Settings
from registry.versions import artifacts, tracking
from registry.versions.manifest import sha256
from registry.versions.store import Store, example_history
from registry.versions.version import Version

EXPERIMENT = "mirrors"
RECIPE_TAG = "recipe"  # as a training writes it
LIBRARY = "kronos-registry"  # library_name of the cards that `push` writes
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
SHOWN = ("weight_source", "weight_revision", "weight_sha256", "tokenizer_source", "tokenizer_revision",
         "tokenizer_sha256", "licence", "pretrained_until", "pretrained_until_source", "trained_until", "max_context",
         "clip")  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Official(Protocol):
    """What a family knows of the weights that it takes from the Hub: its module `official`."""

    @property
    def NAME(self) -> str:
        """Of the registered model."""
        ...

    @property
    def FAMILY(self) -> str: ...

    @property
    def MODEL_ID(self) -> str:
        """Repository that is mirrored by default."""
        ...

    @property
    def PARTS(self) -> tuple[str, str]:
        """Folders of weights and tokenizer in a version's model."""
        ...

    @property
    def COLUMNS(self) -> tuple[str, ...]:
        """Columns that a history must have."""
        ...

    @property
    def TOKENIZERS(self) -> Mapping[str, str]:
        """Repository of the tokenizer by that of the weights."""
        ...

    @property
    def PRETRAINED_UNTIL(self) -> Mapping[str, str]:
        """Last session that the weights saw, by commit."""
        ...

    @property
    def PINNED(self) -> Mapping[str, Mapping[str, str]]:
        """sha256 of files by commit."""
        ...

    def forecaster(
        self, weights: Path, tokenizer: Path, *, max_context: int, clip: float
    ) -> Forecaster:
        """Official folders as a model."""
        ...

    def size(self, config: Path) -> str | None:
        """Name of an official size, by its config.json."""
        ...


@dataclass(frozen=True)
class Source:
    """What is to be mirrored; an empty revision is main, an empty tokenizer the one that belongs to the weights."""

    model_id: str
    revision: str = ""
    tokenizer_id: str = ""
    tokenizer_revision: str = ""
    pretrained_until: str = ""

    def __post_init__(self) -> None:
        if self.pretrained_until and not _is_date(self.pretrained_until):
            raise BadParameter(
                f"--pretrained-until is {self.pretrained_until!r}, expected a date like 2024-06-30"
            )


@dataclass(frozen=True)
class Mirrored:
    """A registered version and the commits it holds; `registered` is False when it was there before.

    `ruined` says what is wrong with the stored bytes of the version that held them before.
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
            **{
                key: tags[key]
                for key in ("weights", "licence", "pretrained_until", "pretrained_until_source")
            },
            "ruined": self.ruined,
        }


@dataclass(frozen=True)
class Part:
    """One of the two repositories; its licence is allowed, `card` is the front matter of its card."""

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
    """Register what `source` names, unless the same code and settings did so before and its bytes are whole.

    Raises NotFound, BadInput (a licence, pickled weights, a pairing), Corrupt, and KronosError without a connection.
    """
    begun = time.monotonic()
    store, hub = Store(settings), Hub(settings, official.PINNED)
    predictor = hub.snapshot(source.model_id, source.revision)
    tokenizer = hub.snapshot(_tokenizer_id(settings, source, official), source.tokenizer_revision)
    recipe = _recipe(settings, source, official, predictor, tokenizer)
    with hub.alone(recipe):
        found = store.find(official.NAME, {RECIPE_TAG: recipe})
        ruined = _ruined(store, found) if found else ""
        if found and not ruined:
            return Mirrored(found, predictor, tokenizer, registered=False)
        example = _real_history(settings, official.COLUMNS)
        repositories = [_part(hub, snapshot, progress) for snapshot in (predictor, tokenizer)]
        parts = dict(zip(official.PARTS, repositories, strict=True))
        for snapshot in (predictor, tokenizer):
            hub.fetch(snapshot, [CONFIG, WEIGHTS], progress)
        family = family_module(official.FAMILY, "model")
        forecaster = official.forecaster(
            predictor.folder, tokenizer.folder, max_context=settings.max_context, clip=settings.clip
        )

        def save(directory: Path) -> None:
            """The family's files, which are the Hub's byte for byte, and the Hub's cards beside them."""
            family.save(forecaster, directory)
            for part, fetched in parts.items():
                if CARD in fetched.names():
                    shutil.copyfile(fetched.path(CARD), directory / part / CARD)

        tags = {**_tags(settings, source, official, forecaster.spec, parts), RECIPE_TAG: recipe}
        files = [fact for fetched in parts.values() for fact in _files(fetched)]
        with tracking.start(
            settings, EXPERIMENT, f"{official.NAME} {tags['weights']}", tags=tags
        ) as run:
            run.params({key: tags[key] for key in SHOWN})
            run.json(files, "files.json")
            for part, fetched in parts.items():
                if CARD in fetched.names():
                    run.text(fetched.path(CARD).read_text(), f"cards/{part}.md")
            version = store.log(
                forecaster.spec,
                save,
                requirements=family.REQUIREMENTS,
                example=example_history(example, forecaster.spec),
                tags=tags,
                description=_description(tags, official),
            )
            run.metrics(
                {"bytes": sum(fact["size"] for fact in files), "seconds": time.monotonic() - begun}
            )
    return Mirrored(version, predictor, tokenizer, registered=True, ruined=ruined)


def _ruined(store: Store, version: Version) -> str:
    """What is wrong with the stored bytes of a version; empty when they are what was registered."""
    try:
        store.fetch(version)
    except (Corrupt, NotFound) as error:
        return f"{version.uri} is ruined: {error.message}"
    return ""


# --- what may be mirrored ---------------------------------------------------------------------


def _tokenizer_id(settings: Settings, source: Source, official: Official) -> str:
    by_default = source.model_id == (settings.model_id or official.MODEL_ID)
    configured = settings.tokenizer_id if by_default else ""
    chosen = source.tokenizer_id or configured or official.TOKENIZERS.get(source.model_id)
    if not chosen:
        raise BadParameter(
            f"which tokenizer was {source.model_id} trained with? Say --tokenizer ORG/NAME"
        )
    return chosen


def _part(hub: Hub, snapshot: Snapshot, progress: Progress) -> Part:
    """A repository that may be mirrored, of which only the card was fetched. Raises BadInput, NotFound."""
    missing = [name for name in (CONFIG, WEIGHTS) if name not in snapshot.files]
    pickles = sorted(name for name in snapshot.files if name.endswith(PICKLES))
    if WEIGHTS in missing and pickles:
        raise BadInput(
            f"{snapshot} has pickled weights only ({', '.join(pickles)}), which can run any code when they are read; "
            f"ask its owner for {WEIGHTS}, or convert them in a sandbox",
            code="PICKLE_ONLY",
        )
    if missing:
        raise NotFound(
            f"{snapshot} lacks {' and '.join(missing)}; a Kronos repository holds {CONFIG} and {WEIGHTS}"
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
            f"the YAML at the top of {CARD} of {snapshot} cannot be read, and so no licence"
        ) from error


def _licence(snapshot: Snapshot, card: Mapping[str, Any]) -> str:
    """The licence that the card names, else the Hub; identifiers as the Hub writes them. Raises BadInput."""
    named = card.get("license") or snapshot.licence or "none"
    found = [str(name).strip().lower() for name in (named if isinstance(named, list) else [named])]
    if not set(found) <= set(LICENCES):
        title = f" ({card['license_name']})" if "license_name" in card else ""
        raise BadInput(
            f"{snapshot} has the licence {', '.join(found)}{title}; allowed are {', '.join(LICENCES)}: any other may "
            "forbid what forecasts are for",
            code="LICENCE",
        )
    return ", ".join(found)


# --- what is known of it ----------------------------------------------------------------------


def _recipe(
    settings: Settings, source: Source, official: Official, predictor: Snapshot, tokenizer: Snapshot
) -> str:
    """sha256 of everything that decides what is registered."""
    content = {
        "commits": [[snapshot.repo, snapshot.commit] for snapshot in (predictor, tokenizer)],
        "settings": [settings.max_context, settings.clip],
        "pretrained_until": [
            source.pretrained_until,
            official.PRETRAINED_UNTIL.get(predictor.commit),
        ],
        "code": [
            artifacts.code_digest(CHECKOUT, official.FAMILY),
            sha256(CHECKOUT / "requirements.lock"),
        ],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _tags(
    settings: Settings,
    source: Source,
    official: Official,
    spec: ModelSpec,
    parts: Mapping[str, Part],
) -> dict[str, str]:
    """What every version carries, and whence these weights are."""
    predictor, tokenizer = (parts[part] for part in official.PARTS)
    trained_until = str(predictor.card.get("trained_until"))  # YAML reads a date as one
    until, said_by = _pretrained_until(source, official, predictor)
    return {
        "family": official.FAMILY,
        "contract": str(names.CONTRACT),
        "data_digest": "none",
        "universe": "none",
        "git_commit": tracking.git_commit(),
        "lock_sha256": sha256(CHECKOUT / "requirements.lock"),
        "code_digest": artifacts.code_digest(CHECKOUT, official.FAMILY),
        "trained_until": trained_until if _is_date(trained_until) else "none",
        "pretrained_until": until,
        "pretrained_until_source": said_by,
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


def _pretrained_until(source: Source, official: Official, predictor: Part) -> tuple[str, str]:
    """Last session that the weights saw before, 'none' or 'unknown', and who says so.

    A card may claim a date. "none" is trusted only on cards written by `push`.
    """
    if source.pretrained_until:
        return source.pretrained_until, "told"
    if predictor.snapshot.commit in official.PRETRAINED_UNTIL:
        return official.PRETRAINED_UNTIL[predictor.snapshot.commit], "known commit"
    claimed = str(predictor.card.get("pretrained_until"))
    if _is_date(claimed) or (claimed == "none" and predictor.card.get("library_name") == LIBRARY):
        return claimed, "card"
    return "unknown", "unknown"


def _weights(official: Official, predictor: Part) -> str:
    """Name of an official size by the network's shape, else the end of the repository's name."""
    size = official.size(predictor.path(CONFIG))
    return size or predictor.snapshot.repo.lower().rpartition("/")[2].removeprefix(
        f"{official.NAME}-"
    )


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _files(part: Part) -> list[dict[str, Any]]:
    where = {"repository": part.snapshot.repo, "revision": part.snapshot.commit}
    paths = [part.path(name) for name in part.names()]
    return [{**where, "name": p.name, "size": p.stat().st_size, "sha256": sha256(p)} for p in paths]


def _real_history(settings: Settings, columns: Sequence[str]) -> pd.DataFrame:
    """Compiled prices with these columns: a version is logged with an example of what it takes."""
    for path in sorted(settings.processed_dir.glob("*.parquet")):
        if set(columns) <= set(pq.read_schema(path).names):
            return pd.read_parquet(path)
    raise NotFound(
        f"no file in {settings.processed_dir} has the columns {', '.join(columns)}: a version "
        "holds an example of real prices; run `python -m jobs compile --source builtin`"
    )


def _description(tags: Mapping[str, str], official: Official) -> str:
    """The UI shows its first line in lists."""
    rows = "\n".join(f"| {key} | {tags[key]} |" for key in SHOWN)
    card = (CHECKOUT / "mlprojects" / official.FAMILY / "README.md").read_text()
    headline = f"Kronos {tags['weights']}, mirrored from {tags['weight_source']} at {tags['weight_revision'][:12]}."
    return f"{headline}\n\n| | |\n|---|---|\n{rows}\n\n{card}"
