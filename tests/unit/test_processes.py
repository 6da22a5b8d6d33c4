"""Processes: their marks, and commands that end with their parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry import attached
from registry.processes import Process, lives, marked, this_process
from registry.settings import CHECKOUT

# What a make hands to the makes that it starts.
SUB_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
BOOT = "05750b97-50ae-4502-94ac-8141085e0a7e"


@pytest.mark.parametrize(
    "process",
    [
        Process("desk", 12, f"{BOOT}/345/0123abcd"),
        Process("a-b-7-c.example.org", 12, f"{BOOT}/345/0123abcd"),
        Process("mac", 12, ""),
    ],
)
def test_a_mark_names_its_process(process: Process) -> None:
    assert marked(process.mark) == process
    assert "/" not in process.mark


@pytest.mark.parametrize("text", ["", "desk", "desk-12", f"desk-x-{BOOT}-345", "kronos-3-abcdef"])
def test_other_text_is_no_mark(text: str) -> None:
    assert marked(text) is None


def test_the_process_of_a_mark_lives_until_it_ends() -> None:
    assert lives(this_process()) is True
    program = "from registry.processes import this_process; print(this_process().mark)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    process = marked(done.stdout.strip())
    assert process is not None
    assert process.host == this_process().host
    assert lives(process) is False
    assert lives(Process("another host", process.pid, process.started)) is None
    # A container or machine of the same name, and an older claim, which does not name its place.
    boot, ticks, _ = this_process().started.split("/")
    assert lives(Process(process.host, process.pid, f"{boot}/{ticks}/01234567")) is None
    assert lives(Process(process.host, this_process().pid, f"{boot}/{ticks}")) is True
    assert lives(Process(process.host, process.pid, f"{boot}/{ticks}")) is False
    # Without a start, the number decides: a living process is never taken for a dead one.
    assert lives(Process(process.host, this_process().pid, "")) is True
    assert lives(Process(process.host, process.pid, "")) is False


def test_an_attached_command_ends_when_its_parent_is_killed() -> None:
    program = """
import subprocess, sys
from registry.attached import attached
child = "import signal; print('begun', flush=True); signal.pause()"
subprocess.Popen(attached([sys.executable, "-c", child])).wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        parent.kill()
        assert parent.stdout.read() == ""  # the end of the pipe, which the child held


def test_a_command_whose_parent_is_gone_already_is_not_started() -> None:
    words = attached.attached([sys.executable, "-c", "print('begun')"])
    words[words.index(attached.__file__) + 1] = "1"
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")


def test_a_server_of_make_ends_when_make_is_told_to_end(tmp_path: Path) -> None:
    """make passes SIGTERM to the shell of a recipe only."""
    # Under `make test` this make is a sub-make, which would announce its folder on stdout.
    environment = {name: value for name, value in os.environ.items() if name not in SUB_MAKE}
    child = "import signal; print('begun', flush=True); signal.pause()"
    makefile = tmp_path / "Makefile"
    recipe = f'probe:\n\t@trap : INT; $(ATTACHED) -c "{child}" || test $$? -eq 130\n'
    makefile.write_text(f"include Makefile\n{recipe}")
    with subprocess.Popen(
        ["make", "-f", str(makefile), "probe"],
        cwd=CHECKOUT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.communicate(timeout=60)[0] == ""  # the child held the pipe until its end
    lines = (CHECKOUT / "Makefile").read_text().splitlines()
    servers = [line for line in lines if "serving start" in line or "registry ui" in line]
    assert [line.startswith("\t@trap : INT; $(ATTACHED) -m ") for line in servers] == [True, True]
