"""A program of test_data_load.py: loads a data set into the ledger, a symbol at a time.

python tests/integration/loader.py NAME
"""

import sys

from jobs.data import load
from registry import terminal
from registry.settings import Settings


def say(_label: str, share: float) -> None:
    print(f"{share:.2f}", flush=True)


def main() -> None:
    load.ROWS = 1
    load.load(Settings(), sys.argv[1], progress=say)


terminal.run(main)
