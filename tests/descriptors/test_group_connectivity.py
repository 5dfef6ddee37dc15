"""The mean connectivity of scans that lack ROIs, against the mean over those that have them."""

from __future__ import annotations

import numpy as np

from fmri_lm_hf.descriptors.connectivity import GroupConnectivity

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
