"""What runs for one model: which scorer starts, serves, lingers and stops, by a fake clock."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.messages import Refusal, Run, Serve, State, Stop
from serving.supervisor.candidates import Candidate, Pointer
from serving.supervisor.effects import Fetch, Keep, Mark, WarmUp, Watch
from serving.supervisor.fleet import Fleet
from serving.supervisor.runners import Runner
from serving.supervisor.slot import Limits, Slot

LIMITS = Limits(
    load_s=40, linger_s=60, drain_s=100, retry_s=300, outage_s=10, restart_s=0.5,
    longest_restart_s=30, steady_s=60,
)  # fmt: skip
DOWN = Refusal(code="TRACKING_UNAVAILABLE", message="nobody answers", status=503)
DAMAGED = Refusal(code="CORRUPT", message="a byte differs", status=500)
BROKEN = Refusal(code="LOAD_FAILED", message="it ends", status=500)


def pointer(version: int, *, name: str = "nbeats", instead: str = "") -> Pointer:
    return Pointer(name, version, f"{version:064d}", "Production", instead)


def candidate(pointer: Pointer) -> Candidate:
    return Candidate(pointer, Path("copies"), {"name": pointer.name})


class Driver:
    """A slot with a clock that the test moves, and a gateway that does what it is told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slot = Slot("nbeats", self._start, LIMITS)
        self.sent: list[Any] = []
        self.fetches: list[Fetch] = []
        self.marks: list[tuple[str, str]] = []
        self.routed = ""  # id of the scorer that requests go to
        self.running: set[str] = set()
        self._numbers: dict[str, int] = {}
        self.act()

    def _start(self, candidate: Candidate, now: float) -> tuple[Runner, Run]:
        stem = candidate.pointer.reference
        self._numbers[stem] = self._numbers.get(stem, 0) + 1
        runner = Runner(f"{stem}#{self._numbers[stem]}", candidate, "127.0.0.1", 1, "t", now)
        return runner, Run(scorer=runner.id, command=[], environment={}, log="", title="")

    def act(self) -> None:
        """Carry out the effects; every message must make sense to the gateway."""
        for effect in self.slot.take():
            if isinstance(effect, Fetch):
                self.fetches.append(effect)
            elif isinstance(effect, Mark):
                self.marks.append((effect.pointer.reference, effect.reason))
            elif isinstance(effect, Run | Stop | Serve | State):
                self.sent.append(effect)
            if isinstance(effect, Run):
                self.running.add(effect.scorer)
            elif isinstance(effect, Stop):
                assert effect.scorer in self.running
                assert effect.scorer != self.routed or effect.kill
                self.running.discard(effect.scorer)
            elif isinstance(effect, Serve):
                assert effect.route.scorer in self.running
                self.routed = effect.route.scorer

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.slot.tick(self.now)
        self.act()

    def looked(self, *pointers: Pointer) -> None:
        self.slot.looked(pointers, self.now)
        self.act()

    def fetched(self) -> None:
        """The files of the version that is wanted now are verified."""
        fetch = self.fetches[-1]
        self.slot.fetched(fetch, candidate(fetch.pointer), self.now)
        self.act()

    def ready(self) -> None:
        assert self.slot.starting is not None
        self.slot.ready(self.slot.starting.id, self.now)
        self.act()

    def warmed(self) -> None:
        assert self.slot.starting is not None
        self.slot.warmed(self.slot.starting.id, "2026-01-01T00:00:00", 0.01, self.now)
        self.act()

    def ended(self, scorer: str) -> None:
        self.running.discard(scorer)
        self.routed = "" if self.routed == scorer else self.routed
        self.slot.ended(scorer, BROKEN, self.now)
        self.act()

    def drained(self, scorer: str) -> None:
        self.slot.drained(scorer, self.now)
        self.act()

    def serve(self, version: int) -> None:
        """Bring a version that is new to the slot to serving."""
        self.looked(pointer(version))
        self.fetched()
        self.ready()
        self.warmed()
        assert self.routed == f"nbeats/{version}#1"

    @property
    def state(self) -> State:
        return [message for message in self.sent if isinstance(message, State)][-1]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_version_is_fetched_started_warmed_and_only_then_routed_to(driver: Driver) -> None:
    driver.looked(pointer(1))
    assert [fetch.pointer.version for fetch in driver.fetches] == [1]
    assert driver.running == set()
    driver.fetched()
    assert driver.running == {"nbeats/1#1"}
    driver.ready()
    assert (driver.routed, driver.state.state) == ("", "starting")
    driver.warmed()
    assert (driver.routed, driver.state.state, driver.state.version) == ("nbeats/1#1", "serving", 1)
    for _ in range(5):
        driver.looked(pointer(1))
        driver.wait(5)
    assert len(driver.fetches) == 1
    assert len(driver.running) == 1


def test_warm_up_and_watch_follow_the_start(driver: Driver) -> None:
    driver.slot.looked([pointer(1)], driver.now)
    [fetch] = [effect for effect in driver.slot.take() if isinstance(effect, Fetch)]
    driver.slot.fetched(fetch, candidate(fetch.pointer), driver.now)
    kinds = [type(effect) for effect in driver.slot.take()]
    assert kinds == [Run, Watch]
    driver.slot.ready("nbeats/1#1", driver.now)
    driver.slot.ready("nbeats/1#1", driver.now)  # a second answer changes nothing
    assert [type(effect) for effect in driver.slot.take()] == [WarmUp]
    driver.slot.warmed("nbeats/1#1", "now", 0.5, driver.now)
    kinds = [type(effect) for effect in driver.slot.take()]
    assert kinds == [Serve, Mark, Keep, State]


def test_the_new_version_takes_over_when_it_is_warm_and_the_old_one_lingers(
    driver: Driver,
) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    driver.fetched()
    driver.ready()
    assert driver.routed == "nbeats/1#1"
    driver.warmed()
    assert driver.routed == "nbeats/2#1"
    driver.wait(50)
    driver.drained("nbeats/1#1")
    driver.wait(60)
    assert "nbeats/1#1" in driver.running  # 60 s after its last request, not before
    driver.wait(1)
    assert driver.running == {"nbeats/2#1"}


def test_a_roll_back_to_a_warm_version_is_routed_at_once(driver: Driver) -> None:
    driver.serve(1)
    driver.serve(2)
    driver.drained("nbeats/1#1")
    for version in [1, 2] * 25:
        driver.looked(pointer(version))
        assert driver.routed == f"nbeats/{version}#1"
        driver.wait(1)
        driver.drained(f"nbeats/{3 - version}#1")
    assert len(driver.fetches) == 2
    assert driver.running == {"nbeats/1#1", "nbeats/2#1"}


def test_a_version_that_is_superseded_before_it_is_warm_is_stopped_and_never_routed_to(
    driver: Driver,
) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    driver.fetched()
    driver.ready()
    driver.looked(pointer(3))
    assert Stop(scorer="nbeats/2#1", kill=True) in driver.sent
    driver.slot.warmed("nbeats/2#1", "now", 0.1, driver.now)  # its warm-up was under way
    driver.act()
    assert driver.routed == "nbeats/1#1"
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/3#1"


def test_files_that_come_after_the_reference_moved_on_start_nothing(driver: Driver) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    late = driver.fetches[-1]
    driver.looked(pointer(1))
    driver.slot.fetched(late, candidate(late.pointer), driver.now)
    driver.act()
    assert driver.running == {"nbeats/1#1"}


def test_at_most_one_scorer_starts_at_a_time(driver: Driver) -> None:
    driver.serve(1)
    for version in range(2, 30):
        driver.looked(pointer(version))
        driver.fetched()
        assert driver.running == {"nbeats/1#1", f"nbeats/{version}#1"}
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/29#1"


def test_of_replaced_versions_one_lingers_and_older_ones_stop_when_they_are_drained(
    driver: Driver,
) -> None:
    driver.serve(1)
    driver.serve(2)
    driver.serve(3)
    assert driver.running == {"nbeats/1#1", "nbeats/2#1", "nbeats/3#1"}  # 1 has requests still
    driver.drained("nbeats/1#1")
    assert driver.running == {"nbeats/2#1", "nbeats/3#1"}
    driver.drained("nbeats/2#1")
    driver.serve(4)
    assert driver.running == {"nbeats/3#1", "nbeats/4#1"}


def test_a_replaced_version_that_never_drains_is_stopped(driver: Driver) -> None:
    driver.serve(1)
    driver.serve(2)
    driver.serve(3)
    driver.wait(101)
    assert driver.running == {"nbeats/3#1"}


# --- failures


def _fail_files(driver: Driver) -> None:
    driver.slot.refused(driver.fetches[-1], DAMAGED, driver.now)


def _fail_at_load(driver: Driver) -> None:
    driver.fetched()
    assert driver.slot.starting is not None
    driver.ended(driver.slot.starting.id)


def _fail_at_warm_up(driver: Driver) -> None:
    driver.fetched()
    driver.ready()
    assert driver.slot.starting is not None
    driver.slot.failed(driver.slot.starting.id, BROKEN, driver.now)


def _never_ready(driver: Driver) -> None:
    driver.fetched()
    driver.wait(41)


def _never_warm(driver: Driver) -> None:
    driver.fetched()
    driver.wait(15)
    driver.ready()
    driver.wait(26)


FAILURES = [_fail_files, _fail_at_load, _fail_at_warm_up, _never_ready, _never_warm]


@pytest.mark.parametrize("fail", FAILURES)
def test_a_version_that_fails_leaves_the_old_one_serving_and_is_tagged(
    driver: Driver, fail: Any
) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    fail(driver)
    driver.act()
    assert driver.routed == "nbeats/1#1"
    assert driver.running == {"nbeats/1#1"}
    assert (driver.state.state, driver.state.version) == ("failed", 2)
    assert driver.state.refusal is not None
    [(reference, reason)] = driver.marks[1:]  # the first one: nbeats/1 was warm
    assert reference == "nbeats/2"
    assert reason.startswith(("CORRUPT: ", "LOAD_FAILED: "))


@pytest.mark.parametrize("fail", FAILURES)
def test_a_version_that_served_before_and_fails_now_is_blocked_and_tagged_as_any_other(
    driver: Driver, fail: Any
) -> None:
    driver.serve(1)
    driver.serve(2)
    driver.drained("nbeats/1#1")
    driver.wait(61)
    driver.looked(pointer(1))  # a roll-back after the old scorer has been stopped
    fetches = len(driver.fetches)
    fail(driver)
    driver.act()
    assert len(driver.fetches) == fetches  # not again and again without a pause
    assert (driver.routed, driver.running) == ("nbeats/2#1", {"nbeats/2#1"})
    assert (driver.state.state, driver.state.version) == ("failed", 1)
    assert driver.marks[-1][0] == "nbeats/1"
    assert driver.marks[-1][1].startswith(("CORRUPT: ", "LOAD_FAILED: "))
    driver.wait(301)
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.marks[-1] == ("nbeats/1", "")  # the tag is taken back


@pytest.mark.parametrize("fail", FAILURES)
def test_a_version_that_failed_is_tried_again_after_minutes(driver: Driver, fail: Any) -> None:
    driver.looked(pointer(2))
    fail(driver)
    driver.act()
    assert (driver.state.state, driver.running) == ("failed", set())
    tried = len(driver.fetches)
    for _ in range(58):
        driver.wait(5)
        driver.looked(pointer(2))
    assert len(driver.fetches) == tried
    driver.wait(11)
    assert len(driver.fetches) == tried + 1
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.state == State(model="nbeats", state="serving", version=2)
    assert driver.marks[-1] == ("nbeats/2", "")


def test_a_version_that_failed_is_tried_again_when_its_manifest_changes_or_it_is_named_anew(
    driver: Driver,
) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    _fail_files(driver)
    driver.looked(pointer(2))
    assert len(driver.fetches) == 2
    repaired = replace(pointer(2), manifest="a" * 64)
    driver.looked(repaired)
    assert driver.fetches[-1].pointer == repaired
    _fail_files(driver)
    driver.looked(pointer(1))
    driver.looked(repaired)
    assert len(driver.fetches) == 4


def test_the_old_version_is_restarted_when_the_new_one_has_failed(driver: Driver) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    _fail_files(driver)
    driver.act()
    driver.ended("nbeats/1#1")
    driver.wait(1)
    assert driver.fetches[-1] == Fetch("nbeats", pointer(1), local=True)
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/1#2"


# --- scorers that end


def test_a_scorer_that_ends_is_started_again_with_longer_and_longer_waits(driver: Driver) -> None:
    driver.serve(1)
    waits = []
    for number in range(1, 10):
        driver.ended(f"nbeats/1#{number}")
        assert driver.state.state == "starting"
        waited = 0.0
        tried = len(driver.fetches)
        while len(driver.fetches) == tried:
            driver.wait(0.25)
            waited += 0.25
        waits.append(waited)
        assert driver.fetches[-1].local  # its copy is verified again
        driver.fetched()
        driver.ready()
        driver.warmed()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert all(reason == "" for _, reason in driver.marks)


def test_a_scorer_that_was_warm_for_long_is_started_again_soon(driver: Driver) -> None:
    driver.serve(1)
    for number in range(1, 5):
        driver.wait(61)
        driver.ended(f"nbeats/1#{number}")
        driver.wait(0.5)
        driver.fetched()
        driver.ready()
        driver.warmed()
        assert driver.routed == f"nbeats/1#{number + 1}"


def test_a_scorer_that_hangs_is_killed_and_started_anew(driver: Driver) -> None:
    driver.serve(1)
    driver.slot.hung("nbeats/1#1", BROKEN, driver.now)
    driver.act()
    assert Stop(scorer="nbeats/1#1", kill=True) in driver.sent
    driver.ended("nbeats/1#1")  # the gateway tells its end, which is known already
    driver.wait(0.5)
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/1#2"


def test_a_new_version_that_waits_for_its_warm_up_replaces_a_scorer_that_ended(
    driver: Driver,
) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    driver.fetched()
    driver.ended("nbeats/1#1")
    driver.wait(10)
    assert driver.running == {"nbeats/2#1"}
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/2#1"


def test_a_damaged_copy_is_fetched_from_the_registry_before_a_restart(driver: Driver) -> None:
    driver.serve(1)
    driver.ended("nbeats/1#1")
    driver.wait(0.5)
    _fail_files(driver)
    driver.act()
    assert driver.fetches[-1] == Fetch("nbeats", pointer(1), local=False)
    driver.fetched()
    assert driver.running == {"nbeats/1#2"}


def test_a_lingering_scorer_that_ended_is_not_routed_to(driver: Driver) -> None:
    driver.serve(1)
    driver.serve(2)
    driver.ended("nbeats/1#1")
    driver.looked(pointer(1))
    assert driver.routed == "nbeats/2#1"
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/1#2"


# --- the registry


def test_while_the_registry_is_down_nothing_that_is_served_changes(driver: Driver) -> None:
    driver.serve(1)
    driver.slot.unreachable(DOWN, pointer(1), driver.now)
    driver.act()
    assert driver.state == State(
        model="nbeats", state="serving", version=1, refusal=DOWN, stale=True
    )
    driver.ended("nbeats/1#1")
    driver.wait(0.5)
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/1#2"
    driver.looked(pointer(1))
    assert driver.state == State(model="nbeats", state="serving", version=1)


def test_with_the_registry_down_at_the_start_the_last_version_is_served_as_stale(
    driver: Driver,
) -> None:
    driver.slot.unreachable(DOWN, pointer(1), driver.now)
    driver.act()
    assert driver.fetches == [Fetch("nbeats", pointer(1), local=True)]
    driver.slot.unreachable(DOWN, pointer(1), driver.now)
    driver.fetched()
    driver.ready()
    driver.warmed()
    [serve] = _serves(driver.sent)
    assert serve.route.stale
    assert driver.marks == []
    driver.looked(pointer(1))
    assert [serve.route.stale for serve in _serves(driver.sent)] == [True, False]
    assert driver.routed == "nbeats/1#1"


def test_without_a_registry_and_a_copy_the_state_says_why(driver: Driver) -> None:
    driver.slot.unreachable(DOWN, None, driver.now)
    driver.act()
    assert driver.state == State(model="nbeats", state="starting", refusal=DOWN, stale=True)
    driver.looked(pointer(1))
    assert driver.fetches == [Fetch("nbeats", pointer(1), local=False)]


def test_a_damaged_copy_is_fetched_when_the_registry_is_back(driver: Driver) -> None:
    driver.slot.unreachable(DOWN, pointer(1), driver.now)
    driver.act()
    _fail_files(driver)
    driver.act()
    assert driver.state == State(model="nbeats", state="starting", refusal=DAMAGED, stale=True)
    driver.looked(pointer(1))
    assert driver.fetches[-1] == Fetch("nbeats", pointer(1), local=False)


def test_with_the_ledger_down_at_the_start_the_copy_is_served_until_it_answers(
    driver: Driver,
) -> None:
    driver.looked(pointer(2))
    driver.slot.put_off(driver.fetches[-1], DOWN, pointer(1), driver.now)
    driver.act()
    assert driver.fetches[-1] == Fetch("nbeats", pointer(1), local=True)
    driver.fetched()
    driver.ready()
    driver.looked(pointer(2))  # the tracking server answers all the time
    driver.warmed()
    assert driver.routed == "nbeats/1#1"
    assert _serves(driver.sent)[-1].route.stale
    driver.wait(11)
    assert driver.fetches[-1] == Fetch("nbeats", pointer(2), local=False)
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/2#1"
    assert not _serves(driver.sent)[-1].route.stale


def test_an_outage_while_files_are_fetched_blocks_for_seconds_and_tags_nothing(
    driver: Driver,
) -> None:
    driver.serve(1)
    driver.looked(pointer(2))
    driver.slot.put_off(driver.fetches[-1], DOWN, None, driver.now)
    driver.act()
    driver.wait(9)
    assert len(driver.fetches) == 2
    driver.wait(2)
    assert len(driver.fetches) == 3
    assert driver.marks == [("nbeats/1", "")]


def test_a_reference_that_names_nothing_any_more_leaves_its_version_serving(
    driver: Driver,
) -> None:
    driver.serve(1)
    gone = Refusal(code="NOT_FOUND", message="nothing in production", status=404)
    driver.slot.missing(gone, driver.now)
    driver.act()
    assert driver.routed == "nbeats/1#1"
    assert driver.state == State(model="nbeats", state="serving", version=1, refusal=gone)


def test_another_stage_of_the_same_version_is_told_and_nothing_is_started(driver: Driver) -> None:
    driver.serve(1)
    driver.looked(replace(pointer(1), stage="Staging"))
    assert [serve.route.stage for serve in _serves(driver.sent)] == ["Production", "Staging"]
    assert len(driver.fetches) == 1
    driver.looked(replace(pointer(1), stage="Staging"))
    assert len(_serves(driver.sent)) == 2


# --- a version that stands in


SIMULATOR = pointer(7, name="kronos_simulated", instead="KRONOS_MODE=auto")


def test_a_version_that_stands_in_serves_until_the_model_itself_is_warm(driver: Driver) -> None:
    driver.looked(pointer(1), SIMULATOR)
    _fail_files(driver)
    driver.act()
    assert driver.fetches[-1].pointer == SIMULATOR
    driver.fetched()
    driver.ready()
    driver.warmed()
    [serve] = _serves(driver.sent)
    assert (serve.route.model, serve.route.name) == ("nbeats", "kronos_simulated")
    assert serve.route.notes == (
        "simulated: kronos_simulated/7 answers for nbeats: KRONOS_MODE=auto",
    )
    driver.looked(pointer(2), SIMULATOR)
    driver.fetched()
    driver.ready()
    driver.warmed()
    assert driver.routed == "nbeats/2#1"


def test_nothing_stands_in_for_a_model_that_is_served_or_whose_registry_is_down(
    driver: Driver,
) -> None:
    driver.looked(pointer(1), SIMULATOR)
    driver.slot.put_off(driver.fetches[-1], DOWN, None, driver.now)
    driver.act()
    assert len(driver.fetches) == 1
    driver.wait(11)
    driver.fetched()
    driver.ready()
    driver.warmed()
    driver.looked(pointer(2), SIMULATOR)
    _fail_files(driver)
    driver.act()
    assert len(driver.fetches) == 3
    assert driver.routed == "nbeats/1#1"


# --- a new supervisor


def test_a_new_supervisor_adopts_what_is_routed_and_stops_what_it_does_not_know() -> None:
    from serving.messages import Hello
    from serving.supervisor.runners import route

    old = Driver()
    old.serve(1)
    assert old.slot.serving is not None
    adopted_route = route("nbeats", old.slot.serving, stale=False)
    new = Driver()
    fleet = Fleet(["nbeats"], new._start, LIMITS)
    hello = Hello(pid=1, running=["nbeats/1#1", "nbeats/0#3"], routes=[adopted_route])
    fleet.adopt(hello, {"nbeats": candidate(pointer(1))}, 0.0)
    effects = fleet.take()
    assert not [effect for effect in effects if isinstance(effect, Stop)]  # it may have requests
    [watch] = [effect for effect in effects if isinstance(effect, Watch)]
    assert (watch.runner.id, watch.runner.token) == ("nbeats/1#1", "t")
    fleet.slots["nbeats"].looked([pointer(1)], 1.0)
    assert not [effect for effect in fleet.take() if isinstance(effect, Fetch | Serve)]
    fleet.slots["nbeats"].looked([pointer(2)], 2.0)
    [fetch] = [effect for effect in fleet.take() if isinstance(effect, Fetch)]
    assert fetch.pointer == pointer(2)
    fleet.tick(29.0)
    assert not [effect for effect in fleet.take() if isinstance(effect, Stop)]
    fleet.tick(30.0)
    assert [effect for effect in fleet.take() if isinstance(effect, Stop)] == [
        Stop(scorer="nbeats/0#3")
    ]


def test_a_routed_scorer_that_ended_meanwhile_is_started_again() -> None:
    from serving.messages import Hello
    from serving.supervisor.runners import route

    old = Driver()
    old.serve(1)
    assert old.slot.serving is not None
    hello = Hello(pid=1, running=[], routes=[route("nbeats", old.slot.serving, stale=False)])
    fleet = Fleet(["nbeats"], old._start, LIMITS)
    fleet.adopt(hello, {"nbeats": candidate(pointer(1))}, 0.0)
    fleet.tick(0.5)
    fetches = [effect for effect in fleet.take() if isinstance(effect, Fetch)]
    assert fetches == [Fetch("nbeats", pointer(1), local=True)]


def _serves(sent: Sequence[Any]) -> list[Serve]:
    return [message for message in sent if isinstance(message, Serve)]
