"""Signals as an exception: raised once, after a write, and never lost."""

import signal
import subprocess
import sys
import threading

import pytest

from registry import interrupts, terminal
from registry.errors import KronosError
from registry.interrupts import Interrupted
from registry.settings import CHECKOUT


def test_each_signal_is_raised_and_the_handlers_of_before_return() -> None:
    before = [signal.getsignal(number) for number in interrupts.ENDING]
    for number, word in interrupts.ENDING.items():
        with pytest.raises(Interrupted, match=word) as caught, interrupts.raised():
            signal.raise_signal(number)
        assert caught.value.number == number
    assert [signal.getsignal(number) for number in interrupts.ENDING] == before
    assert interrupts.received() is None


def test_only_the_first_signal_is_raised() -> None:
    with interrupts.raised():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        for number in interrupts.ENDING:
            signal.raise_signal(number)
        assert interrupts.received() is signal.SIGTERM


def test_a_later_signal_ends_a_program_that_waits_for_something_else() -> None:
    program = """
import signal
from registry import interrupts
interrupts.PATIENCE_S = -1.0
with interrupts.raised(), interrupts.deferred():
    signal.raise_signal(signal.SIGINT)
    print("waiting", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("still waiting", flush=True)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "waiting\n")


def test_a_signal_in_a_deferred_block_is_raised_after_it() -> None:
    written = []

    @interrupts.deferred()
    def write() -> None:
        signal.raise_signal(signal.SIGTERM)
        written.append("whole")

    with interrupts.raised(), pytest.raises(Interrupted):
        write()
    assert written == ["whole"]


def test_a_deferred_signal_is_raised_where_it_is_allowed_again() -> None:
    with interrupts.raised(), interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        with interrupts.deferred():  # an inner block does not end the outer one
            pass
        with pytest.raises(Interrupted), interrupts.allowed():
            pytest.fail("it was due at once")


def test_other_threads_do_not_touch_what_the_main_thread_defers() -> None:
    passed = []

    def allow() -> None:
        with interrupts.allowed():
            passed.append("thread")

    @interrupts.deferred()
    def write() -> None:
        signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=allow)
        thread.start()
        thread.join()
        passed.append("write")

    with interrupts.raised(), pytest.raises(Interrupted):
        write()
    assert passed == ["thread", "write"]


def test_a_signal_that_was_swallowed_is_raised_at_the_next_check() -> None:
    interrupts.check()
    with interrupts.raised():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with interrupts.deferred():
            interrupts.check()
        with pytest.raises(Interrupted, match="terminated"):
            interrupts.check()


def test_a_signal_that_the_program_was_started_to_ignore_stays_ignored() -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interrupts.raised():
            signal.raise_signal(signal.SIGHUP)
            assert interrupts.received() is None
    finally:
        signal.signal(signal.SIGHUP, old)


def test_a_signal_that_a_library_took_is_given_back() -> None:
    with interrupts.raised():
        with interrupts.handlers_kept():
            for number in interrupts.ENDING:
                signal.signal(number, signal.SIG_IGN)
        with pytest.raises(Interrupted, match="terminated"):
            signal.raise_signal(signal.SIGTERM)


def swallows() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except Interrupted:
        print("result")


def makes_success() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except Interrupted as error:
        raise SystemExit(0) from error  # as Lightning does with a SIGTERM


def makes_an_error() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except Interrupted as error:
        raise KronosError("a worker process ended") from error


@pytest.mark.parametrize("main", [swallows, makes_success, makes_an_error])
def test_a_program_that_got_a_signal_never_ends_with_success(
    main: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        terminal.run(main)  # type: ignore[arg-type]
    assert ended.value.code == 143
    assert capsys.readouterr().err == "terminated\n"


def test_a_child_does_not_get_ctrl_c_and_this_process_does() -> None:
    program = "print('begun', flush=True); input(); print('done')"
    with interrupts.no_ctrl_c_for_children():
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate("\n")[0] == "done\n"
    assert child.returncode == 0
    with pytest.raises(Interrupted), interrupts.raised(), interrupts.no_ctrl_c_for_children():
        signal.raise_signal(signal.SIGINT)
