"""Files that another process reads: it reads the old file or the new one, never a part."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.errors import KronosError
from registry.files import sweep, write_together

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


def test_a_full_disk_leaves_all_old_files_and_says_so(tmp_path):
    write_together({tmp_path / "a": text("old a"), tmp_path / "b": text("old b")})
    script = """
import resource, sys
from pathlib import Path
from registry.errors import KronosError
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
    for name in (".a.txt.1-00.tmp", ".b.txt.2-00.tmp", "a.txt", ".hidden"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".b.txt.2-00.tmp").touch()  # still being written
    assert sweep(tmp_path) == [tmp_path / ".a.txt.1-00.tmp"]
    assert names(tmp_path) == [".b.txt.2-00.tmp", ".hidden", "a.txt"]


def test_sweep_of_a_missing_folder_finds_nothing(tmp_path):
    assert sweep(tmp_path / "nowhere") == []
