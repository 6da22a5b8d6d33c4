"""Registered models in MLflow: log, find, load, aliases, tags and stages."""

import contextlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from registry.errors import BadParameter, Corrupt, KronosError, NotFound
from registry.forecast import names
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT, Settings
from registry.versions import artifacts, manifest, signature, tracking
from registry.versions.loaded import LoadedVersion
from registry.versions.version import Version

MANIFEST_TAG = "manifest_sha256"
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)")
DESCRIPTION_LIMIT = 5000  # characters; MLflow's column on PostgreSQL takes no more
BASE_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "exchange_calendars")


class Store:
    """The registry. One per process, made by a main."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client: MlflowClient = tracking.connect(settings)

    # --- find -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(m.name for m in self.client.search_registered_models(max_results=1000))

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first. Raises NotFound."""
        aliases = self.aliases(name)
        entities = self.client.search_model_versions(f"name='{name}'", max_results=10_000)
        versions = [Version.of(entity, aliases) for entity in entities]
        return sorted(versions, key=lambda v: -v.version)

    def version(self, name: str, number: int) -> Version:
        """One version. Raises NotFound."""
        aliases = self.aliases(name)
        try:
            return Version.of(self.client.get_model_version(name, str(number)), aliases)
        except MlflowException as error:
            _reraise_unless_missing(error)
            raise NotFound(
                f"{name} has no version {number}; `python -m registry show {name}` lists them"
            ) from error

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version of a model. Raises NotFound."""
        if not _NAME.fullmatch(name):
            raise BadParameter("a model's name is 1..64 of a-z, 0-9 and _", code="BAD_MODEL_NAME")
        try:
            model = self.client.get_registered_model(name)
        except MlflowException as error:
            _reraise_unless_missing(error)
            raise NotFound(
                f"no model {name!r} is registered; `python -m registry list` shows those that are"
            ) from error
        return {alias: int(version) for alias, version in model.aliases.items()}

    def resolve(self, reference: str) -> Version:
        """Version of 'nbeats' (Production), 'nbeats/3', 'nbeats/latest', 'nbeats@staging' or 'nbeats/Staging'."""
        reference = reference.removeprefix("models:/")
        name, _, alias = reference.partition("@")
        name, _, selector = name.partition("/")
        if selector.isdigit():
            return self.version(name, int(selector))
        wanted = (alias or selector or "production").lower()
        if wanted == "latest":
            versions = self.versions(name)
            if not versions:
                raise NotFound(f"{name} has no versions")
            return versions[0]
        number = self.aliases(name).get(wanted)
        if number is None:
            raise NotFound(
                f"{name} has nothing in {wanted}; promote one: `python -m registry promote {name} VERSION`"
            )
        return self.version(name, number)

    def find(self, name: str, tags: Mapping[str, str]) -> Version | None:
        """Newest version that has all these tags, or None."""
        if name not in self.names():
            return None
        matching = (
            v for v in self.versions(name) if all(v.tags.get(k) == t for k, t in tags.items())
        )
        return next(matching, None)

    def metrics(self, version: Version) -> dict[str, float]:
        """Last value of every metric of the run that made a version, where finite; none when the run is gone."""
        try:
            values = self.client.get_run(version.run_id).data.metrics
        except MlflowException as error:
            _reraise_unless_missing(error)
            return {}
        return {key: value for key, value in values.items() if math.isfinite(value)}

    # --- write ----------------------------------------------------------------------------

    def log(
        self,
        spec: ModelSpec,
        save: Callable[[Path], None],
        *,
        requirements: Iterable[str],
        example: pd.DataFrame,
        tags: Mapping[str, str],
        description: str = "",
        checkout: Path = CHECKOUT,
    ) -> Version:
        """Log a model on the active run with its manifest, then register it: the version appears last and whole."""
        run = mlflow.active_run()
        if run is None:
            raise KronosError(
                "a model is logged on a run; open one with registry.versions.tracking.start"
            )
        model = self.client.create_logged_model(
            run.info.experiment_id, name=spec.name, source_run_id=run.info.run_id
        )
        with tracking.scratch() as folder:
            root = folder / "version"
            # Not log_model: it uploads, then validates by loading, before a manifest could be among the files.
            mlflow.pyfunc.save_model(
                path=str(root),
                mlflow_model=Model(
                    run_id=run.info.run_id, model_id=model.model_id, model_uuid=model.model_id
                ),
                metadata=signature.metadata(spec),
                signature=signature.build(spec),
                input_example=example,
                pip_requirements=pins(
                    (*BASE_REQUIREMENTS, *requirements), checkout / "requirements.lock"
                ),
                **artifacts.stage(folder / "staged", checkout, spec, save),
            )
            known = {**tags, MANIFEST_TAG: manifest.seal(root)}
            self.client.log_model_artifacts(model.model_id, str(root))
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
        with contextlib.suppress(MlflowException):  # it is there already
            self.client.create_registered_model(spec.name)
        registered = self.client.create_model_version(
            spec.name,
            f"models:/{model.model_id}",
            run.info.run_id,
            tags=known,
            model_id=model.model_id,
        )
        if description:
            text = shortened(description)
            self.client.update_model_version(spec.name, registered.version, text)
        return self.version(spec.name, int(registered.version))

    def set_alias(self, name: str, alias: str, number: int) -> None:
        self.client.set_registered_model_alias(name, alias, str(number))

    def delete_alias(self, name: str, alias: str) -> None:
        self.client.delete_registered_model_alias(name, alias)

    def set_tag(self, name: str, number: int, key: str, value: str) -> None:
        self.client.set_model_version_tag(name, str(number), key, value)

    def delete_tag(self, name: str, number: int, key: str) -> None:
        self.client.delete_model_version_tag(name, str(number), key)

    def set_stage(self, name: str, number: int, stage: str) -> None:
        """MLflow's own stage, for models:/NAME/Production; whatever held it before is archived.

        With two versions in Production MLflow serves the highest number, whichever was promoted last.
        """
        with warnings.catch_warnings():
            # Stages are deprecated since MLflow 2.9 without a replacement for models:/NAME/Production.
            warnings.simplefilter("ignore", FutureWarning)
            self.client.transition_model_version_stage(
                name,
                str(number),
                stage,
                archive_existing_versions=stage in ("Production", "Staging"),
            )

    # --- load -----------------------------------------------------------------------------

    def fetch(self, version: Version) -> Path:
        """Local folder of a version, verified against the manifest that was registered. Raises Corrupt."""
        expected = version.tags.get(MANIFEST_TAG)
        if expected is None:
            raise NotFound(
                f"{version.uri} has no {MANIFEST_TAG} tag: it was not logged by Kronos Registry"
            )
        try:
            root = Path(mlflow.artifacts.download_artifacts(version.uri))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise Corrupt(
                f"the files of {version.uri} are missing from the artifact store"
            ) from error
        manifest.verify(root, manifest_sha256=expected)
        return root

    def spec(self, version: Version) -> ModelSpec:
        """What a verified version needs and answers."""
        return read_spec(self.fetch(version) / manifest.MODEL_DIR)

    def example_request(self, version: Version) -> dict[str, Any]:
        """Body of one /invocations request: the real sessions that the version was logged with."""
        path = self.fetch(version) / "serving_input_example.json"
        request: dict[str, Any] = json.loads(path.read_text())
        return request

    def load(self, reference: str) -> LoadedVersion:
        """A verified version as a Forecaster. Raises NotFound, Corrupt."""
        version = self.resolve(reference)
        return LoadedVersion.of(version, self.fetch(version))


def _reraise_unless_missing(error: MlflowException) -> None:
    """An outage is not an absence."""
    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        raise error


def pins(names: Iterable[str], lock: Path) -> list[str]:
    """'name==version' of each name, from the lock. Raises NotFound for a name that is not locked."""
    locked = {}
    for line in lock.read_text().splitlines():
        pin = _REQUIREMENT.match(line)
        if pin:
            locked[_canonical(pin[1])] = f"{pin[1]}=={pin[2]}"
    wanted = list(dict.fromkeys(_canonical(name) for name in names))
    missing = [name for name in wanted if name not in locked]
    if missing:
        raise NotFound(
            f"{lock} does not pin {missing}; add them to requirements.in and run `make lock`"
        )
    return [locked[name] for name in wanted]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def example_history(history: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """The least that the model accepts: `min_context` sessions of the first series, or of its
    whole universe."""
    symbols = spec.universe or (history[names.UNIQUE_ID].iloc[0],)
    rows = history[history[names.UNIQUE_ID].isin(symbols)]
    shown = rows.groupby(names.UNIQUE_ID).tail(spec.min_context)
    example: pd.DataFrame = shown[list(spec.columns)].reset_index(drop=True)
    return example


def shortened(description: str) -> str:
    """A description that every database takes: as many whole paragraphs as fit."""
    if len(description) <= DESCRIPTION_LIMIT:
        return description
    rest = "\n\nThe rest is in `model_card.md` of the version's run."
    paragraphs = description[: DESCRIPTION_LIMIT - len(rest)].rpartition("\n\n")[0]
    return paragraphs + rest
