"""Memory that a training has freed is used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from fmri_lm_hf.training.record import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # until all that is needed was taken once
    torch.ones(16_000_000)
before = faults()
for _ in range(10):
    torch.ones(16_000_000)
print(kept, faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be told")
def test_pages_of_freed_tensors_are_not_taken_anew():
    found = {}
    for how in ("keep", "as it is"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        kept, faults = done.stdout.split()
        assert kept == str(how == "keep")
        found[how] = int(faults)
    assert found["keep"] < found["as it is"] / 20
