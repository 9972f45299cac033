"""What a process holds, as the operating system sees it."""

import platform
import subprocess
import sys
import threading

import pytest

from core.home import CHECKOUT
from core.process import apart
from core.runs.environment import child_environment

# Small things with holes of 9 MB between those that stay; then tensors that fit into the holes.
CHURN = """
import sys
import torch
from core.process import apart, release, resident_bytes

def churn():
    made = [bytes(9000) for _ in range(20_000)]
    return made[::1000]

kept = apart(churn) if sys.argv[1] == "apart" else churn()
release()
before = resident_bytes()
tensors = [torch.ones(2_000_000) for _ in range(16)]
del tensors
print(resident_bytes() - before)
"""


def held_after_freeing(way):
    done = subprocess.run(
        [sys.executable, "-c", CHURN, way],
        cwd=CHECKOUT,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_holes_of_work_done_apart_keep_no_freed_tensors():
    assert held_after_freeing("here") > 60e6  # the reason for it: if this fails, drop `apart`
    assert held_after_freeing("apart") < 15e6


def test_work_done_apart_gives_its_result_or_its_error():
    assert apart(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 // 0)
