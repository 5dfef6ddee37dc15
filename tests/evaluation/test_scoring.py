"""Scores, intervals, p values, calibration and verdicts of answers that are made up, so that the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression

from fmri_lm_hf.evaluation import bootstrap_by_subject, score_classification
from fmri_lm_hf.evaluation.calibration import (
    brier_score,
    calibration_slope,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from fmri_lm_hf.evaluation.metrics import weighted_auc, weighted_balanced_accuracy
from fmri_lm_hf.evaluation.model_answers import Answer
from fmri_lm_hf.evaluation.scoring import TaskScores, pool
from fmri_lm_hf.evaluation.tasks import Task
from fmri_lm_hf.evaluation.uncertainty import permutations_by_subject, weights_by_subject

CLASSES = ("a", "b")
SEX = Task.from_dict("sex", {"ask": "?", "answers": {"a": "a", "b": "b"}})
AGE = Task.from_dict("age", {"ask": "?", "below": {30: "young", 60: "middle", 99: "old"}, "regression": True})


def task_scores(answers: dict, truth: list[str], task: Task = SEX, subjects=None, **changes) -> TaskScores:
    n = len(truth)
    given = {
        "task": task,
        "classes": tuple(task.classes),
        "rows": tuple(range(n)),
        "n_train": 7,
        "truth": truth,
        "subjects": [f"s{i}" for i in range(n)] if subjects is None else list(subjects),
        "sites": ["x"] * n,
        "answers": answers,
        "n_resamples": 400,
    }
    return TaskScores(**(given | changes))


def answer(truth: list[str], accuracy: float, seed: int, ties: bool = False) -> Answer:
    """Right with this probability."""
    draw = np.random.default_rng(seed)
    right = draw.random(len(truth)) < accuracy
    sure = 0.5 + draw.random(len(truth)) / 2
    sure = np.ceil(sure * 4) / 4 if ties else sure
    positive = np.where((np.array(truth) == "b") == right, sure, 1 - sure)
    return Answer(np.stack([1 - positive, positive], axis=1))


def labels(n: int, seed: int = 0) -> list[str]:
    return np.random.default_rng(seed).choice(CLASSES, n).tolist()


@pytest.mark.parametrize("ties", [False, True])
def test_intervals_are_those_of_a_bootstrap_that_counts_each_drawn_scan(ties):
    truth = labels(60)
    given = answer(truth, 0.7, 1, ties)
    subjects = np.repeat(np.arange(20), 3)
    scores = task_scores({"fmri_lm": given}, truth, subjects=subjects).scores()["fmri_lm"]
    for metric in ("balanced_accuracy", "auc"):

        def of(rows, metric=metric):
            names = [CLASSES[i] for i in given.probabilities[rows].argmax(1)]
            return score_classification(np.array(truth)[rows], names, given.probabilities[rows], CLASSES)[metric]

        expected = bootstrap_by_subject(of, subjects, 400)
        assert scores[metric] == pytest.approx(expected.estimate)
        assert scores[f"{metric}_se"] == pytest.approx(expected.standard_error)
        assert scores[f"{metric}_interval"] == pytest.approx([expected.low, expected.high])
    assert scores["interval"] == scores["balanced_accuracy_interval"]


def test_weighted_scores_of_many_classes_are_those_of_the_scans_drawn():
    draw = np.random.default_rng(0)
    truth, scores = draw.integers(4, size=50), np.round(draw.random((50, 4)), 1)
    weights = weights_by_subject(draw.integers(9, size=50), 30)
    weights[:, truth == 3] = 0  # a class that no draw has
    for row, auc, balanced in zip(
        weights,
        weighted_auc(truth, scores, weights),
        weighted_balanced_accuracy(truth, scores.argmax(1), weights),
    ):
        drawn = np.repeat(np.arange(50), row)
        expected = score_classification(truth[drawn], scores[drawn].argmax(1), scores[drawn], range(4))
        assert auc == pytest.approx(expected["auc"])
        assert balanced == pytest.approx(expected["balanced_accuracy"])
    one = (truth == 0)[None].astype(float)
    assert np.isnan(weighted_auc(truth, scores, one)).all()
    assert np.isnan(weighted_balanced_accuracy(truth, scores.argmax(1), one)).all()


def test_where_nothing_is_sure_nothing_is_said():
    truth = labels(10)
    scores = task_scores({"fmri_lm": answer(truth, 0.7, 1)}, truth, subjects=["one"] * 10)
    assert not {"interval", "p"} & set(scores.scores()["fmri_lm"])
    assert scores.verdict()["beats_controls"] is None
    assert task_scores({"fmri_lm": answer(["a"] * 9, 0.7, 1)}, ["a"] * 9).scores()["fmri_lm"]["auc"] is None


def test_permutation_p_holds_its_level_and_finds_what_is_there():
    p_values = []
    for seed in range(200):
        truth = labels(40, seed)
        given = task_scores({"fmri_lm": answer(truth, 0.5, seed + 1000)}, truth, n_resamples=99)
        p_values.append(given.scores()["fmri_lm"]["p"])
    assert np.mean(np.array(p_values) <= 0.05) <= 0.09  # 0.05, and what 200 draws of it allow
    assert np.mean(np.array(p_values) <= 0.5) > 0.35  # and it is no p that is never small
    truth = labels(40)
    assert task_scores({"fmri_lm": answer(truth, 0.9, 1)}, truth).scores()["fmri_lm"]["p"] < 0.01


def test_the_seed_acts_on_intervals_and_on_permutations():
    truth = labels(40)
    given = {"fmri_lm": answer(truth, 0.6, 1)}
    found = [task_scores(given, truth, seed=seed).scores()["fmri_lm"] for seed in (0, 0, 1, 2)]
    assert found[0] == found[1]
    for measure in ("p", "balanced_accuracy_se", "auc_se"):
        assert len({each[measure] for each in found}) == 3, measure
    ages = np.random.default_rng(0).normal(50, 20, 40)
    given = {"fmri_lm": replace(given["fmri_lm"], numbers=ages + np.random.default_rng(1).normal(0, 40, 40))}
    of_age = [task_scores(given, truth, numbers=ages, seed=seed).scores()["fmri_lm"]["p"] for seed in (0, 1, 2)]
    assert len(set(of_age)) > 1


def test_subjects_with_many_scans_make_no_chance_result_sure():
    """Twelve people, twenty equal scans each: scans shuffled for themselves would make nearly all p small."""
    p_values = []
    for seed in range(60):
        whose = np.repeat(np.arange(12), 20)
        truth = np.random.default_rng(seed).permutation(["a", "b"] * 6)
        given = answer(truth.tolist(), 0.5, seed + 1000)
        each = task_scores(
            {"fmri_lm": Answer(given.probabilities[whose])},
            truth[whose].tolist(),
            subjects=whose,
            n_resamples=99,
        )
        p_values.append(each.scores()["fmri_lm"]["p"])
    assert np.mean(np.array(p_values) <= 0.05) <= 0.1


def test_labels_are_exchanged_between_subjects_or_within_them():
    subjects = np.array(["u", "v", "u", "w", "v", "w"])
    of_subjects = np.array(["a", "b", "a", "a", "b", "a"])
    between = permutations_by_subject(subjects, of_subjects, 50)
    for order in between:
        moved = of_subjects[order]
        assert all(len(set(moved[subjects == name])) == 1 for name in "uvw")
    assert len({tuple(of_subjects[order]) for order in between}) == 3
    states = ["rest", "task", "task", "rest", "rest", "task"]
    within = permutations_by_subject(subjects, states, 50)
    assert (subjects[within] == subjects).all()
    assert len({tuple(order) for order in within.tolist()}) == 8


def test_a_model_beats_its_controls_only_if_it_beats_all_of_them():
    truth = labels(200)
    good, bad, as_good = answer(truth, 0.8, 1), answer(truth, 0.5, 2), answer(truth, 0.8, 3)
    clear = task_scores({"fmri_lm": good, "other_scan": bad, "connectivity_logistic": as_good}, truth).verdict()
    assert (clear["beats_controls"], clear["beats_baselines"]) == (True, False)
    assert clear["not_beaten"] == ["connectivity_logistic"]
    difference = clear["differences"]["other_scan"]
    right = {
        name: sklearn_metrics.balanced_accuracy_score(truth, np.array(CLASSES)[each.probabilities.argmax(1)])
        for name, each in (("good", good), ("bad", bad))
    }
    assert difference["difference"] == pytest.approx(right["good"] - right["bad"])
    assert 0 < difference["interval"][0] < difference["difference"] < difference["interval"][1]
    assert difference["p"] == pytest.approx(1 / 401)
    leaky = task_scores({"fmri_lm": good, "other_scan": bad, "confounds": as_good}, truth).verdict()
    assert (leaky["beats_controls"], leaky["beats_baselines"]) == (False, None)
    same = task_scores({"fmri_lm": good, "noise": good}, truth).verdict()
    assert same["differences"]["noise"] == {"kind": "control", "difference": 0, "interval": [0, 0], "p": 1}
    assert same["not_beaten"] == ["noise"]


def test_a_verdict_by_chance_is_rare():
    beaten = []
    for seed in range(200):
        truth = labels(60, seed)
        predictors = {
            "fmri_lm": answer(truth, 0.5, seed + 1000),
            "other_scan": answer(truth, 0.5, seed + 2000),
        }
        beaten.append(task_scores(predictors, truth).verdict()["beats_controls"])
    assert 0 < np.mean(beaten) <= 0.06  # 0.025, and what 200 draws of it allow


def test_the_difference_is_paired():
    """Two predictors that nearly always agree: their difference is surer than either score."""
    truth = labels(300)
    ours = answer(truth, 0.7, 1)
    theirs = Answer(ours.probabilities.copy())
    wrong = np.flatnonzero(ours.probabilities.argmax(1) == (np.array(truth) == "b"))[:12]
    theirs.probabilities[wrong] = theirs.probabilities[wrong, ::-1]
    given = task_scores({"fmri_lm": ours, "other_scan": theirs}, truth)
    low, high = given.verdict()["differences"]["other_scan"]["interval"]
    assert low > 0
    assert high - low < np.ptp(given.scores()["fmri_lm"]["interval"]) / 2


def test_scores_of_sites_are_taken_within_them():
    truth, sites = ["a"] * 8 + ["b"] * 2 + ["a"] * 2 + ["b"] * 8 + ["a"], ["x"] * 10 + ["y"] * 10 + ["z"]
    site_predictor = Answer(np.eye(2)[[0] * 10 + [1] * 10 + [0]])  # right where it knows the site
    scores = task_scores({"fmri_lm": site_predictor}, truth, sites=sites).scores()["fmri_lm"]
    assert scores["balanced_accuracy"] > 0.75
    assert scores["balanced_accuracy_within_sites"] == 0.5
    assert "balanced_accuracy_within_sites" not in task_scores({"fmri_lm": site_predictor}, truth).scores()["fmri_lm"]


def test_orders_and_numbers_are_scored_as_such():
    draw = np.random.default_rng(0)
    ages = draw.uniform(20, 90, 80)
    truth = [AGE.answer(age) for age in ages]
    probabilities = softmax(draw.normal(size=(80, 3)) + 2 * np.eye(3)[[AGE.classes.index(t) for t in truth]], axis=1)
    estimate = ages + draw.normal(size=80) * 10
    given = task_scores(
        {"fmri_lm": Answer(probabilities, estimate), "majority": Answer(np.full((80, 3), 1 / 3), np.full(80, 50.0))},
        truth, AGE, numbers=ages,
    )  # fmt: skip
    scores = given.scores()["fmri_lm"]
    level, predicted = np.array([AGE.classes.index(t) for t in truth]), probabilities.argmax(1)
    assert scores["within_one"] == np.mean(abs(level - predicted) <= 1) < 1
    assert scores["mean_class_error"] == np.mean(abs(level - predicted))
    assert scores["rank_correlation"] == pytest.approx(spearmanr(probabilities @ [0, 1, 2], level)[0])
    assert scores["mean_absolute_error"] == pytest.approx(sklearn_metrics.mean_absolute_error(ages, estimate))
    assert scores["r2"] == pytest.approx(sklearn_metrics.r2_score(ages, estimate))
    assert scores["pearson"] == pytest.approx(pearsonr(ages, estimate)[0])
    expected = bootstrap_by_subject(lambda rows: float(np.abs(estimate - ages)[rows].mean()), given.subjects, 400)
    assert scores["interval"] == pytest.approx([expected.low, expected.high])
    assert scores["p"] < 0.01
    assert given.scores()["majority"]["pearson"] is None
    verdict = given.verdict()
    assert (verdict["score"], verdict["beats_controls"]) == ("mean_absolute_error", True)
    assert verdict["differences"]["majority"]["difference"] > 0  # a smaller error is better


def test_calibration_agrees_with_scikit_learn_and_with_what_was_planted():
    draw = np.random.default_rng(0)
    odds = draw.normal(size=4000) * 1.5
    truth = (draw.random(4000) < expit(odds)).astype(int)

    def stated(factor):
        positive = expit(factor * odds)
        return np.stack([1 - positive, positive], axis=1)

    assert brier_score(truth, stated(1)) == pytest.approx(2 * sklearn_metrics.brier_score_loss(truth, expit(odds)))
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(3 * odds[:, None], truth)
    assert calibration_slope(truth, stated(3)) == pytest.approx(regression.coef_[0, 0], rel=1e-3)
    assert calibration_slope(truth, stated(3)) == pytest.approx(1 / 3, abs=0.03)
    assert calibration_slope(truth, np.full((4000, 2), 0.5)) is None
    calibrated, overconfident = (expected_calibration_error(truth, stated(factor)) for factor in (1, 3))
    assert calibrated < 0.03 < 0.1 < overconfident
    bins = reliability(truth, stated(1))
    assert sum(each["n"] for each in bins) == 4000
    assert all(abs(each["accuracy"] - each["confidence"]) < 0.06 for each in bins)


def test_calibration_of_four_scans_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.6, 0.4], [1.0, 0.0]])
    truth = np.array([0, 0, 0, 1])
    assert brier_score(truth, probabilities) == pytest.approx((0.005 + 1.805 + 0.32 + 2) / 4)
    bins = reliability(truth, probabilities)
    assert [each["n"] for each in bins] == [1, 3]
    assert expected_calibration_error(truth, probabilities) == pytest.approx((0.4 + 3 * abs(2.9 / 3 - 1 / 3)) / 4)
    risks = risk_coverage(truth, probabilities, 4)
    assert [each["coverage"] for each in risks] == [0.25, 0.5, 0.75, 1.0]
    assert [each["risk"] for each in risks] == pytest.approx([1, 0.5, 2 / 3, 0.5])


def test_pooled_scores_are_of_all_scans():
    task = Task.from_dict("sex", {"ask": "?", "answers": {name: name for name in "abc"}})
    first, second = labels(10, 1), ["b", "c", "c"]
    one = task_scores(
        {"fmri_lm": answer(first, 0.7, 1), "noise": answer(first, 0.5, 1)},
        first,
        task,
        classes=("a", "b"),
        sites=["x"] * 10,
    )
    two = task_scores(
        {"fmri_lm": Answer(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))}, second, task, rows=(20, 21, 22), n_train=5,
        classes=("b", "c"), sites=["y"] * 3, left_out={"noise": "too quiet"},
    )  # fmt: skip
    both = pool({"Site x": one, "Site y": two})
    assert (both.classes, both.rows, both.truth) == (
        ("a", "b", "c"),
        (*range(10), 20, 21, 22),
        first + second,
    )
    np.testing.assert_array_equal(both.answers["fmri_lm"].probabilities[-3:, 0], 0)
    np.testing.assert_array_equal(both.answers["fmri_lm"].probabilities[-3:, 1:], two.answers["fmri_lm"].probabilities)
    assert (list(both.answers), both.left_out) == (["fmri_lm"], {"noise": "Site y: too quiet"})
    assert (both.sites, both.n_train) == (["x"] * 10 + ["y"] * 3, 5)
    assert np.array(both.confusion()).sum() == 13


def test_the_seed_decides_which_half_of_the_people_calibrates_the_conformal_sets():
    truth = labels(60)
    given = {"fmri_lm": answer(truth, 0.7, 1)}
    first, again, other = (task_scores(given, truth, seed=seed).conformal() for seed in (0, 0, 1))
    assert first == again != other
