"""Where things are and how programs behave, read once from the environment (prefix KRONOS_)."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

CHECKOUT = Path(__file__).resolve().parents[1]

# What MLflow writes to when nobody told it where: a database in the working directory.
MLFLOW_DEFAULT_URI = "sqlite:///mlflow.db"


class Settings(BaseSettings):
    """Frozen; a main reads it once and passes it down."""

    model_config = SettingsConfigDict(env_prefix="KRONOS_", env_file=CHECKOUT / ".env", frozen=True, extra="ignore")

    var_dir: Path = Field(default=CHECKOUT / "var", description="Databases, artifacts, processed data, logs and state.")
    tracking_uri: str = Field(
        default="", description="MLflow tracking and registry; empty: MLFLOW_TRACKING_URI, else var/mlflow.db."
    )
    ledger_uri: str = Field(default="", description="SQLAlchemy URI of the ledger; empty: var/ledger.db.")
    artifacts_uri: str = Field(default="", description="Where experiments keep artifacts; empty: var/artifacts.")
    serve_host: str = Field(default="127.0.0.1", description="Address the scoring server listens on.")
    serve_port: int = Field(default=5001, ge=0, le=65535, description="Its port; 0 takes a free one.")
    private_network: bool = Field(
        default=False, description="True inside a container whose ports are published on loopback only."
    )
    ui_port: int = Field(default=5000, ge=1, le=65535, description="Port of `make ui`.")

    @property
    def tracking(self) -> str:
        """Tracking URI in force. MLflow's own default counts as unset: it would split the registry in two."""
        told = os.environ.get("MLFLOW_TRACKING_URI", "")
        if self.tracking_uri:
            return self.tracking_uri
        default = {MLFLOW_DEFAULT_URI, f"sqlite:///{CHECKOUT / 'mlflow.db'}"}
        if told and told not in default:
            return told
        return f"sqlite:///{self.var_dir.resolve() / 'mlflow.db'}"

    @property
    def ledger(self) -> str:
        return self.ledger_uri or f"sqlite:///{self.var_dir.resolve() / 'ledger.db'}"

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
