"""Errors as clients of the gateway see them: no path, no password, no address."""

import pytest

from registry.errors import Corrupt, KronosError
from serving.supervisor.refusals import load_failed, refusal, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/var/model/weights.bin differs", "weights.bin differs"),
        ("cannot read '/a b/c': why", "cannot read 'a b/c': why"),
        ("file:///srv/x/y.json is gone", "y.json is gone"),
        ("at http://me:pw@host:80/x", "at http://***@host:80/x"),
        ("nbeats/3 was not ready in 120 s", "nbeats/3 was not ready in 120 s"),
        ("two\nlines\t of it", "two lines of it"),
    ],
)
def test_paths_passwords_and_line_ends_are_not_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_refusal_keeps_code_and_status_and_is_short() -> None:
    refused = refusal(Corrupt("/srv/config.json differs " + "x" * 1000))
    assert (refused.code, refused.status) == ("CORRUPT", 500)
    assert refused.message.startswith("config.json differs xxx")
    assert len(refused.message) == 400


@pytest.mark.parametrize("code", ["TRACKING_UNAVAILABLE", "LEDGER_UNAVAILABLE"])
def test_an_outage_says_nothing_about_the_servers(code: str) -> None:
    error = KronosError("the database at db.internal:5432 cannot be used")
    error.code = code
    assert "db.internal" not in refusal(error).message


def test_a_version_that_does_not_load_has_a_code_of_its_own() -> None:
    assert load_failed("it ended").code == "LOAD_FAILED"
