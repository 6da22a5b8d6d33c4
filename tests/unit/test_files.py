"""Files that another process reads: it reads the old file or the new one, never a part."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from registry import waiting
from registry.errors import Conflict, KronosError
from registry.files import (
    is_locked,
    locked,
    make_folder,
    make_once,
    sweep,
    temporary_folder,
    write_together,
)
from registry.processes import Process, this_process

ROOT = Path(__file__).resolve().parents[2]


def text(content: str):
    return lambda path: path.write_text(content) and None


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_together({path: text("one")})
    write_together({path: text("two")})
    assert path.read_text() == "two"
    assert names(path.parent) == ["a.txt"]


def test_a_new_file_has_the_permissions_that_the_umask_allows(tmp_path):
    (tmp_path / "plain").write_text("")
    write_together({tmp_path / "atomic": text("")})
    mode = stat.S_IMODE((tmp_path / "atomic").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_writer_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_together({path: text("old")})

    def broken(temporary: Path) -> None:
        temporary.write_text("hal")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_together({path: broken})
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_of_several_files_none_is_replaced_when_the_last_cannot_be_written(tmp_path):
    write_together({tmp_path / "a": text("old a"), tmp_path / "b": text("old b")})
    (tmp_path / "b.txt").write_text("a file, not a folder")
    with pytest.raises(KronosError, match=r"cannot write .*c: ") as caught:
        write_together(
            {
                tmp_path / "a": text("new a"),
                tmp_path / "b": text("new b"),
                tmp_path / "b.txt" / "c": text("c"),
            }
        )
    assert caught.value.code == "NOT_WRITABLE"
    assert [(tmp_path / "a").read_text(), (tmp_path / "b").read_text()] == ["old a", "old b"]
    assert names(tmp_path) == ["a", "b", "b.txt"]


def test_a_folder_that_cannot_be_made_is_said_in_one_line():
    for made in (make_folder, lambda path: temporary_folder(path, "new")):
        with pytest.raises(KronosError, match="cannot write /proc/nope: No such file") as caught:
            made(Path("/proc/nope"))
        assert caught.value.code == "NOT_WRITABLE"


def test_a_full_disk_leaves_all_old_files_and_says_so(tmp_path):
    write_together({tmp_path / "a": text("old a"), tmp_path / "b": text("old b")})
    script = """
import resource, sys
from pathlib import Path
from registry.errors import Conflict, KronosError
from registry.files import write_together
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
a, b = Path(sys.argv[1], "a"), Path(sys.argv[1], "b")
try:
    write_together({a: lambda p: p.write_text("new a"), b: lambda p: p.write_text("b" * 2000)})
except KronosError as error:
    print(error.code, error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        f"NO_SPACE no space left for {tmp_path / 'b'}; "
        "every file is whole, as it was before or new\n"
    )
    assert [(tmp_path / "a").read_text(), (tmp_path / "b").read_text()] == ["old a", "old b"]
    assert names(tmp_path) == ["a", "b"]


def test_a_writer_killed_in_a_rewrite_loop_leaves_a_whole_file(tmp_path):
    path = tmp_path / "numbers"
    script = """
import itertools, sys
from pathlib import Path
from registry.files import write_together
for n in itertools.count():
    write_together({Path(sys.argv[1]): lambda p: p.write_text(f"{n % 10}" * 3_000_000)})
"""
    for delay_s in (0.02, 0.05, 0.09):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", script, path], cwd=ROOT)
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(delay_s)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        content = path.read_text()
        assert content == content[0] * 3_000_000


def test_sweep_removes_what_killed_writers_left_and_no_other_file(tmp_path):
    program = """
import os, sys
from pathlib import Path
from registry.files import temporary_folder, write_together
folder = temporary_folder(Path(sys.argv[1]), "nbeats-3")
Path(folder.name, "weights").write_text("half")
write_together({Path(sys.argv[1], "a.txt"): lambda path: path.write_text("") and os._exit(9)})
write_together({Path(sys.argv[1], "b.txt"): lambda path: path.touch() or os._exit(9)})
"""
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT)
    ours = temporary_folder(tmp_path, "live")
    elsewhere = Path(ours.name.replace(f"@{this_process().host}-", "@elsewhere-"))
    for path in (elsewhere, tmp_path / "kronos-abc", tmp_path / "mail@desk-1@x"):
        path.mkdir()
    kept = {Path(ours.name).name, elsewhere.name, "kronos-abc", "mail@desk-1@x", "a.txt"}
    removed = {path.name.split("@")[0] for path in sweep(tmp_path)}
    assert removed == {"nbeats-3", ".b.txt"}
    assert set(names(tmp_path)) == kept
    ours.cleanup()


def test_sweep_of_a_missing_folder_finds_nothing(tmp_path):
    assert sweep(tmp_path / "nowhere") == []


def test_sweep_follows_no_link(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = Process(this_process().host, child.pid, "")
    (tmp_path / f"x@{dead.mark}@y").symlink_to(tmp_path / "precious")
    assert len(sweep(tmp_path)) == 1
    assert (tmp_path / "precious" / "file").read_text() == "kept"
    assert names(tmp_path) == ["precious"]


def test_a_lock_leaves_no_file_and_whoever_waited_for_it_gets_a_new_one(tmp_path):
    lock = tmp_path / "lock"
    order = []

    def wait_for_it():
        with locked(lock):
            order.append("second")
            with pytest.raises(Conflict, match="held"), locked(lock, busy="held"):
                pytest.fail("two held one lock")

    waiter = threading.Thread(target=wait_for_it)
    with locked(lock):
        waiter.start()
        assert is_locked(lock)
        order.append("first")
    waiter.join()
    assert order == ["first", "second"]
    assert names(tmp_path) == []
    assert not is_locked(lock)
    assert names(tmp_path) == []


# --- files that are made once -----------------------------------------------------------------


def test_a_file_that_exists_is_not_made_again(tmp_path):
    path = tmp_path / "new" / "a.db"
    make_once(path, text("one"))
    make_once(path, text("two"))
    assert path.read_text() == "one"
    assert names(path.parent) == ["a.db"]


def test_an_empty_file_is_none(tmp_path):
    path = tmp_path / "a.db"
    path.touch()
    make_once(path, text("one"))
    assert path.read_text() == "one"


def test_a_file_that_cannot_be_made_leaves_nothing_of_it(tmp_path):
    def failing(path: Path) -> None:
        path.with_name("a.db-journal").write_text("beside it")
        path.write_text("half")
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        make_once(tmp_path / "a.db", failing)
    assert names(tmp_path) == []


def test_of_several_processes_one_makes_the_file_and_the_others_wait(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "AFTER_S", 0.01)
    path, makers = tmp_path / "a.db", []

    def slow(new: Path) -> None:
        makers.append(threading.get_ident())
        while not caplog.messages:
            time.sleep(0.01)
        new.write_text("whole")

    threads = [threading.Thread(target=make_once, args=(path, slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert path.read_text() == "whole"
    assert len(makers) == 1
    assert caplog.messages[0] == f"waiting for another process, which makes {path}"
    assert names(tmp_path) == ["a.db"]


def test_what_a_killed_maker_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "a.db"
    program = (
        "import os, signal, sys; from pathlib import Path; from registry.files import make_once\n"
        "def killed(path): path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "make_once(Path(sys.argv[1]), killed)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2  # its folder and its lock
    make_once(path, text("whole"))
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["a.db"]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KronosError, match="cannot write") as caught:
        make_once(tmp_path / "file" / "a.db", text("one"))
    assert caught.value.code == "NOT_WRITABLE"
