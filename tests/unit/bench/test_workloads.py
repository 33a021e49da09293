"""What the workloads are run under."""

import os
import subprocess
import sys

from ferryfs.bench.workloads import one_processor


def test_what_is_started_meanwhile_has_one_processor() -> None:
    allowed = os.sched_getaffinity(0)
    with one_processor():
        count = subprocess.check_output([sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"])
    assert int(count) == 1
    assert os.sched_getaffinity(0) == allowed
