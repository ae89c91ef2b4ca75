"""Memory that is freed is kept: asked for again, it comes without a page fault for every 4 KiB."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from medvae.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**26, dtype=np.uint8)[:] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
anew = faults()
assert keep_freed_memory()
faults()
print(anew, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    anew, again = map(int, done.stdout.split())
    assert again < anew / 10
