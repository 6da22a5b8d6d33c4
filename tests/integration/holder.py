"""A program of test_job_runs.py: holds the run of a job until it is killed.

python tests/integration/holder.py URI JOB KEY
"""

import sys
import time

from registry.ledger import database
from registry.ledger.job_runs import job_run


def main() -> None:
    uri, job, key = sys.argv[1:]
    with job_run(database.connect(uri), job, key):
        print("held", flush=True)
        time.sleep(600)


main()
