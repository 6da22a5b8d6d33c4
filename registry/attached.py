"""Run a command that ends when its parent does: python attached.py PARENT COMMAND...

On Linux the kernel sends SIGTERM to the command as soon as the parent has ended, even by kill -9.
Elsewhere the command just runs. Standard library only.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of prctl(2); exec keeps it


def attached(command: list[str]) -> list[str]:
    """The command that runs `command` until this process ends. Start it from the main thread."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
