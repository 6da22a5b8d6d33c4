"""A registered version as a Forecaster, in this process or in a separate one."""

from pathlib import Path
from typing import Any

from registry.errors import CodeMismatch
from registry.files import temporary_folder
from registry.forecast.answer import answer, forecast_of
from registry.forecast.forecast import Forecast, Forecaster
from registry.forecast.history import History
from registry.forecast.identity import Identity
from registry.forecast.model_folder import load_forecaster, read_spec
from registry.forecast.spec import ModelSpec, Request
from registry.versions import installed, manifest
from registry.versions.version import Version
from registry.versions.worker import Worker


class LoadedVersion:
    """A verified version that forecasts. A separate process gives the same bits as this one.

    Use it as a context manager, or close it: then the separate process ends.
    """

    def __init__(self, version: Version, forecaster: Forecaster, identity: Identity) -> None:
        self.version = version
        self._forecaster = forecaster
        self._identity = identity

    @classmethod
    def of(cls, version: Version, root: Path, scratch: Path) -> "LoadedVersion":
        """The verified version at `root`; in this process if it runs the version's own code.

        Otherwise a private copy of it is made below `scratch`. Raises KronosError if a package that
        it needs is not installed.
        """
        installed.check(root, version.uri)
        model_dir = root / manifest.MODEL_DIR
        digest = manifest.sha256(root / manifest.MANIFEST)
        identity = Identity(version.name, version.version, digest)
        try:
            manifest.check_code(manifest.read(root))
        except CodeMismatch:
            return cls(version, _worker(version, root, scratch), identity)
        return cls(version, load_forecaster(model_dir), identity)

    @property
    def spec(self) -> ModelSpec:
        return self._forecaster.spec

    @property
    def in_this_process(self) -> bool:
        return not isinstance(self._forecaster, Worker)

    def predict(self, history: History, request: Request) -> Forecast:
        """Checked forecast at spec.levels. Raises the errors of `answer`."""
        return forecast_of(self._forecaster, history, request)

    def forecast(self, history: Any, **parameters: Any) -> Any:
        """Reply to a table of returns, in the form that `output` names: by default a frame.

        `parameters` are horizon, levels, seed, output and the model's options. Raises the errors of
        `answer`.
        """
        return answer(self._forecaster, history, parameters, self._identity)

    def close(self) -> None:
        if isinstance(self._forecaster, Worker):
            self._forecaster.close()

    def __enter__(self) -> "LoadedVersion":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _worker(version: Version, root: Path, scratch: Path) -> Worker:
    """A process of its own, on a private copy of the version's files."""
    folder = temporary_folder(scratch, version.folder_name)
    try:
        copied = Path(folder.name)
        manifest.private_copy(root, copied, version.tags[manifest.MANIFEST_TAG])
        return Worker(read_spec(copied / manifest.MODEL_DIR), copied, on_close=folder.cleanup)
    except BaseException:
        folder.cleanup()
        raise
