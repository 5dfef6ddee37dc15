"""Metrics: those of scikit-learn where it defines them, None where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fmri_lm_hf.evaluation import Accuracy, BalancedAccuracy, RocAuc, score_classification
from fmri_lm_hf.evaluation.metrics import weighted_auc, weighted_balanced_accuracy, weighted_mean

RNG = np.random.default_rng(0)


def test_scores_agree_with_sklearn():
    labels = RNG.choice(["a", "b", "c"], 200)
    scores = RNG.random((200, 3)) + 0.5 * (labels[:, None] == np.array(["a", "b", "c"]))
    scores /= scores.sum(1, keepdims=True)
    predictions = np.array(["a", "b", "c"])[scores.argmax(1)]
    found = score_classification(labels, predictions, scores)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predictions))
    assert found["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predictions))
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


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_weighted_scores_are_those_of_sklearn_with_sample_weights(n_classes, ties):
    rng = np.random.default_rng(n_classes)
    labels, scores = rng.integers(n_classes, size=60), rng.random((60, n_classes))
    scores = np.round(scores, 1) if ties else scores
    predictions, weights = scores.argmax(1), rng.integers(1, 4, size=(5, 60))
    columns = [1] if n_classes == 2 else range(n_classes)
    for i, each in enumerate(weights):
        expected = sklearn_metrics.balanced_accuracy_score(labels, predictions, sample_weight=each)
        assert weighted_balanced_accuracy(labels, predictions, weights)[i] == pytest.approx(expected)
        areas = [sklearn_metrics.roc_auc_score(labels == c, scores[:, c], sample_weight=each) for c in columns]
        assert weighted_auc(labels, scores, weights)[i] == pytest.approx(np.mean(areas))
        right = labels == predictions
        expected = sklearn_metrics.accuracy_score(labels, predictions, sample_weight=each)
        assert weighted_mean(right, weights)[i] == pytest.approx(expected)


def test_many_labellings_are_scored_as_one_by_one():
    rng = np.random.default_rng(0)
    labels = np.stack([rng.permutation(30) % 3 for _ in range(8)])
    predictions = rng.integers(3, size=30)
    found = weighted_balanced_accuracy(labels, predictions, np.ones((1, 30)))
    expected = [sklearn_metrics.balanced_accuracy_score(each, predictions) for each in labels]
    np.testing.assert_allclose(found, expected)
