"""Baselines: connectivity, and logistic regression on it."""

from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.evaluation import (
    connectivity_features,
    connectivity_logistic,
    fisher_z_connectivity,
    fit_logistic,
    majority,
)

RNG = np.random.default_rng(0)


def test_connectivity_agrees_with_numpy_and_ignores_gain():
    bold = RNG.standard_normal((80, 6)).astype(np.float32)
    z = fisher_z_connectivity(bold)
    expected = np.arctanh(np.corrcoef(bold.T) - np.eye(6))
    np.testing.assert_allclose(z[~np.eye(6, dtype=bool)], expected[~np.eye(6, dtype=bool)], atol=1e-5)
    np.testing.assert_allclose(fisher_z_connectivity(40 + 1e-3 * bold)[0, 1:], z[0, 1:], atol=2e-3)
    assert np.isnan(np.diag(z)).all()


def test_unusable_rois_have_no_connectivity():
    bold = RNG.standard_normal((80, 6))
    reference = fisher_z_connectivity(bold)
    bold[:, 1] = 7.0
    bold[3, 2] = np.nan
    z = fisher_z_connectivity(bold, [True, True, True, False, True, True])
    assert np.isnan(z[[1, 2, 3]]).all()
    np.testing.assert_allclose(z[0, 4:], reference[0, 4:])
    with pytest.raises(ValueError, match=r"shape \(6,\) found, expected \(n_timepoints, n_rois\)"):
        fisher_z_connectivity(bold[0])
    with pytest.raises(ValueError, match="Scan 1 has 5 ROIs"):
        connectivity_features([bold, bold[:, :5]])


def coupled_scans(n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Scans of various lengths in which class "b" couples five ROIs."""
    rng = np.random.default_rng(seed)
    labels = np.array(["a", "b"] * (n // 2))
    scans = []
    for label in labels:
        bold = rng.standard_normal((int(rng.integers(60, 90)), 20))
        bold[:, :5] += 0.8 * rng.standard_normal((len(bold), 1)) * (label == "b")
        scans.append(bold.astype(np.float32))
    return scans, labels


def test_connectivity_logistic_finds_coupled_rois_despite_missing_rois():
    train, train_labels = coupled_scans(80, 1)
    test, test_labels = coupled_scans(60, 2)
    train_masks = np.ones((80, 20), dtype=bool)
    train_masks[:, 5] = False  # a ROI that no training scan has
    train[3][:, 7] = np.nan
    test[4][:, 8] = 0.0
    found = connectivity_logistic(train, train_labels, test, np.repeat(np.arange(40), 2), train_masks=train_masks)
    scores = found.score(test_labels)
    assert scores["balanced_accuracy"] > 0.8
    assert scores["auc"] > 0.9
    np.testing.assert_allclose(found.scores.sum(1), 1)


def test_solving_in_the_span_of_the_scans_is_exact():
    """The same features once as they are (more scans than features) and once padded, so that they are rotated."""
    features = RNG.standard_normal((60, 30))
    labels = (features[:, 0] + RNG.standard_normal(60) > 0).astype(int)
    constant = np.zeros((60, 100))
    direct = fit_logistic(features[:40], labels[:40], features[40:])
    doubled = [np.concatenate([part] * 2, axis=1) for part in (features[:40], features[40:])]
    rotated = fit_logistic(doubled[0], labels[:40], doubled[1])
    np.testing.assert_allclose(direct.scores, rotated.scores, atol=1e-3)
    padded = fit_logistic(np.hstack([features, constant])[:40], labels[:40], np.hstack([features, constant])[40:])
    np.testing.assert_allclose(direct.scores, padded.scores)


def test_the_penalty_is_chosen_by_subject():
    """Features that only recognise subjects: by-subject cross-validation must choose the strongest penalty."""
    rng = np.random.default_rng(1)
    subjects = np.repeat(np.arange(40), 4)
    labels = subjects % 2
    features = rng.standard_normal((40, 400))[subjects] + 0.1 * rng.standard_normal((160, 400))
    grouped = fit_logistic(features, labels, features, subjects)
    naive = fit_logistic(features, labels, features)
    assert np.abs(grouped.scores - 0.5).max() < np.abs(naive.scores - 0.5).max() / 5


def test_logistic_refuses_what_it_cannot_fit():
    features = RNG.standard_normal((10, 4))
    with pytest.raises(ValueError, match="one class"):
        fit_logistic(features, ["a"] * 10, features)
    with pytest.raises(ValueError, match="10 training scans, 9 labels"):
        fit_logistic(features, ["a", "b", "a"] * 3, features)
    with pytest.raises(ValueError, match="4 features in training and 3 in test"):
        fit_logistic(features, ["a", "b"] * 5, features[:, :3])
    with pytest.raises(ValueError, match="No feature varies"):
        fit_logistic(np.ones((10, 4)), ["a", "b"] * 5, features)


def test_majority_predicts_the_most_common_training_label():
    found = majority(["x", "y", "y"], 4)
    assert found.labels == ["y"] * 4
    assert found.score(["x", "y", "y", "y"]) == {"accuracy": 0.75, "balanced_accuracy": 0.5, "auc": 0.5}
    with pytest.raises(ValueError, match="No training labels"):
        majority([], 3)
