"""Confounds: found in features where they are planted, isolated exactly, regressed out with training scans alone."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import balanced_accuracy_score

from fmri_lm_hf.evaluation.confounds import (
    independent_subset,
    isolated_scores,
    predictability,
    strata_of,
    subgroup_scores,
)
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.model_answers import Answer
from fmri_lm_hf.evaluation.predictors import regressed_out
from fmri_lm_hf.evaluation.results import EvaluationReport
from fmri_lm_hf.evaluation.scoring import TaskScores
from fmri_lm_hf.evaluation.tables import confounding_tables
from fmri_lm_hf.evaluation.tasks import Task

DIAGNOSIS = Task.from_dict("dx", {"ask": "Ill?", "answers": {"ill": "ill", "well": "well"}})


def task_scores(truth, predicted, subjects=None, task=DIAGNOSIS) -> TaskScores:
    """Scores of a model that gives these answers with high probabilities."""
    classes = tuple(sorted(set(truth)))
    probabilities = np.array([[0.9 if name == each else 0.1 for name in classes] for each in predicted])
    subjects = [f"s{i}" for i in range(len(truth))] if subjects is None else subjects
    return TaskScores(
        task=task,
        classes=classes,
        rows=tuple(range(len(truth))),
        n_train=10,
        truth=list(truth),
        subjects=subjects,
        sites=["A"] * len(truth),
        answers={"fmri_lm": Answer(probabilities)},
    )


def confounded(n: int = 400, seed: int = 0):
    """A model that sees motion alone, where the ill move more: truth, stratum of motion, and what it says."""
    draw = np.random.default_rng(seed)
    truth = draw.choice(["ill", "well"], n)
    moves = draw.random(n) < np.where(truth == "ill", 0.85, 0.15)
    return truth.tolist(), np.where(moves, "much", "little").tolist(), np.where(moves, "ill", "well").tolist()


def test_a_planted_confound_is_predicted_and_noise_is_not():
    draw = np.random.default_rng(0)
    subjects = [f"s{i // 2}" for i in range(120)]
    strata = ["AB"[i // 2 % 2] for i in range(120)]
    noise = draw.normal(size=(120, 30))
    planted = noise + np.array([[4.0 if stratum == "A" else 0.0] + [0.0] * 29 for stratum in strata])
    found = predictability(planted, strata, subjects)
    assert found["balanced_accuracy"] > 0.75
    assert found["interval"][0] > found["chance"] == 0.5
    assert found["n"] == 120
    nothing = predictability(noise, strata, subjects)
    assert nothing["interval"][0] < 0.5 < nothing["interval"][1] + 0.1
    assert predictability(noise, strata, subjects) == nothing


def test_a_subject_is_never_on_both_sides_of_a_fold():
    """Features that name the subject tell everything of its other scan, and nothing of other subjects."""
    draw = np.random.default_rng(1)
    of_subject = np.repeat(draw.normal(size=(60, 40)), 2, axis=0)
    strata = np.repeat(draw.choice(["A", "B"], 60), 2).tolist()
    found = predictability(of_subject, strata, [f"s{i // 2}" for i in range(120)])
    assert found["balanced_accuracy"] < 0.65


def test_strata_of_few_subjects_are_left_out():
    features = np.random.default_rng(0).normal(size=(40, 5))
    strata = ["A"] * 20 + ["B"] * 17 + ["C"] * 2 + [None]
    subjects = [f"s{i}" for i in range(40)]
    assert predictability(features, strata, subjects)["n"] == 37
    with pytest.raises(Unavailable, match="1 of its strata have scans of 5 subjects or more"):
        predictability(features, ["A"] * 37 + ["C"] * 3, subjects)
    with pytest.raises(Unavailable, match="the same for all scans"):
        predictability(np.ones((40, 5)), strata, subjects)


def test_strata_are_classes_and_thirds_of_numbers():
    scans = datasets.Dataset.from_dict(
        {
            "site": ["A", "B", "A", "B", "A", "B", "A"],
            "mean_fd": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, None],
            "Sex": ["F"] * 7,
            "age": [20, 30, 40, 50, 60, 70, 80],
        }
    )
    found = strata_of(scans, [0, 1, 2, 3, 4, 6])
    assert set(found) == {"site", "motion", "age"}  # one sex is no confound
    assert found["site"] == ["A", "B", "A", "B", "A", "A"]
    assert [None if each is None else each.split()[0] for each in found["motion"]] == [
        "below", "below", "0.233", "above", "above", None
    ]  # fmt: skip
    assert len(set(found["age"])) == 3


@pytest.mark.parametrize("seed", range(20))
def test_in_the_subset_answer_and_confound_are_independent_and_no_more_is_lost_than_needed(seed):
    draw = np.random.default_rng(seed)
    truth = draw.choice(list("abc")[: 2 + seed % 2], 200, p=[0.7, 0.3] if seed % 2 == 0 else [0.5, 0.3, 0.2])
    strata = [None if draw.random() < 0.1 else str(stratum) for stratum in draw.integers(4, size=200)]
    kept = independent_subset(truth.tolist(), strata, seed)
    assert kept == sorted(set(kept))
    assert all(strata[i] is not None for i in kept)
    for stratum in {strata[i] for i in kept}:
        counts = [sum(strata[i] == stratum and truth[i] == name for i in kept) for name in np.unique(truth)]
        there = [sum(each == stratum and t == name for each, t in zip(strata, truth)) for name in np.unique(truth)]
        assert set(counts) == {min(there)}
    assert independent_subset(truth.tolist(), strata, seed) == kept
    assert any(independent_subset(truth.tolist(), strata, other) != kept for other in range(100, 105))


def test_a_model_that_sees_the_confound_alone_is_at_chance_where_it_is_isolated():
    truth, motion, predicted = confounded()
    scored = task_scores(truth, predicted)
    everyone = balanced_accuracy_score(truth, predicted)
    isolated = isolated_scores(scored, {"motion": motion})["motion"]
    assert everyone > 0.8
    assert isolated["balanced_accuracy"] == pytest.approx(0.5)  # exactly: each stratum is balanced
    assert isolated["association"] > 0.6
    # one that sees the illness is as good there as everywhere
    knows = isolated_scores(task_scores(truth, truth), {"motion": motion})["motion"]
    assert knows["balanced_accuracy"] == 1
    assert knows["n"] == isolated["n"] < len(truth)


def test_subgroups_are_scored_without_the_column_of_the_task():
    truth, motion, predicted = confounded(seed=3)
    sex = ["F" if i % 2 else "M" for i in range(len(truth))]
    scored = task_scores(truth, predicted)
    found = subgroup_scores(scored, {"motion": motion, "sex": sex})
    for stratum in ("F", "M"):
        places = [i for i, each in enumerate(sex) if each == stratum]
        expected = balanced_accuracy_score([truth[i] for i in places], [predicted[i] for i in places])
        score = found["sex"][stratum]
        assert score["balanced_accuracy"] == pytest.approx(expected)
        assert score["n"] == score["n_subjects"] == len(places)
        assert score["interval"][0] < expected < score["interval"][1]
    asks_sex = Task.from_dict("which", {"column": "Sex", "ask": "?", "answers": {"ill": "ill", "well": "well"}})
    assert set(subgroup_scores(task_scores(truth, predicted, task=asks_sex), {"motion": motion, "sex": sex})) == {
        "motion"
    }


def test_strata_of_few_subjects_or_one_answer_have_no_score():
    truth = ["ill", "well"] * 10 + ["ill"] * 10
    strata = ["A"] * 20 + ["B"] * 10
    found = subgroup_scores(task_scores(truth, truth), {"site": strata})["site"]
    assert found["A"]["balanced_accuracy"] == 1
    assert found["B"] == {"n": 10, "n_subjects": 10, "balanced_accuracy": None, "interval": None}
    few = task_scores(truth, truth, subjects=[f"s{i // 10}" for i in range(30)])
    assert subgroup_scores(few, {"site": strata})["site"]["A"]["interval"] is None


def test_confounds_are_regressed_out_as_a_linear_regression_on_training_scans_does():
    draw = np.random.default_rng(0)
    confounds = draw.normal(size=(60, 3)) * [1, 10, 0] + 5  # the last one does not vary
    features = draw.normal(size=(60, 8)) + confounds[:, :2] @ draw.normal(size=(2, 8))
    train, test = regressed_out(features[:40], confounds[:40], features[40:], confounds[40:])
    fitted = LinearRegression().fit(confounds[:40, :2], features[:40])
    assert train == pytest.approx(features[:40] - fitted.predict(confounds[:40, :2]), abs=1e-8)
    assert test == pytest.approx(features[40:] - fitted.predict(confounds[40:, :2]), abs=1e-8)
    # what test scans are changes nothing of training, nor one test scan another
    again = regressed_out(features[:40], confounds[:40], features[40:41] + 9, confounds[40:41])
    assert np.array_equal(again[0], train)
    assert again[1] == pytest.approx(test[:1] + 9)


def test_unknown_confounds_count_as_the_training_mean_and_unknown_features_stay_unknown():
    draw = np.random.default_rng(0)
    confounds, features = draw.normal(size=(30, 2)), draw.normal(size=(30, 4))
    unknown, mean = confounds.copy(), confounds.copy()
    unknown[25, 0], mean[25, 0] = np.nan, confounds[:20, 0].mean()
    features[3, 1] = np.nan
    found, expected = (regressed_out(features[:20], c[:20], features[20:], c[20:]) for c in (unknown, mean))
    np.testing.assert_allclose(found[1], expected[1])
    assert np.isnan(found[0]).sum() == 1
    assert np.isnan(found[0][3, 1])


def test_tables_have_a_row_for_each_score():
    assert confounding_tables(EvaluationReport({})) == []
    truth, motion, predicted = confounded(seed=1)
    scored = task_scores(truth, predicted)
    score = {"balanced_accuracy": 0.7, "interval": [0.6, 0.8], "chance": 0.5, "n": 400}
    results = {
        "confounding": {
            "motion": {"scan_tokens": score, "connectivity": score},
            "site": {"left_out": "All are of one."},
        },
        "subgroups": {
            "dx": {
                "within_levels": subgroup_scores(scored, {"motion": motion}),
                "isolated": isolated_scores(scored, {"motion": motion}),
            }
        },
    }
    predicted, within, isolated = confounding_tables(EvaluationReport({}, **results))
    assert predicted.rows[0] == ["motion", "400", "0.500", "0.700", "0.700", ""]
    assert predicted.rows[1][-1] == "All are of one."
    assert [row[1] for row in within.rows] == ["motion: little", "motion: much"]
    assert isolated.rows[0][5] == "0.500"
    for table in (predicted, within, isolated):
        assert {len(row) for row in table.rows} == {len(table.head)}
