"""Connectivity: one definition of correlation, Fisher z and usable ROIs for descriptors, baselines and oracles."""

from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.descriptors import compute_features
from fmri_lm_hf.descriptors.connectivity import (
    LARGEST_CORRELATION,
    GroupConnectivity,
    fisher_z,
    fisher_z_connectivity,
    usable_rois,
)
from fmri_lm_hf.descriptors.prepared import prepare_scan
from fmri_lm_hf.evaluation import connectivity_features


def test_means_are_those_of_a_plain_loop(bold, atlas):
    correlation = np.corrcoef(bold.T.astype(np.float64))
    features = compute_features(bold, 2.0, atlas, families=("connectivity",))
    for first in atlas.network_names:
        for second in atlas.network_names:
            name = f"connectivity/mean/{first}-{second}"
            if name in features:
                pairs = [
                    np.arctanh(correlation[i, j])
                    for i in range(atlas.n_rois)
                    for j in range(atlas.n_rois)
                    if i != j and atlas.networks[i] == first and atlas.networks[j] == second
                ]
                np.testing.assert_allclose(features[name], np.mean(pairs), rtol=1e-4, atol=1e-5)


def test_identical_rois_do_not_give_infinity(bold, atlas):
    bold = bold.copy()
    bold[:, 1] = bold[:, 0]
    assert np.isfinite(list(compute_features(bold, 2.0, atlas, families=("connectivity",)).values())).all()


def test_fisher_z_is_arctanh_of_correlations_cut_below_one():
    r = np.linspace(-0.999, 0.999, 101)
    np.testing.assert_allclose(fisher_z(r), np.arctanh(r), atol=1e-12)
    np.testing.assert_allclose(fisher_z(np.array([-1.0, 1.0])), np.arctanh([-1, 1] * np.array(LARGEST_CORRELATION)))
    np.testing.assert_allclose(fisher_z(r.astype(np.float32)), np.arctanh(r), atol=1e-4)


def damaged(bold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scan with an ROI of each kind that cannot be used, and a mask that leaves out another."""
    bold, mask = 1000 + 1e-2 * bold.astype(np.float64), np.ones(bold.shape[1], dtype=bool)
    bold[3, 1], bold[9, 2] = np.nan, np.inf
    bold[:, 3] = 1000.0
    bold[:, 4] = 1000 + 1e-5 * np.arange(len(bold)) / len(bold)  # rounding, no signal
    mask[5] = False
    return bold, mask


def test_descriptors_and_baselines_take_the_same_rois(bold, atlas):
    scan, mask = damaged(bold)
    expected = ~np.isin(np.arange(atlas.n_rois), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(usable_rois(scan, mask), expected)
    np.testing.assert_array_equal(prepare_scan(scan, 2.0, atlas, mask).usable, expected)
    z = fisher_z_connectivity(scan, mask)
    np.testing.assert_array_equal(np.isfinite(z).any(axis=0), expected)
    (row,) = connectivity_features([scan], [mask])
    np.testing.assert_array_equal(row, z[np.triu_indices(atlas.n_rois, 1)])


def test_descriptors_and_baselines_have_the_same_connectivity(bold, atlas):
    prepared = prepare_scan(bold, 2.0, atlas)
    z = fisher_z(prepared.connectivity)
    np.fill_diagonal(z, np.nan)
    np.testing.assert_array_equal(fisher_z_connectivity(bold), z)


def test_connectivity_is_that_of_the_observed_points(bold):
    observed = np.arange(len(bold)) % 3 > 0
    filled = np.where(observed[:, None], bold, 1e6)
    np.testing.assert_array_equal(fisher_z_connectivity(filled, None, observed), fisher_z_connectivity(bold[observed]))
    np.testing.assert_array_equal(
        connectivity_features([filled, bold], sample_masks=[observed, None]),
        connectivity_features([bold[observed], bold]),
    )
    with pytest.raises(ValueError, match="2 observed time points found, expected at least 3"):
        fisher_z_connectivity(bold, None, np.arange(len(bold)) < 2)


# The mean connectivity of scans that lack ROIs, against the mean over those that have them.


MASKS = np.array([[True] * 4, [True, True, False, False], [True, False, True, False], [True] * 3 + [False]])
SCANS = np.random.default_rng(0).normal(size=(4, 4, 4))


def group_of(numbers) -> GroupConnectivity:
    group = GroupConnectivity(4)
    for k in numbers:
        group.add(SCANS[k][np.ix_(MASKS[k], MASKS[k])], MASKS[k])
    return group


def by_hand(numbers) -> np.ndarray:
    known = MASKS[numbers, :, None] & MASKS[numbers, None, :]
    sums = np.where(known, SCANS[numbers], 0).sum(0)
    return np.divide(sums, known.sum(0), out=np.zeros((4, 4)), where=known.any(0))


def test_a_pair_has_the_mean_over_the_scans_that_have_both_rois():
    np.testing.assert_allclose(group_of([0, 1, 2, 3]).mean, by_hand([0, 1, 2, 3]))
    np.testing.assert_allclose(group_of([1, 2]).mean, by_hand([1, 2]))
    assert group_of([1, 2]).known_rois.tolist() == [True, True, True, False]


def test_a_scan_is_compared_with_the_mean_of_the_others():
    group, mask = group_of([0, 1, 2, 3]), MASKS[2]
    others = group.mean_without(SCANS[2][np.ix_(mask, mask)], mask)
    np.testing.assert_allclose(others, by_hand([0, 1, 3]))
    np.testing.assert_allclose(group.mean, by_hand([0, 1, 2, 3]))  # as before
