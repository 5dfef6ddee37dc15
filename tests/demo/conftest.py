"""A small cohort, and the demo's recipes at a size for seconds."""

from __future__ import annotations

import numpy as np
import pytest
from small_cohort import SMALL, rows

from fmri_lm_hf import Atlas
from fmri_lm_hf.scans import write_scan_dataset
from fmri_lm_hf.simulation import Site, simulate_cohort


@pytest.fixture
def small_demo() -> dict[str, list[str]]:
    return SMALL


@pytest.fixture(scope="module")
def cohort():
    whole = Atlas.load("dosenbach_2010")
    kept = [i for name in whole.network_names[:3] for i in np.flatnonzero(np.array(whole.networks) == name)[:4]]
    atlas = Atlas(
        "twelve",
        tuple(whole.roi_names[i] for i in kept),
        tuple(whole.networks[i] for i in kept),
        tuple(whole.coordinates[i] for i in kept),
    )
    return simulate_cohort(atlas, sites=(Site("A", 16, n_timepoints=60), Site("B", 8, n_timepoints=80)))


@pytest.fixture(scope="module")
def scans(cohort, tmp_path_factory):
    """The cohort with a class column of numbers, in which one label is missing and one scan is too short."""
    folder = tmp_path_factory.mktemp("cohort") / "scans"
    changed = rows(
        cohort,
        group=lambda i, row: None if i == 3 else i % 2,
        bold=lambda i, row: row["bold"][:12] if i == 5 else row["bold"],
        n_timepoints=lambda i, row: 12 if i == 5 else row["n_timepoints"],
    )
    return write_scan_dataset(changed, folder, cohort.atlas)
