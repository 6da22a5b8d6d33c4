"""A program of test_data_load.py: loads a data set into the ledger, a symbol at a time.

python tests/integration/loader.py NAME [LINES]

After that many lines of progress it waits for a line of input.
"""

import sys

from jobs.data import load
from registry import terminal
from registry.settings import Settings


class Talk:
    """Prints each share of the work, and waits once."""

    def __init__(self, lines: int):
        self.lines = lines

    def __call__(self, _label: str, share: float) -> None:
        print(f"{share:.2f}", flush=True)
        self.lines -= 1
        if self.lines == 0:
            sys.stdin.readline()


def main() -> None:
    name, *lines = sys.argv[1:]
    load.ROWS = 1
    load.load(Settings(), name, progress=Talk(int(lines[0]) if lines else 0))


terminal.run(main)
