"""Censored time points take no part in any descriptor."""

from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.descriptors import FAMILIES, compute_features
from fmri_lm_hf.models.scan_errors import ScanError


@pytest.mark.parametrize("fill", [np.nan, 1e6, 0.0])
@pytest.mark.parametrize("censored", [slice(30, 45), slice(0, 150, 4)])
def test_what_stands_at_censored_points_is_not_read(bold, atlas, fill, censored):
    observed = np.ones(len(bold), dtype=bool)
    observed[censored] = False
    filled = bold.copy()
    filled[censored] = fill
    found = compute_features(filled, 2.0, atlas, sample_mask=observed)
    assert list(found) == list(compute_features(bold, 2.0, atlas))
    np.testing.assert_equal(found, compute_features(bold, 2.0, atlas, sample_mask=observed))


@pytest.mark.parametrize("family", ["connectivity", "gradients", "graph"])
def test_families_without_time_are_those_of_the_observed_points_alone(bold, atlas, family):
    observed = np.random.default_rng(0).random(len(bold)) > 0.3
    found = compute_features(bold, 2.0, atlas, (family,), sample_mask=observed)
    assert found == compute_features(bold[observed], 2.0, atlas, (family,))


def test_a_mask_of_ones_changes_nothing(bold, atlas):
    whole = compute_features(bold, 2.0, atlas)
    assert compute_features(bold, 2.0, atlas, FAMILIES, sample_mask=[True] * len(bold)) == whole


def test_masks_that_do_not_fit_or_leave_too_little_are_refused(bold, atlas):
    with pytest.raises(ScanError, match=r"sample_mask has shape \(3,\), expected \(150,\)"):
        compute_features(bold, 2.0, atlas, sample_mask=[True] * 3)
    with pytest.raises(ScanError, match=r"19 observed time points \(of 150\); descriptors need at least 20"):
        compute_features(bold, 2.0, atlas, sample_mask=np.arange(150) < 19)
