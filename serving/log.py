"""The log of a scoring server: every line with its time and process, in a file of bounded size."""

import os
import re
import threading
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from registry.errors import KronosError

LIMIT = 10_000_000  # bytes; then the file becomes NAME.1, in place of the one before
LINE = 65_536  # bytes; a longer line is cut in two
REMEMBERED = 1000  # lines
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Interrupt): (?!Command '\['bash')")


class Log:
    """What one server prints. Servers of one version append to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._reader: threading.Thread | None = None

    def begin(self, title: str) -> None:
        """Write the title of a server that is about to start. Raises KronosError, NOT_WRITABLE."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(os.getpid(), f"--- {title}")
        except OSError as error:
            raise KronosError(
                f"the log {self.path} cannot be written: {error.strerror}", code="NOT_WRITABLE"
            ) from error

    def follow(self, output: IO[bytes], pid: int) -> None:
        """Write what comes out of this pipe, until every process has closed it."""
        self._reader = threading.Thread(target=self._read, args=(output, pid), daemon=True)
        self._reader.start()

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether all processes of the server have ended, or do so in this time."""
        if self._reader is None:
            return True
        self._reader.join(timeout_s)
        return not self._reader.is_alive()

    def last_error(self) -> str:
        """The last error of `registry`, else the last exception, else the last line.

        MLflow's own exception only repeats the command of the server that ended.
        """
        lines = [line.strip() for line in self._lines if line.strip()]
        ours = [line.partition(": ")[2] for line in lines if line.startswith("registry.errors.")]
        others = [line for line in lines if _EXCEPTION.match(line)]
        return (ours or others or lines or ["it printed nothing"])[-1]

    def _read(self, output: IO[bytes], pid: int) -> None:
        with output:
            while content := output.readline(LINE):
                line = content.decode(errors="replace").rstrip("\r\n")
                self._lines.append(line)
                with suppress(OSError):  # with a full disk the server goes on
                    self._append(pid, line)

    def _append(self, pid: int, line: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self.path.open("ab") as file:
            file.write(f"{time} {pid} {line}\n".encode())
            file.flush()
            with suppress(FileNotFoundError):  # another server may have renamed the file
                same = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
                if file.tell() > LIMIT and same:
                    self.path.replace(self.path.with_name(f"{self.path.name}.1"))
