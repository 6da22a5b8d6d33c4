"""The store of registered models in MLflow: log, find, load, set aliases, tags and stages."""

import contextlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from registry import interrupts
from registry.errors import BadParameter, Conflict, Corrupt, KronosError, NotFound
from registry.files import temporary_folder
from registry.forecast import names
from registry.forecast.checks import screened
from registry.forecast.history import History, numeric_columns
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec
from registry.processes import this_process
from registry.settings import CHECKOUT, Settings
from registry.versions import (
    artifacts,
    installed,
    manifest,
    provenance,
    registration,
    signature,
    tracking,
)
from registry.versions.connection import connect
from registry.versions.loaded import LoadedVersion
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.tracking import clause, every
from registry.versions.version import RegisteredModel, Version, alias_numbers

_NAME = re.compile(r"[a-z0-9_]{1,64}")
_LONGEST_NAME = 256  # characters; MLflow's limit for names of all programs
_STAGES = ("production", "staging")  # models:/NAME/Production is a stage in MLflow, too
_BY_NUMBER = ("name ASC", "version_number ASC")  # registering moves no row to an earlier page
_LOGGED = f"tags.`{MANIFEST_TAG}` LIKE '%'"  # has the tag
_NUMBER = re.compile(r"[0-9]{1,9}")  # of a version; databases keep 32 bits
_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)")
DESCRIPTION_LIMIT = 5000  # characters; the size of MLflow's column on PostgreSQL
BASE_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "exchange_calendars")


class Store:
    """The registry. One per process, made by a main."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client: MlflowClient = connect(settings)

    # --- find -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of all registered models, also of those that others registered."""
        return sorted(model.name for model in every(self.client.search_registered_models))

    def models(self) -> list[RegisteredModel]:
        """All registered models with their versions, sorted by name."""
        aliases = {}
        for model in every(self.client.search_registered_models):
            aliases[model.name] = alias_numbers(model.aliases)
        versions: dict[str, list[Version]] = {name: [] for name in aliases}
        for entity in every(self.client.search_model_versions, order_by=_BY_NUMBER):
            if entity.name in aliases:  # else it was registered after the first search
                versions[entity.name].append(Version.of(entity, aliases[entity.name]))
        return [
            RegisteredModel(name, aliases[name], tuple(reversed(versions[name])))
            for name in sorted(aliases)
        ]

    def logged(self) -> list[Version]:
        """The versions of all models that Kronos Registry logged, by name and number.

        Their aliases are not filled in.
        """
        entities = every(self.client.search_model_versions, _LOGGED, order_by=_BY_NUMBER)
        return [Version.of(entity, {}) for entity in entities]

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first. Raises NotFound."""
        aliases = self.aliases(name)
        search = self.client.search_model_versions
        entities = every(search, clause("name", name), order_by=_BY_NUMBER)
        versions = [Version.of(entity, aliases) for entity in entities if entity.name == name]
        return sorted(versions, key=lambda version: -version.version)

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
        """Alias -> version of a model. Raises NotFound, and BadParameter for no name at all."""
        if not (name.isprintable() and 0 < len(name) <= _LONGEST_NAME):
            check_name(name)
        try:
            model = self.client.get_registered_model(name)
        except MlflowException as error:
            _reraise_unless_missing(error)
            check_name(name)
            raise NotFound(
                f"no model {name!r} is registered; `python -m registry list` shows all models"
            ) from error
        return alias_numbers(model.aliases)

    def resolve(self, reference: str) -> Version:
        """Version that a reference names.

        References are 'nbeats' (Production), 'nbeats/3', 'nbeats/latest', 'nbeats@staging' and
        'nbeats/Staging'. Aliases may have capitals, as 'nbeats@Champion'. Raises NotFound.
        """
        reference = reference.removeprefix("models:/")
        name, _, alias = reference.partition("@")
        name, _, selector = name.partition("/")
        if _NUMBER.fullmatch(selector):
            return self.version(name, int(selector))
        if (alias or selector).lower() == "latest":
            versions = self.versions(name)
            if not versions:
                raise NotFound(f"{name} has no versions")
            return versions[0]
        stage = selector if selector.lower() in _STAGES else ""
        return self.version(name, self._aliased(name, alias or stage.lower() or selector))

    def _aliased(self, name: str, alias: str) -> int:
        """The version that an alias names, Production by default. Raises NotFound.

        MLflow tells capitals apart. An alias in the very words comes before one in small letters.
        """
        aliases = self.aliases(name)
        wanted = alias or "production"
        number = aliases.get(wanted, aliases.get(wanted.lower()))
        if number is not None:
            return number
        others = f"; it has {', '.join(sorted(aliases))}" if aliases else ""
        raise NotFound(
            f"{name} has nothing in {wanted.lower()[:64]}{others}; "
            f"promote one: `python -m registry promote {name} VERSION`"
        )

    def find(self, name: str, tags: Mapping[str, str]) -> Version | None:
        """Newest version that Kronos Registry logged with all these tags, or None."""
        try:
            versions = self.versions(name)
        except NotFound:
            return None
        for version in versions:
            tagged = all(version.tags.get(key) == value for key, value in tags.items())
            if tagged and not version.foreign:
                return version
        return None

    def metrics(self, version: Version) -> dict[str, float]:
        """Last value of each finite metric of the version's run; empty if the run was deleted."""
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
        """Log a model with its manifest on the active run, then register it.

        `tags` say where it comes from. All go into its provenance; of those, provenance.TAGS
        become its tags. The version is registered last, so that it is complete when it appears.
        """
        run = mlflow.active_run()
        if run is None:
            raise KronosError(
                "found no active run to log the model on; open one with "
                "registry.versions.tracking.start"
            )
        with (
            self._logged_model(run, spec.name) as model,
            temporary_folder(self.settings.state_dir, spec.name) as folder,
        ):
            root = Path(folder) / "version"
            pinned = pins((*BASE_REQUIREMENTS, *requirements), checkout / "requirements.lock")
            mlflow_model = Model(
                run_id=run.info.run_id, model_id=model.model_id, model_uuid=model.model_id
            )
            # log_model would upload and load the files before they can include a manifest.
            mlflow.pyfunc.save_model(
                path=str(root),
                mlflow_model=mlflow_model,
                metadata=signature.metadata(spec),
                signature=signature.build(spec),
                input_example=example,
                pip_requirements=pinned,
                **artifacts.stage(Path(folder) / "staged", checkout, spec, save),
            )
            provenance.write(root, tags)
            shown = {**provenance.tags(tags), MANIFEST_TAG: manifest.seal(root)}
            self.client.log_model_artifacts(model.model_id, str(root))
        with interrupts.deferred():
            return self._register(run.info.run_id, spec.name, model, shown, description)

    @contextlib.contextmanager
    def _logged_model(self, run: mlflow.ActiveRun, name: str) -> Iterator[LoggedModel]:
        """A new logged model: READY after the block, FAILED if it ends in an error or a signal."""
        model: LoggedModel | None = None
        try:
            with interrupts.deferred():
                model = self.client.create_logged_model(
                    run.info.experiment_id,
                    name=name,
                    source_run_id=run.info.run_id,
                    tags={tracking.PROCESS_TAG: this_process().mark},
                )
            yield model
        except BaseException:
            if model is not None:
                with interrupts.deferred(), contextlib.suppress(MlflowException):
                    self.client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
            raise
        with interrupts.deferred():
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _register(
        self, run_id: str, name: str, model: LoggedModel, tags: Mapping[str, str], description: str
    ) -> Version:
        """Register a logged model as a version."""
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        with contextlib.suppress(MlflowException):  # it exists already
            self.client.create_registered_model(name)
        registered = self.client.create_model_version(
            name, f"models:/{model.model_id}", run_id, tags=dict(tags), model_id=model.model_id
        )
        if description:
            text = shortened(description)
            self.client.update_model_version(name, registered.version, text)
        return self.version(name, int(registered.version))

    def check_free(self, name: str) -> None:
        """Raise Conflict if all versions of this name were logged by other programs."""
        try:
            versions = self.versions(name)
        except NotFound:
            return
        if versions and all(version.foreign for version in versions):
            raise Conflict(
                f"the registered model {name} is another program's; rename it in MLflow, "
                "or use another tracking server"
            )

    @interrupts.deferred()
    def set_alias(self, name: str, alias: str, number: int) -> None:
        self.client.set_registered_model_alias(name, alias, str(number))

    @interrupts.deferred()
    def delete_alias(self, name: str, alias: str) -> None:
        self.client.delete_registered_model_alias(name, alias)

    @interrupts.deferred()
    def set_tag(self, name: str, number: int, key: str, value: str) -> None:
        self.client.set_model_version_tag(name, str(number), key, value)

    @interrupts.deferred()
    def delete_tag(self, name: str, number: int, key: str) -> None:
        self.client.delete_model_version_tag(name, str(number), key)

    @interrupts.deferred()
    def set_stage(self, name: str, number: int, stage: str) -> None:
        """Set MLflow's own stage, for models:/NAME/Production.

        For Production and Staging, MLflow archives the version that held the stage before. If two
        versions were in Production, MLflow would serve the highest number, not the last promoted.
        """
        with warnings.catch_warnings():
            # Deprecated since MLflow 2.9, but models:/NAME/Production has no replacement.
            warnings.simplefilter("ignore", FutureWarning)
            self.client.transition_model_version_stage(
                name,
                str(number),
                stage,
                archive_existing_versions=stage in ("Production", "Staging"),
            )

    # --- load -----------------------------------------------------------------------------

    def fetch(self, version: Version, into: Path | None = None) -> Path:
        """Local folder of a version, verified against the registered manifest.

        Without `into`, what is downloaded from a server stays in the system's temporary folder: a
        process that fetches again and again names an empty folder of its own. Raises Corrupt, and
        NotFound for a version that Kronos Registry did not log.
        """
        expected = version.tags.get(MANIFEST_TAG)
        if expected is None:
            raise not_ours(version)
        target = None if into is None else str(into)
        with _corrupt_if_missing(version):
            root = Path(mlflow.artifacts.download_artifacts(version.uri, dst_path=target))
        manifest.verify(root, manifest_sha256=expected)
        return root

    def digests(self, version: Version) -> dict[str, str]:
        """sha256 of every file of a version by its path; only the manifest is fetched.

        Raises Corrupt if the manifest is missing or is not the registered one, and NotFound for a
        version that Kronos Registry did not log.
        """
        registered = version.tags.get(MANIFEST_TAG)
        if registered is None:
            raise not_ours(version)
        with temporary_folder(self.settings.state_dir, version.folder_name) as folder:
            self._download(version, manifest.MANIFEST, registered, Path(folder))
            files = manifest.read(Path(folder))["files"]
        return {name: str(file["sha256"]) for name, file in files.items()}

    @contextlib.contextmanager
    def private_copy(self, version: Version) -> Iterator[Path]:
        """Folder with the verified files of a version, and its number, for the time being.

        Raises as `fetch`, and KronosError if a package that it needs is not installed.
        """
        root = self.fetch(version)
        installed.check(root, version.uri)
        with temporary_folder(self.settings.state_dir, version.folder_name) as folder:
            manifest.private_copy(root, Path(folder), version.tags[MANIFEST_TAG])
            registration.write(Path(folder), version.name, version.version)
            yield Path(folder)

    def facts(self, version: Version) -> dict[str, str]:
        """All facts of a version: its provenance and its tags; a tag counts where both have a key.

        Only two small files are downloaded, and compared with the registered manifest. Raises
        Corrupt.
        """
        registered = version.tags.get(MANIFEST_TAG)
        if registered is None:
            return dict(version.tags)
        with temporary_folder(self.settings.state_dir, version.folder_name) as folder:
            root = Path(folder)
            self._download(version, manifest.MANIFEST, registered, root)
            entry = manifest.read(root)["files"].get(provenance.PROVENANCE)
            if entry is None:
                return dict(version.tags)
            path = self._download(version, provenance.PROVENANCE, entry["sha256"], root)
            return {**provenance.read(path), **version.tags}

    def _download(self, version: Version, name: str, sha256: str, folder: Path) -> Path:
        """One file of a version, compared with its sha256. Raises Corrupt."""
        uri = f"{version.uri}/{name}"
        with _corrupt_if_missing(version):
            path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
        if manifest.sha256(path) != sha256:
            raise Corrupt(
                f"{uri} differs from what was registered (sha256); do not load this version"
            )
        return path

    def spec(self, version: Version) -> ModelSpec:
        """The spec of a version, after its bytes were verified. Raises as `fetch`."""
        return read_spec(self.fetch(version) / manifest.MODEL_DIR)

    def example_request(self, version: Version) -> dict[str, Any]:
        """Body of an /invocations request: the example of real sessions logged with the version."""
        path = self.fetch(version) / "serving_input_example.json"
        request: dict[str, Any] = json.loads(path.read_text())
        return request

    def load(self, reference: str) -> LoadedVersion:
        """A verified version, ready to forecast. Raises NotFound, Corrupt."""
        version = self.resolve(reference)
        return LoadedVersion.of(version, self.fetch(version), self.settings.state_dir)


def is_our_name(name: str) -> bool:
    """Whether our models may have this name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raise BadParameter unless our models may have this name."""
    if not is_our_name(name):
        raise BadParameter("a model's name is 1..64 of a-z, 0-9 and _", code="BAD_MODEL_NAME")


def not_ours(version: Version) -> NotFound:
    """The error about a version that Kronos Registry did not log."""
    return NotFound(
        f"{version.uri} has no {MANIFEST_TAG} tag: it was not logged by Kronos Registry"
    )


@contextlib.contextmanager
def _corrupt_if_missing(version: Version) -> Iterator[None]:
    """Raise Corrupt if files of a version are missing from the artifact store."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise Corrupt(f"the files of {version.uri} are missing from the artifact store") from error


def _reraise_unless_missing(error: MlflowException) -> None:
    """Raise the error again unless it means 'missing': an outage is not a NotFound."""
    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        raise error


def pins(names: Iterable[str], lock: Path) -> list[str]:
    """'name==version' of each name, from the lock. Raises NotFound if the lock lacks a name."""
    locked = {}
    for line in lock.read_text().splitlines():
        pin = _REQUIREMENT.match(line)
        if pin:
            locked[_canonical(pin[1])] = f"{pin[1]}=={pin[2]}"
    required = list(dict.fromkeys(_canonical(name) for name in names))
    missing = [name for name in required if name not in locked]
    if missing:
        raise NotFound(
            f"{lock} does not pin {missing}; add them to requirements.in and run `make lock`"
        )
    return [locked[name] for name in required]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def example_history(history: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """The shortest history that the model accepts.

    It is the last `min_context` sessions of the universe, or of the first series that passes the
    checks of a request if the model takes any symbol.
    """
    last_rows = history.groupby(names.UNIQUE_ID).tail(spec.min_context)
    if spec.universe:
        last_rows = last_rows[last_rows[names.UNIQUE_ID].isin(spec.universe)]
    else:
        whole = History.of(last_rows, numeric_columns(last_rows, spec))
        passing = screened(whole, spec).ids or whole.ids
        last_rows = last_rows[last_rows[names.UNIQUE_ID] == passing[0]]
    example: pd.DataFrame = last_rows[list(spec.columns)].reset_index(drop=True)
    return example


def shortened(description: str) -> str:
    """A description that fits every database: as many whole paragraphs as the limit allows."""
    if len(description) <= DESCRIPTION_LIMIT:
        return description
    pointer = "\n\nThe rest is in `model_card.md` of the version's run."
    paragraphs = description[: DESCRIPTION_LIMIT - len(pointer)].rpartition("\n\n")[0]
    return paragraphs + pointer
