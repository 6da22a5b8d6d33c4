"""Settings of all programs: locations and behaviour, from environment variables KRONOS_*."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
)

from registry.errors import BadConfig

CHECKOUT = Path(__file__).resolve().parents[1]

# MLflow's default: a database in the working directory.
MLFLOW_DEFAULT_URI = "sqlite:///mlflow.db"


def _device(name: str) -> str:
    """Check the name's form only; loading a model checks that the device exists."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", name):
        raise PydanticCustomError("device", "Input should be auto, cpu, cuda, cuda:N or mps")
    return name


def _folder(path: Path) -> Path:
    """Check that the path is, or can become, a folder whose files MLflow finds."""
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise PydanticCustomError("folder", "Input should be a folder, and a file has this path")
    if re.search("%[0-9a-fA-F]{2}", str(path.absolute())):
        raise PydanticCustomError(
            "folder", "Input should be a folder without % codes like %25, which MLflow would decode"
        )
    return path


def sqlite_uri(path: Path) -> str:
    """SQLAlchemy's URI of a database file; in it, `?` ends a path and `%` begins a code."""
    quoted = str(path.resolve()).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{quoted}"


def _read_variables(settings: type[BaseSettings], file: Any) -> dict[str, str | None]:
    """All variables by their names in small letters; the environment wins over the file."""
    of_file = DotEnvSettingsSource(settings, env_file=file).env_vars
    return {**of_file, **EnvSettingsSource(settings).env_vars}


class Settings(BaseSettings):
    """Frozen settings; a main reads them once and passes them down."""

    model_config = SettingsConfigDict(
        env_prefix="KRONOS_", env_file=CHECKOUT / ".env", frozen=True, extra="ignore"
    )

    var_dir: Annotated[Path, AfterValidator(_folder)] = Field(
        default=CHECKOUT / "var",
        validate_default=True,
        description="Databases, artifacts, processed data, logs and state.",
    )
    tracking_uri: str = Field(
        default="",
        repr=False,  # it may hold a password
        description="MLflow tracking and registry; empty: MLFLOW_TRACKING_URI, else var/mlflow.db.",
    )
    ledger_uri: str = Field(
        default="",
        repr=False,
        description="SQLAlchemy URI of the ledger; empty: var/ledger.db.",
    )
    artifacts_uri: str = Field(
        default="", description="Where experiments keep artifacts; empty: var/artifacts."
    )
    serve_host: str = Field(
        default="127.0.0.1", description="Address the scoring server listens on."
    )
    serve_port: int = Field(
        default=5001, ge=0, le=65535, description="Its port; 0 takes a free one."
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address the gateway listens on; one beyond loopback needs KRONOS_API_KEYS.",
    )
    port: int = Field(default=8080, ge=0, le=65535, description="Its port; 0 takes a free one.")
    api_keys: str = Field(
        default="",
        repr=False,
        description="Who may ask the gateway: entries of `python -m serving key NAME`; "
        "empty: everybody on this machine.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        repr=False,
        description="Secret of MLflow's webhooks to the gateway; empty: it takes none.",
    )
    calibration_enabled: bool = Field(
        default=True,
        description="False: /forecast answers with the model's quantiles as they are.",
    )
    max_body: int = Field(
        default=16 * 2**20,
        ge=1024,
        description="Bytes of the largest request that the gateway reads.",
    )
    timeout_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a model may take for one call of the gateway.",
    )
    queue_s: float = Field(
        default=0.15,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a request may wait for its model; "
        "the gateway refuses one that would wait longer.",
    )
    poll_s: float = Field(
        default=2.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds between two looks of the gateway at the registry.",
    )
    load_s: float = Field(
        default=180.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a scorer may take until it answers; "
        "after that its version counts as failed.",
    )
    access_log: bool = Field(
        default=False,
        description="True: the gateway logs every request, not only its own failures.",
    )
    private_network: bool = Field(
        default=False,
        description="True inside a container whose ports are published on loopback only.",
    )
    ui_port: int = Field(default=5000, ge=1, le=65535, description="Port of `make ui`.")
    mode: Literal["auto", "kronos", "simulated"] = Field(
        default="auto",
        description="What `make serve MODEL=kronos` serves: kronos, simulated, "
        "or auto: kronos, else simulated.",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto",
        description="Where torch runs a loaded model: cpu, cuda, cuda:N, mps; "
        "auto: cuda, else cpu.",
    )
    model_id: str = Field(
        default="", description="Weights that `mirror` fetches by default; empty: Kronos-mini."
    )
    tokenizer_id: str = Field(
        default="",
        description="The tokenizer that those weights were trained with; empty: the official one.",
    )
    max_context: int = Field(
        default=0,
        ge=0,
        description="Sessions that a new version of kronos looks at, frozen into it; "
        "0: as many as its network can.",
    )
    clip: float = Field(
        default=5.0,
        gt=0,
        allow_inf_nan=False,
        description="Standard deviations at which a new version of kronos clips its input, "
        "frozen into it.",
    )
    hf_token: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="HF_TOKEN",
        description="Token of the Hugging Face Hub for `mirror`; never printed, "
        "and no scorer gets it.",
    )

    # Variables without a field, in small letters: some bear the name of a model.
    _variables: dict[str, str | None] = PrivateAttr(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        """Read the settings. Raises ValidationError, and BadConfig if .env cannot be read."""
        path = values.get("_env_file", self.model_config["env_file"])
        try:
            super().__init__(**values)
            self._variables = _read_variables(type(self), path)
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfig(f"{path} cannot be read as UTF-8 text: {error}") from error

    def model_dir(self, model: str) -> Path | None:
        """Exported version that is served for a model instead of one of the registry, or None.

        It is the variable KRONOS_<MODEL>_MODEL_DIR, as in KRONOS_NBEATS_MODEL_DIR.
        """
        folder = self._variables.get(f"kronos_{model}_model_dir")
        return Path(folder) if folder else None

    @property
    def tracking(self) -> str:
        """Effective tracking URI.

        MLflow's own default counts as unset, since it would split the registry in two.
        """
        if self.tracking_uri:
            return self.tracking_uri
        mlflow_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        defaults = {MLFLOW_DEFAULT_URI, f"sqlite:///{CHECKOUT / 'mlflow.db'}"}
        if mlflow_uri and mlflow_uri not in defaults:
            return mlflow_uri
        return sqlite_uri(self.var_dir / "mlflow.db")

    @property
    def ledger(self) -> str:
        return self.ledger_uri or sqlite_uri(self.var_dir / "ledger.db")

    @property
    def artifacts(self) -> str:
        return self.artifacts_uri or (self.var_dir.resolve() / "artifacts").as_uri()

    @property
    def processed_dir(self) -> Path:
        return self.var_dir / "data" / "processed"

    @property
    def logs_dir(self) -> Path:
        return self.var_dir / "logs"

    @property
    def state_dir(self) -> Path:
        return self.var_dir / "state"

    @property
    def reports_dir(self) -> Path:
        """Pages for people: reports/ of the checkout, or below a `var_dir` elsewhere."""
        own = self.var_dir.resolve() != CHECKOUT / "var"
        return (self.var_dir if own else CHECKOUT) / "reports"
