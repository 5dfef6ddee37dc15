"""The demo at its full size, as `make demo` runs it: its scores may not fall below a floor.

A pairing that is broken anywhere between the scans and the table (features, texts, labels, classes, rows) ends here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_keeps_up_with_its_baseline_and_says_what_is_true(tmp_path):
    command = [sys.executable, "-m", "fmri_lm_hf.cli", "demo", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for name, readers in results["tasks"].items():
        ours = readers["fmri_lm"]["balanced_accuracy"]
        assert ours >= readers["connectivity_logistic"]["balanced_accuracy"] - 0.05, name
        assert ours >= readers["other_scan"]["balanced_accuracy"] + 0.15, name
        assert readers["without_scan"]["balanced_accuracy"] == 0.5, name
    descriptions = results["truth"]["descriptions"]
    assert descriptions["precision"] > descriptions["other_scan_precision"]
    assert results["truth"]["pair_level"]["exact"] > results["truth"]["pair_level"]["other_scan"]
    assert results["peak_rss_mb"] < 4000
