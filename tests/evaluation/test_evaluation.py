"""Metrics, baselines and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fmri_lm_hf.evaluation import (
    Accuracy,
    BalancedAccuracy,
    RocAuc,
    bootstrap_by_subject,
    connectivity_features,
    connectivity_logistic,
    fisher_z_connectivity,
    fit_logistic,
    majority,
    score_classification,
)

RNG = np.random.default_rng(0)


def test_scores_agree_with_sklearn():
    labels = RNG.choice(["a", "b", "c"], 200)
    scores = RNG.random((200, 3)) + 0.5 * (labels[:, None] == np.array(["a", "b", "c"]))
    scores /= scores.sum(1, keepdims=True)
    predictions = np.array(["a", "b", "c"])[scores.argmax(1)]
    found = score_classification(labels, predictions, scores)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predictions))
    assert found["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, predictions)
    )
    assert found["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr"))


@pytest.mark.parametrize("ties", [False, True])
def test_binary_auc_from_one_or_two_columns(ties):
    labels = RNG.integers(0, 2, 100)
    score = labels + RNG.standard_normal(100)
    score = np.round(score) if ties else score
    expected = sklearn_metrics.roc_auc_score(labels, score)
    assert score_classification(labels, labels, score)["auc"] == pytest.approx(expected)
    both = np.stack([-score, score], axis=1)
    assert score_classification(labels, labels, both, classes=[0, 1])["auc"] == pytest.approx(expected)
    assert score_classification(labels, labels, score, classes=[1, 0])["auc"] == pytest.approx(1 - expected)


def test_undefined_scores_are_none():
    found = score_classification(["a", "a"], ["a", "b"], [0.2, 0.7], classes=["a", "b"])
    assert found == {"accuracy": 0.5, "balanced_accuracy": None, "auc": None}
    assert score_classification(["a", "a"], ["a", "a"], [0.2, 0.7])["auc"] is None
    assert score_classification(["a", "b"], ["a", "b"])["auc"] is None


def test_an_answer_that_is_no_class_is_wrong():
    found = score_classification(["a", "a", "b", "b"], ["a", "sorry", "b", "b"])
    assert found["balanced_accuracy"] == found["accuracy"] == 0.75


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["a"], []), "1 labels and 0 predictions found"),
        (([], []), "at least one"),
        ((["a", "b"], ["a", "b"], [[0.1], [0.2]]), r"shape \(2, 1\) found, expected \(2, 2\)"),
        ((["a", "b"], ["a", "b"], [0.1, np.nan]), "1 scores are not finite"),
        ((["a", "c"], ["a", "b"], [0.1, 0.2], ["a", "b"]), r"Labels \['c'\] found"),
        ((["a", "b"], ["a", "b"], [0.1, 0.2], ["a", "a"]), "two different ones"),
    ],
)
def test_bad_scores_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        score_classification(*arguments)


def test_metrics_compute_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    labels, predictions = ["a", "b", "b", "b"], ["a", "a", "b", "b"]
    assert Accuracy().compute(predictions=predictions, references=labels) == {"accuracy": 0.75}
    metric = BalancedAccuracy()
    metric.add_batch(predictions=predictions[:2], references=labels[:2])
    metric.add_batch(predictions=predictions[2:], references=labels[2:])
    assert metric.compute()["balanced_accuracy"] == pytest.approx(5 / 6)
    scores = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]
    assert RocAuc().compute(prediction_scores=scores, references=labels, classes=["a", "b"]) == {"auc": 1.0}
    alone = RocAuc().compute(prediction_scores=scores[:1], references=["a"], classes=["a", "b"])
    assert alone == {"auc": None}


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
    found = connectivity_logistic(
        train, train_labels, test, np.repeat(np.arange(40), 2), train_masks=train_masks
    )
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
    padded = fit_logistic(
        np.hstack([features, constant])[:40], labels[:40], np.hstack([features, constant])[40:]
    )
    np.testing.assert_allclose(direct.scores, padded.scores)


def test_scans_of_one_subject_do_not_vouch_for_each_other():
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


def test_majority_answers_the_commonest_training_label():
    found = majority(["x", "y", "y"], 4)
    assert found.labels == ["y"] * 4
    assert found.score(["x", "y", "y", "y"]) == {"accuracy": 0.75, "balanced_accuracy": 0.5, "auc": 0.5}
    with pytest.raises(ValueError, match="No training labels"):
        majority([], 3)


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
