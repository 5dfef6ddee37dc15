"""Sets of answers hold the right one as often as promised, and nobody is calibrated on their own scans."""

from __future__ import annotations

import numpy as np
import pytest
from crepes import ConformalClassifier

from fmri_lm_hf.evaluation.calibration import conformal_sets

CLASSES = ("a", "b", "c")


def answers(seed: int, n_scans: int = 200, knows: float = 1.5):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, n_scans)
    logits = draw.normal(size=(n_scans, 3))
    logits[np.arange(n_scans), labels] += knows
    odds = np.exp(logits)
    return labels, odds / odds.sum(1, keepdims=True)


def people(n_scans: int, scans_each: int = 2):
    return [f"sub-{place // scans_each}" for place in range(n_scans)]


def test_coverage_is_what_was_asked_for():
    found = [conformal_sets(*answers(seed), people(200), CLASSES, seed=seed) for seed in range(40)]
    assert np.mean([each["coverage"] for each in found]) == pytest.approx(0.9, abs=0.02)
    loose = [conformal_sets(*answers(seed), people(200), CLASSES, 0.6, seed) for seed in range(40)]
    assert np.mean([each["coverage"] for each in loose]) == pytest.approx(0.6, abs=0.04)
    assert np.mean([each["mean_size"] for each in loose]) < np.mean([each["mean_size"] for each in found])


def test_who_knows_more_needs_smaller_sets():
    sizes = [conformal_sets(*answers(0, 300, knows), people(300), CLASSES)["mean_size"] for knows in (0, 1, 3)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2.5
    assert sizes[-1] < 1.3
    sure = conformal_sets(*answers(0, 300, 8.0), people(300), CLASSES)
    assert sure["single"] > 0.85
    assert sure["single_right"] > 0.95


def test_nobody_is_calibrated_on_their_own_scans(monkeypatch):
    calibrated = []

    class Spy(ConformalClassifier):
        def fit(self, alphas, **more):
            calibrated.append(set(alphas))
            return super().fit(alphas, **more)

    monkeypatch.setattr("crepes.ConformalClassifier", Spy)
    labels, probabilities = answers(1, 40)  # each person's ten scans alike, and unlike anybody else's
    conformal_sets(np.repeat(labels, 10), np.repeat(probabilities, 10, axis=0), people(400, 10), CLASSES)
    first, second = calibrated
    assert len(first) == len(second) == 20
    assert not first & second


def test_too_few_scans_have_no_sets():
    assert conformal_sets(*answers(0, 16), people(16, 1), CLASSES) is None
    assert conformal_sets(*answers(0, 18), people(18, 1), CLASSES)["coverage"] == 1.0
