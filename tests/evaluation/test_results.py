"""Configurations are checked, reports are files of any release, and old calls work for one release."""

from __future__ import annotations

import json

import pytest

from fmri_lm_hf.evaluation import EvaluationConfig, EvaluationReport
from fmri_lm_hf.evaluation.predictors import PREDICTORS
from fmri_lm_hf.evaluation.results import SCHEMA_VERSION, compare

SCORES = {"accuracy": 0.75, "balanced_accuracy": 0.7, "auc": 0.8, "interval": [0.6, 0.8], "p": 0.01}
ASKED = {
    "question": "What is the sex?", "classes": ["female", "male"], "kind": "classification",
    "scored_by": "balanced_accuracy", "n_train": 20, "n_test": 8,
}  # fmt: skip
CALIBRATION = {"brier": 0.4, "ece": 0.1, "slope": None, "reliability": [], "risk_coverage": []}
VERDICT = {
    "score": "balanced_accuracy", "beats_controls": True, "beats_baselines": None, "not_beaten": [], "differences": {},
}  # fmt: skip


def report(**changes) -> EvaluationReport:
    whole = {
        "tasks": {"sex": {"fmri_lm": SCORES}},
        "questions": {"sex": ASKED},
        "confusion": {"sex": [[3, 1], [1, 3]]},
        "calibration": {"sex": {"fmri_lm": CALIBRATION}},
        "conformal": {"sex": {"fmri_lm": None}},
        "verdict": {"sex": VERDICT},
        "split": "test",
        "scans_sha256": "abc",
    }  # fmt: skip
    return EvaluationReport(**(whole | changes))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"predictors": ["guess"]},
            "Unknown predictors guess; expected some of fmri_lm, connectivity_logistic",
        ),
        ({"predictors": "majority"}, "`predictors` is 'majority': expected a sequence of names"),
        ({"split": "train"}, "`split` is 'train': expected test or validation"),
        ({"n_resamples": 1}, "`n_resamples` is 1: expected 2 or more"),
        ({"n_truth": -1}, "`n_truth` is -1: expected 0 or more"),
        ({"n_occluded": -2}, "`n_occluded` is -2: expected 0 or more"),
        ({"shots": (2, -1)}, "`shots` holds -1: expected 0 or more"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**fields)


def test_the_model_is_always_scored_and_predictors_have_the_order_of_the_registry():
    assert EvaluationConfig().names == list(PREDICTORS)
    assert EvaluationConfig(["majority", "connectivity_logistic"]).names == [
        "fmri_lm",
        "connectivity_logistic",
        "majority",
    ]
    assert EvaluationConfig([]).names == ["fmri_lm"]


def test_calls_of_the_release_before_work_and_say_their_new_form():
    with pytest.warns(FutureWarning, match="is now `evaluate.*EvaluationConfig.*until the next release") as said:
        found = EvaluationConfig.of_call(None, {"readers": ["noise"], "refuse_leaks": False, "n_truth": 3})
    assert len(said) == 1
    assert found == EvaluationConfig(["noise"], refuse_leakage=False, n_truth=3)
    with pytest.warns(FutureWarning):
        assert EvaluationConfig.of_call(["noise"], {"seed": 2}) == EvaluationConfig(["noise"], seed=2)
    with pytest.raises(TypeError, match="n_trees"):
        EvaluationConfig.of_call(None, {"n_trees": 3})
    with pytest.raises(TypeError, match="either"):
        EvaluationConfig.of_call(EvaluationConfig(), {"seed": 1})


def test_a_report_is_written_and_read(tmp_path):
    before = report(truth={"pair_level": {}}, history={"n_earlier": 2, "statement": "Twice."}, commits={"a/b": "c"})
    before.to_json(tmp_path / "results.json")
    assert EvaluationReport.from_json(tmp_path / "results.json") == before
    assert EvaluationReport.from_json(str(tmp_path / "results.json")) == before
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["schema_version"] == SCHEMA_VERSION
    assert "few_shot" not in written
    assert EvaluationReport.from_json(written) == before


def test_files_from_before_the_schema_version_are_read():
    old = {
        "tasks": {"sex": {"fmri_lm": SCORES}},
        "asked": {"sex": ASKED},
        "split": "test",
        "judged_before": 1,
        "test_split": "This test split was judged once before.",
        "simulated": True,
        "leave_one_site_out": {"sites": ["A"], "not_judged": {"B": "too few"}, "model_retrained": False},
        "seconds": 3.0,  # of a demo
    }
    found = EvaluationReport.from_json(old)
    assert found.questions == {"sex": ASKED}
    assert found.history == {"n_earlier": 1, "statement": "This test split was judged once before."}
    assert found.simulated
    assert found.leave_one_site_out == {"sites": ["A"], "not_evaluated": {"B": "too few"}, "model_retrained": False}
    assert found.schema_version == SCHEMA_VERSION
    assert EvaluationReport.from_json({"tasks": {}}) == EvaluationReport({})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"tasks": {}, "schema_version": SCHEMA_VERSION + 1},
            "results.json has schema version 2, .* upgrade",
        ),
        ({"loss": 3}, "results.json is not an evaluation"),
        ([], "results.json is not an evaluation"),
    ],
)
def test_what_cannot_be_read_is_refused(content, message, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        EvaluationReport.from_json(tmp_path / "results.json")


def test_a_report_is_a_dictionary_for_one_release():
    with pytest.warns(FutureWarning, match=r"`results\['asked'\]` is now `report.questions`"):
        assert report()["asked"] == {"sex": ASKED}
    with pytest.warns(FutureWarning):
        assert report()["tasks"]["sex"]["fmri_lm"]["auc"] == 0.8
    assert "tasks" in report()
    assert "asked" in report()
    assert "truth" not in report()


def test_a_report_is_saved_and_shown(tmp_path):
    report().save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "results.csv",
        "results.json",
        "tripod.md",
    ]
    assert "fMRI-LM (zero-shot question)  0.750     0.700" in report().summary()


def test_models_are_compared_by_the_metrics_that_all_of_them_have():
    first = report()
    scores = {"fmri_lm": {**SCORES, "auc": None, "balanced_accuracy": 0.5}}
    second = report(tasks={"sex": scores})
    first.tasks["sex"]["majority"] = SCORES
    found = compare({"a": first, "b": second})
    assert set(found["tasks"]["sex"]) == {"fmri_lm"}
    spread = found["tasks"]["sex"]["fmri_lm"]["balanced_accuracy"]
    assert spread == {
        "mean": 0.6, "sd": pytest.approx(0.2 / 2**0.5), "lowest": 0.5, "highest": 0.7,
    }  # fmt: skip
    assert "auc" not in found["tasks"]["sex"]["fmri_lm"]
    assert (found["beats_controls"], found["beats_baselines"]) == ({"sex": 2}, {"sex": 0})
