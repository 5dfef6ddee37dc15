"""Bad inputs end in one sentence or in a scan that is right: a small run of the fuzzer."""

from __future__ import annotations

import pytest
from bad_inputs import run


@pytest.mark.parametrize("seed", [1, 2])
def test_no_bad_input_ends_in_a_raw_exception_or_a_wrong_scan(tmp_path, seed):
    outcomes, faults = run(400, seed, tmp_path)
    assert faults == []
    for kind in ("object", "nii.gz", "npz", "tsv", "mat"):  # the fuzzer itself does something
        assert outcomes[f"{kind}: refused"] > 0
