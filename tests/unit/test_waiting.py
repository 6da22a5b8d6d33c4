"""A word is said to the person who waits, and only then."""

import time

import pytest

from registry import waiting


def test_a_long_wait_is_said_while_it_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "AFTER_S", 0.01)
    with waiting.said("waiting for 100% of it"):
        for _ in range(1000):
            if caplog.messages:
                break
            time.sleep(0.01)
        assert caplog.messages == ["waiting for 100% of it"]
        assert caplog.records[0].levelname == "WARNING"


def test_nothing_is_said_of_a_short_one(caplog: pytest.LogCaptureFixture) -> None:
    with waiting.said("waiting"):
        pass
    with pytest.raises(ValueError, match="failed"), waiting.said("waiting"):
        raise ValueError("failed")
    assert caplog.messages == []
