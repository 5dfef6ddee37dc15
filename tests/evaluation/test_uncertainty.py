"""The bootstrap over subjects."""

from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.evaluation import bootstrap_by_subject, score_classification
from fmri_lm_hf.evaluation.uncertainty import permutations_by_subject, weights_by_subject


def test_bootstrap_draws_subjects_not_scans():
    right = np.random.default_rng(1).random(200) < 0.8
    copies = np.repeat(right, 4)  # four equal scans a subject carry no more information than one

    def standard_error(values, subjects):
        return bootstrap_by_subject(lambda rows: float(values[rows].mean()), subjects).standard_error

    one = standard_error(right, np.arange(200))
    assert one == pytest.approx(np.sqrt(0.16 / 200), rel=0.15)
    assert standard_error(copies, np.repeat(np.arange(200), 4)) == pytest.approx(one, rel=0.1)
    interval = bootstrap_by_subject(lambda rows: float(right[rows].mean()), np.arange(200))
    assert interval.low < interval.estimate == right.mean() < interval.high


def test_bootstrap_leaves_out_undefined_resamples():
    labels = np.array(["a", "b"])
    interval = bootstrap_by_subject(
        lambda rows: score_classification(labels[rows], labels[rows])["balanced_accuracy"], [0, 1]
    )
    assert (interval.estimate, interval.standard_error) == (1.0, 0.0)
    with pytest.raises(ValueError, match="not defined on any resample"):
        bootstrap_by_subject(lambda rows: None, [0, 1])
    with pytest.raises(ValueError, match="Scans of 1 subjects"):
        bootstrap_by_subject(lambda rows: 1.0, [0, 0])


@pytest.mark.parametrize(
    "draw",
    [
        weights_by_subject,
        lambda subjects, *n: permutations_by_subject(subjects, subjects, *n),  # whole subjects exchange labels
        lambda subjects, *n: permutations_by_subject(subjects // 6, subjects, *n),  # scans within subjects do
    ],
)
def test_the_seed_decides_the_draws(draw):
    subjects = np.repeat(np.arange(12), 2)
    first, again, *others = (draw(subjects, 20, seed) for seed in (0, 0, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert all((other != first).any() for other in others)
