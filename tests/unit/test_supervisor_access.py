"""The registry as the supervisor opens it."""

import pytest

from registry.errors import KronosError
from registry.settings import Settings
from serving.supervisor.access import RegistryAccess, is_outage


def test_a_database_that_is_missing_is_an_outage_and_no_new_one_is_made(settings: Settings):
    path = settings.var_dir / "mlflow.db"
    access = RegistryAccess(settings)
    for _ in range(2):
        with pytest.raises(KronosError, match=r"there is no database .*mlflow\.db") as refused:
            access.store()
        assert refused.value.code == "TRACKING_UNAVAILABLE"
        assert is_outage(refused.value)
        assert not path.exists() or not path.stat().st_size
        path.touch()
