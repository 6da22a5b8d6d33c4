"""Sessions and calibrations as the gateway has them."""

import pytest

from registry.errors import BadHistory, NotReady
from serving.gateway.tables import Calibration, Tables
from serving.messages import Calibrate, Sessions

DAYS = ["2022-12-28", "2022-12-29", "2022-12-30"]


def calibrate(**verdicts: str) -> Calibrate:
    return Calibrate(
        model="har",
        version=1,
        number=3,
        levels=[0.05, 0.5, 0.95],
        keys=[("global", "")],
        steps=[1],
        bias=[0.1],
        scale=[1.0],
        offsets=[[0.0, 0.0, 0.0]],
        verdicts=verdicts,
    )


def test_the_last_sessions_are_those_that_have_closed() -> None:
    tables = Tables(clock=lambda: 25.0)
    tables.take_sessions(Sessions(calendar="XNYS", days=DAYS, closes=[10.0, 20.0, 30.0]))
    assert tables.last_sessions("XNYS", 2) == DAYS[:2]
    with pytest.raises(BadHistory) as caught:
        tables.last_sessions("XNYS", 3)
    assert caught.value.code == "OUTSIDE_CALENDAR"
    with pytest.raises(NotReady):
        tables.last_sessions("XLON", 1)


def test_the_worst_verdict_of_the_steps_counts() -> None:
    calibration = Calibration.of(calibrate(**{"1": "calibrated", "2": "stale"}))
    assert calibration.state([1], 0) == "calibrated"
    assert calibration.state([1, 2], 0) == "stale"
    assert calibration.state([1, 2, 3], 0) == "uncalibrated"
    assert Calibration().state([1], 0) == "uncalibrated"


def test_a_calibration_that_is_not_learned_again_gets_stale() -> None:
    calibration = Calibration.of(calibrate(**{"1": "calibrated"}))
    assert calibration.state([1], 5) == "calibrated"
    assert calibration.state([1], 6) == "stale"
    assert calibration.state([1, 2], 6) == "uncalibrated"


def test_ages_are_sessions_of_the_calendar() -> None:
    tables = Tables()
    assert tables.sessions_since("XNYS", DAYS[0], DAYS[2]) == 0  # no session is known
    tables.take_sessions(Sessions(calendar="XNYS", days=DAYS, closes=[10.0, 20.0, 30.0]))
    assert tables.sessions_since("XNYS", DAYS[0], DAYS[2]) == 2
    assert tables.sessions_since("XNYS", DAYS[0], "2023-01-01") == 2  # a Sunday
    assert tables.sessions_since("XNYS", DAYS[2], DAYS[0]) == 0


def test_a_calibration_fits_the_levels_it_was_learned_for() -> None:
    calibration = Calibration.of(calibrate())
    assert calibration.fits((0.05, 0.5, 0.95))
    assert not calibration.fits((0.1, 0.5, 0.9))
    assert Calibration().fits((0.1, 0.5, 0.9))


def test_a_version_without_a_calibration_has_the_identity() -> None:
    tables = Tables()
    tables.take_calibration(calibrate())
    assert tables.calibration("har", 1).number == 3
    assert tables.calibration("har", 2).number is None
