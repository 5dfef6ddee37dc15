"""`evaluate`: each score is that of the right scan, class and predictor, worked out by hand."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hub import tiny
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from fmri_lm_hf.bundled import load_bundled_model
from fmri_lm_hf.cards.model_card import ModelFacts, model_card
from fmri_lm_hf.cli import main
from fmri_lm_hf.evaluation import connectivity_features, fit_logistic
from fmri_lm_hf.evaluation.baselines import fit_ridge
from fmri_lm_hf.evaluation.evaluate import evaluate, evaluate_sites, split_rows
from fmri_lm_hf.evaluation.model_answers import Answer, Evaluation
from fmri_lm_hf.evaluation.predictors import (
    PREDICTORS,
    Predictor,
    changed_scan,
    other_subjects,
    phase_randomised,
    regressed_out,
    white_noise,
)
from fmri_lm_hf.evaluation.results import EvaluationConfig, EvaluationReport, compare
from fmri_lm_hf.evaluation.tasks import Task, load_tasks, tasks_of_columns
from fmri_lm_hf.evaluation.tripod import TO_BE_STATED, reporting_checklist
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.scans.splits import SplitManifest, make_splits

QUESTION = "What is the sex ?"
N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty people of two sites with two scans each at site A; the sex is in one correlation."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(N):
        subject, site = f"sub-{i // 2}" if i < 24 else f"sub-{i}", "A" if i < 24 else "B"
        sex = ["female", "male"][(i // 2) % 2]
        bold = draw.normal(size=(tiny.N_TIMEPOINTS, tiny.N_ROIS)).astype("float32")
        bold[:, 1] += bold[:, 0] * (1.5 if sex == "male" else -1.5)
        rows.append(
            {
                "scan_id": f"scan-{i}",
                "subject_id": subject,
                "site": site,
                "t_r": 2.0,
                "bold": bold,
                "sex": sex,
            }
        )
    rows[3]["sex"] = rows[30]["sex"] = None
    order = draw.permutation(N)  # neither sites nor classes stand in blocks
    return write_scan_dataset([rows[i] for i in order], tmp_path_factory.mktemp("evaluated") / "scans", tiny.atlas())


@pytest.fixture(scope="module")
def scans(folder):
    return load_scan_dataset(folder)[0]


@pytest.fixture(scope="module")
def splits(scans):
    columns = [{"subject_id": s, "site": site} for s, site in zip(scans["subject_id"], scans["site"])]
    return make_splits(columns, fractions=(1, 0, 0), holdout_sites=["B"])


@pytest.fixture(scope="module")
def task():
    return Task.from_dict("sex", {"ask": [QUESTION, "sex ?"], "answers": {"female": "female", "male": "male"}})


@pytest.fixture(scope="module")
def evaluated(checkpoint, scans, splits, task):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    return evaluate(model, AutoProcessor.from_pretrained(checkpoint), scans, {"sex": task}, splits)


def test_the_models_scores_are_those_of_the_pipeline_scan_by_scan(evaluated, checkpoint, scans):
    classify = pipeline("fmri-zero-shot-classification", model=str(checkpoint), force=True)
    truth, male = [], []
    for scan in scans:
        if scan["site"] == "B" and scan["sex"] is not None:
            answers = classify(scan, candidate_labels=["male", "female"], question=QUESTION)
            truth.append(scan["sex"])
            male.append({answer["label"]: answer["score"] for answer in answers}["male"])
    ours = evaluated.tasks["sex"]["fmri_lm"]
    assert np.std(male) / np.mean(male) > 0.2  # the scans are told apart, so that a mix-up would show
    assert ours["auc"] == pytest.approx(roc_auc_score(truth, male))
    predicted = ["male" if score > 0.5 else "female" for score in male]
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    subjects = [scan["subject_id"] for scan in scans if scan["site"] == "B" and scan["sex"] is not None]
    of_others = [male[i] for i in other_subjects(subjects, 0)]
    assert evaluated.tasks["sex"]["other_scan"]["auc"] == pytest.approx(roc_auc_score(truth, of_others))
    low, high = ours["balanced_accuracy_interval"]
    assert low <= ours["balanced_accuracy"] <= high
    assert evaluated.questions["sex"] == {
        "question": QUESTION, "classes": ["female", "male"], "kind": "classification",
        "scored_by": "balanced_accuracy", "n_train": 23, "n_test": len(truth),
    }  # fmt: skip


def test_baselines_are_fitted_to_training_scans_and_asked_about_test_scans(evaluated, scans):
    train = [scan for scan in scans if scan["site"] == "A" and scan["sex"] is not None]
    test = [scan for scan in scans if scan["site"] == "B" and scan["sex"] is not None]
    by_hand = fit_logistic(
        connectivity_features([scan["bold"] for scan in train]),
        [scan["sex"] for scan in train],
        connectivity_features([scan["bold"] for scan in test]),
        [scan["subject_id"] for scan in train],
    )
    expected = by_hand.score([scan["sex"] for scan in test])
    assert evaluated.tasks["sex"]["connectivity_logistic"].items() >= expected.items()
    assert evaluated.tasks["sex"]["connectivity_logistic"]["balanced_accuracy"] > 0.85
    assert evaluated.tasks["sex"]["majority"]["balanced_accuracy"] == 0.5
    assert evaluated.tasks["sex"]["without_scan"]["auc"] == 0.5


def test_another_scan_is_one_of_another_subject():
    subjects = ["a", "a", "b", "c", "c", "c"]
    others = other_subjects(subjects, seed=0)
    assert all(subjects[i] != subject for i, subject in zip(others, subjects))
    assert other_subjects(subjects, seed=0) == others
    assert len({tuple(other_subjects(subjects, seed=s)) for s in range(5)}) > 1


def test_noise_in_test_scans_changes_no_baseline_fit_and_their_labels_nothing(
    checkpoint, scans, splits, task, evaluated
):
    """Labels of test scans reach only the scores: permuted, the probabilities behind the AUC are the same."""
    flipped = scans.map(
        lambda row: (
            {"sex": row["sex"] and {"female": "male", "male": "female"}[row["sex"]]} if row["site"] == "B" else {}
        ),
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    again = evaluate(model, AutoProcessor.from_pretrained(checkpoint), flipped, {"sex": task}, splits)
    for predictor in ("fmri_lm", "connectivity_logistic"):
        before, after = (result.tasks["sex"][predictor]["auc"] for result in (evaluated, again))
        assert after == pytest.approx(1 - before)


def test_a_subject_of_the_held_out_site_trains_nothing(scans):
    columns = [
        {"subject_id": "both" if i in (0, 1) else f"s{i}", "site": "B" if i % 2 else "A"} for i in range(len(scans))
    ]
    splits = make_splits(columns, fractions=(1, 0, 0), holdout_sites=["B"])
    dataset = scans.remove_columns(["subject_id", "site"]).add_column("subject_id", [c["subject_id"] for c in columns])
    rows = split_rows(dataset.add_column("site", [c["site"] for c in columns]), splits)
    assert 0 not in rows["train"]
    assert 0 not in rows["test"]  # it is a scan of a site that was seen
    assert rows["test"] == list(range(1, len(scans), 2))


def test_tasks_are_declared_once(tmp_path):
    declared = {
        "group": {"column": "dx", "ask": "Patient?", "answers": {1: "yes", 2: "no"}},
        "age": {"ask": ["Age?"], "below": {".inf": "older", 50: "younger"}, "forbidden": "birth_year"},
        "iq": {"ask": "IQ?", "below": {90: "low", 110: "middle", ".inf": "high"}, "regression": True},
        "mood": {
            "ask": "Mood?",
            "below": {3: "low", 6: "middle", 9: "high"},
            "forbidden": ["diary", "score"],
        },
    }
    (tmp_path / "tasks.yaml").write_text(json.dumps(declared).replace('".inf"', ".inf"))
    tasks = load_tasks(tmp_path / "tasks.yaml")
    assert tasks == {name: Task.from_dict(name, task.to_dict()) for name, task in tasks.items()}
    assert [tasks["group"].answer(value) for value in (1.0, 2, "1", 3, None, float("nan"))] == [
        "yes", "no", "yes", None, None, None
    ]  # fmt: skip
    assert [tasks["age"].answer(value) for value in (49.9, 50)] == ["younger", "older"]
    assert tasks["age"].classes == ["younger", "older"]
    assert [task.kind for task in tasks.values()] == [
        "classification",
        "classification",
        "regression",
        "ordinal",
    ]
    assert (tasks["age"].forbidden, tasks["mood"].forbidden) == (("birth_year",), ("diary", "score"))


def _file(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda s, p: load_tasks({"a": {"ask": "?", "answers": {1: "x"}, "regression": True}}),
            "'a' has ask, answers, regression: expected .* with `below` also `regression`",
        ),
        (
            lambda s, p: load_tasks({"a": {"ask": "?", "below": {1: "x"}, "regression": "mean"}}),
            "`regression` of the question about 'a' is 'mean': expected true or false",
        ),
        (
            lambda s, p: load_tasks(_file(p / "tasks.yaml", "a:\n  ask: [What?]\n")),
            r"tasks.yaml is not valid YAML: .* need quotes: \[\"What",
        ),
        (lambda s, p: load_tasks(p / "none.yaml"), "The task file .* does not exist"),
        (lambda s, p: load_tasks({}), "Tasks are a mapping from a name"),
        (lambda s, p: load_tasks({"a": {"ask": []}}), "expected `ask` .* and either `answers`"),
        (lambda s, p: tasks_of_columns(s, ["iq"], [0], [1]), "no column 'iq': found scan_id, .*--labels"),
        (lambda s, p: tasks_of_columns(s, ["scan_id"], range(20), [21]), "has 20 different values .* Bin"),
        (lambda s, p: tasks_of_columns(s, ["site"], range(20), []), "No test scan has a value of 'site'"),
        (
            lambda s, p: split_rows(s, SplitManifest({"train": ["nobody"], "test": ["sub-30"]})),
            "None of 40 scans is of a train subject",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(make, message, scans, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(scans, tmp_path)


def test_scans_that_cannot_be_read_are_listed(checkpoint, folder, splits, task, tmp_path):
    scans, atlas = load_scan_dataset(folder)
    rows = [dict(scan) for scan in scans]
    (bad, *others) = [i for i, row in enumerate(rows) if row["site"] == "B"]
    rows[bad] |= {"bold": rows[bad]["bold"][:2], "sample_mask": None}
    model, processor = (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    broken, _ = load_scan_dataset(write_scan_dataset(rows, tmp_path / "scans", atlas))
    found = evaluate(model, processor, broken, {"sex": task}, splits, EvaluationConfig(["majority"]))
    assert [failure["scan_id"] for failure in found.failures] == [rows[bad]["scan_id"]]
    for i in others:
        rows[i] |= {"bold": rows[i]["bold"][:2], "sample_mask": None}
    broken, _ = load_scan_dataset(write_scan_dataset(rows, tmp_path / "all", atlas))
    with pytest.raises(ScanError, match="None of 16 test scans can be used: The scan is too short"):
        evaluate(model, processor, broken, {"sex": task}, splits)


def test_several_models_are_evaluated_and_what_varies_between_them_is_said(checkpoint, folder, tmp_path, capsys):
    other = tmp_path / "other" / "model"
    shutil.copytree(checkpoint, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(torch.linspace(0.2, 3, model.config.text_config.hidden_size))
    model.save_pretrained(other)
    shutil.copytree(checkpoint, tmp_path / "model")
    words = ["--scans", str(folder), "--labels", "sex", "--holdout-site", "B", "--predictors", "majority"]
    out = tmp_path / "out"
    both = ["evaluate", str(tmp_path / "model"), str(other)]
    assert main([*both, *words, "--no-confounding", "--out", str(out)]) == 0
    found = json.loads((out / "seeds.json").read_text())
    assert found["models"] == ["model-1", "model-2"]
    aucs = [
        json.loads((out / name / "results.json").read_text())["tasks"]["sex"]["fmri_lm"]["auc"]
        for name in found["models"]
    ]
    assert aucs[0] != aucs[1]
    ours = found["tasks"]["sex"]["fmri_lm"]["auc"]
    assert ours["mean"] == pytest.approx(sum(aucs) / 2)
    assert ours["sd"] == pytest.approx(abs(aucs[0] - aucs[1]) / 2**0.5)
    assert found["tasks"]["sex"]["majority"]["balanced_accuracy"]["sd"] == 0
    assert "above all controls: 0 of 2 models" in capsys.readouterr().out
    report = EvaluationReport.from_json(out / "model-1" / "results.json")
    with pytest.raises(ValueError, match="evaluated on different scans"):
        compare({"a": report, "b": replace(report, scans_sha256="0")})
    with pytest.raises(ValueError, match="asked different tasks"):
        compare({"a": report, "b": replace(report, tasks={"age": {}})})


def test_the_command_writes_scores_report_and_what_the_card_shows(checkpoint, folder, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    words = ["evaluate", str(model), "--scans", str(folder), "--labels", "sex", "--holdout-site", "B"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    not_there = ("confounds", "connectivity_regressed", "hypothesis", "hypothesis_direct")
    assert list(results["tasks"]["sex"]) == [name for name in PREDICTORS if name not in not_there]
    assert "None of site, mean_fd varies" in results["left_out"]["sex"]["confounds"]
    assert json.loads((model / "results.json").read_text()) == results
    report = EvaluationReport.from_json(tmp_path / "out" / "results.json")
    assert report.to_dict() == results
    checklist = (tmp_path / "out" / "tripod.md").read_text()
    assert checklist == reporting_checklist(report)
    asked = results["questions"]["sex"]
    sizes = f"sex: {asked['n_test']} test scans, {asked['n_train']} training scans of the linear baselines"
    assert f"| 10 | sample size | {sizes} |" in checklist
    assert f"| 19 | patient and public involvement | {TO_BE_STATED} |" in checklist
    score = results["tasks"]["sex"]["fmri_lm"]["balanced_accuracy"]
    assert f"sex: balanced accuracy {score:.3f} (" in checklist
    assert "What is the sex?" in checklist
    assert "not above" in checklist
    unknown = json.loads(json.dumps(results))
    unknown["tasks"]["sex"]["fmri_lm"] |= {"balanced_accuracy": None, "balanced_accuracy_interval": None}
    unknown["truth"] = {"mirage": {"absent_described": None}}
    assert "sex: balanced accuracy - (-)" in reporting_checklist(EvaluationReport.from_json(unknown))
    simulated = reporting_checklist(replace(report, simulated=True, holdout_site="B|C"))
    assert "simulated scans: the results mean nothing clinically" in simulated
    assert "unseen site B\\|C" in simulated
    printed = capsys.readouterr().out
    assert "logistic regression on connectivity" in printed
    verdict = results["verdict"]["sex"]
    assert verdict["beats_controls"] is False
    assert "(!) sex: not shown to be above majority, without_scan" in printed
    assert "Without confounds alone for sex: None of site, mean_fd varies" in printed
    card = model_card(ModelFacts("fmri_lm", results=results), "org/model")
    assert "**sex: not shown to be above its controls** (majority, without_scan" in card
    above = results | {"verdict": {"sex": verdict | {"beats_controls": True}}}
    assert (
        "not shown to be above"
        not in model_card(ModelFacts("fmri_lm", results=above), "org/model")
        + EvaluationReport.from_json(above).summary()
    )
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = {row["predictor"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(results["tasks"]["sex"])
    for name, row in rows.items():
        scores = results["tasks"]["sex"][name]
        assert float(row["balanced_accuracy"]) == scores["balanced_accuracy"]
        assert [float(row["auc_low"]), float(row["auc_high"])] == scores["auc_interval"]
    assert float(rows["noise"]["difference_p"]) == verdict["differences"]["noise"]["p"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "fMRI-LM shown noise" in page
    assert "not shown to be above" in page
    assert page.count("data:image/png;base64,") == 2
    assert 'src="http' not in page


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def with_phenotypes(scans):
    """The scans with a third site, an age that the correlation also follows, and a score that gives the sex away."""
    draw = np.random.default_rng(1)
    sex = [draw.choice(["female", "male"]) if label is None else label for label in scans["sex"]]
    ages = [float(40 + 20 * (label == "male") + draw.normal() * 4) for label in sex]
    whole = scans.remove_columns(["site", "sex"]).add_column("sex", sex).add_column("age", ages)
    sites = ["C" if i % 4 == 0 and site == "A" else site for i, site in enumerate(scans["site"])]
    subjects = [f"{subject}-{site}" for subject, site in zip(whole["subject_id"], sites)]
    whole = whole.remove_columns(["subject_id"]).add_column("subject_id", subjects)
    return whole.add_column("site", sites)


@pytest.mark.parametrize(("predictor", "surrogate"), [("phase_randomised", phase_randomised), ("noise", white_noise)])
def test_a_control_is_the_pipeline_on_the_changed_scan(evaluated, checkpoint, scans, predictor, surrogate):
    classify = pipeline("fmri-zero-shot-classification", model=str(checkpoint), force=True)
    truth, male = [], []
    for row, scan in enumerate(scans):
        if scan["site"] == "B" and scan["sex"] is not None:
            shown = changed_scan(surrogate, 0, scan, row)
            answers = classify(shown, candidate_labels=["male", "female"], question=QUESTION)
            truth.append(scan["sex"])
            male.append({answer["label"]: answer["score"] for answer in answers}["male"])
    assert evaluated.tasks["sex"][predictor]["auc"] == pytest.approx(roc_auc_score(truth, male))


def test_each_scan_is_read_once_for_all_questions(loaded, scans, splits, task, monkeypatch):
    model, processor = loaded
    read = []
    extract = type(processor.feature_extractor).__call__

    def counted(self, scan, **options):
        read.append(scan["scan_id"])
        return extract(self, scan, **options)

    monkeypatch.setattr(type(processor.feature_extractor), "__call__", counted)
    other = Task.from_dict("other", task.to_dict() | {"ask": ["male ?"]})
    config = EvaluationConfig(["other_scan", "without_scan", "noise"], n_resamples=9)
    both = evaluate(model, processor, scans, {"sex": task, "other": other}, splits, config)
    assert sorted(Counter(read).values()) == [2] * 16  # once as it is, once as noise
    config = EvaluationConfig(["other_scan"], n_resamples=9)
    alone = evaluate(model, processor, scans, {"other": other}, splits, config)
    for predictor in ("fmri_lm", "other_scan"):
        assert both.tasks["other"][predictor]["auc"] == alone.tasks["other"][predictor]["auc"]
        assert both.tasks["other"][predictor]["auc"] != both.tasks["sex"][predictor]["auc"]


def test_a_predictor_is_one_function(loaded, scans, splits, task, monkeypatch):
    def knows(question):
        right = np.array(question.labels(question.test))[:, None] == np.array(question.classes)
        return Answer(right.astype(float))

    monkeypatch.setitem(PREDICTORS, "knows", Predictor("knows", "one who knows", "baseline", knows))
    results = evaluate(*loaded, scans, {"sex": task}, splits, EvaluationConfig(["knows"]))
    assert results.tasks["sex"]["knows"]["auc"] == 1.0
    assert results.verdict["sex"]["beats_baselines"] is False
    assert "one who knows" in results.summary()


def test_confounds_are_no_neighbours_of_the_label(loaded, with_phenotypes, splits):
    scans = with_phenotypes
    columns = [{"subject_id": s, "site": site} for s, site in zip(scans["subject_id"], scans["site"])]
    splits = make_splits(columns, fractions=(1, 0, 0), holdout_sites=["B"])
    declared = {"column": "sex", "ask": [QUESTION], "answers": {"female": "female", "male": "male"}}
    tasks = {
        "sex": Task.from_dict("sex", declared),
        "alone": Task.from_dict("alone", declared | {"forbidden": ["age"]}),
    }
    found = evaluate(*loaded, scans, tasks, splits, EvaluationConfig(["confounds"], n_resamples=20)).tasks
    assert found["sex"]["confounds"]["auc"] > 0.95  # the age gives it away
    assert found["alone"]["confounds"]["auc"] < 0.8  # a site does not


def test_the_confounds_of_a_scan_are_regressed_out_of_that_scan(loaded, with_phenotypes, task):
    scans = with_phenotypes
    columns = [{"subject_id": s, "site": site} for s, site in zip(scans["subject_id"], scans["site"])]
    rows = split_rows(scans, make_splits(columns, fractions=(1, 0, 0), holdout_sites=["B"]))
    split = Evaluation(*loaded, scans, {"sex": task}, rows["test"]).split("sex", rows)
    of_scans = [
        (
            connectivity_features([np.array(scans[row]["bold"]) for row in of_split]),
            split.evaluation.features.confounds(of_split, split.train, ["sex"]),
        )
        for of_split in (split.train, split.test)
    ]
    train, test = regressed_out(*of_scans[0], *of_scans[1])
    expected = fit_logistic(train, split.labels(split.train), test, split.subjects(split.train))
    found = PREDICTORS["connectivity_regressed"].answer(split).probabilities
    np.testing.assert_allclose(found, expected.scores_of(split.classes), atol=1e-6)


def test_a_number_is_estimated_from_the_answers_and_by_ridge_regression(loaded, with_phenotypes):
    scans = with_phenotypes
    columns = [{"subject_id": s, "site": site} for s, site in zip(scans["subject_id"], scans["site"])]
    splits = make_splits(columns, fractions=(1, 0, 0), holdout_sites=["B"])
    age = Task.from_dict(
        "age",
        {"ask": [QUESTION], "below": {42: "female", 58: "male", float("inf"): "sex"}, "regression": True},
    )
    results = evaluate(*loaded, scans, {"age": age}, splits, EvaluationConfig(["connectivity_logistic", "majority"]))
    rows = split_rows(scans, splits)
    ages = np.array(scans["age"])
    train, test = ages[rows["train"]], ages[rows["test"]]
    found = results.tasks["age"]
    assert found["majority"]["mean_absolute_error"] == pytest.approx(np.abs(test - train.mean()).mean())
    bold = list(scans["bold"])
    features = {name: connectivity_features([np.array(bold[i]) for i in rows[name]]) for name in rows}
    ridge = fit_ridge(features["train"], train, features["test"], [scans["subject_id"][i] for i in rows["train"]])
    assert found["connectivity_logistic"]["mean_absolute_error"] == pytest.approx(np.abs(test - ridge).mean())
    assert found["connectivity_logistic"]["r2"] > 0.3
    answers = pipeline("fmri-zero-shot-classification", model=loaded[0], processor=loaded[1], force=True)
    bins = [train[train < 42].mean(), train[(train >= 42) & (train < 58)].mean(), train[train >= 58].mean()]
    expected = []
    for row in rows["test"]:
        given = answers(scans[row], candidate_labels=age.classes, question=QUESTION)
        scores = {each["label"]: each["score"] for each in given}
        expected.append(np.dot([scores[name] for name in age.classes], bins))
    assert found["fmri_lm"]["mean_absolute_error"] == pytest.approx(np.abs(test - expected).mean(), abs=1e-4)
    assert results.questions["age"]["scored_by"] == results.verdict["age"]["score"] == "mean_absolute_error"
    assert "R2" in results.summary()


def test_every_site_is_evaluated_by_baselines_of_the_others(loaded, with_phenotypes, task):
    scans = with_phenotypes
    config = EvaluationConfig(["connectivity_logistic"], n_resamples=50)
    found = evaluate_sites(*loaded, scans, {"sex": task}, config)
    about = found.leave_one_site_out
    assert about == {"sites": ["A", "B", "C"], "not_evaluated": {}, "model_retrained": False}
    assert found.questions["sex"]["n_test"] == len(scans)
    columns = [{"subject_id": s, "site": site} for s, site in zip(scans["subject_id"], scans["site"])]
    for site in "AB":
        splits = make_splits(columns, fractions=(1, 0, 0), holdout_sites=[site])
        alone = evaluate(*loaded, scans, {"sex": task}, splits, config)
        assert found.sites[site] == alone.tasks
    assert "The model was not trained again" in found.summary()
    of_sites = [found.sites[site]["sex"]["fmri_lm"]["balanced_accuracy"] for site in "ABC"]
    ours = [score for score in of_sites if score is not None]  # site C has one class, and no such score
    assert len(ours) == 2
    between = found.between_sites["sex"]["fmri_lm"]
    assert between["mean"] == pytest.approx(np.mean(ours))
    assert (between["lowest"], between["highest"], between["n_sites"]) == (min(ours), max(ours), 2)
    by_scipy = stats.t.interval(0.95, 1, np.mean(ours), stats.sem(ours))
    assert between["interval"] == pytest.approx(list(by_scipy))
    assert f"sex, over 2 sites: balanced accuracy {np.mean(ours):.3f}" in found.summary()
    pooled = found.tasks["sex"]["connectivity_logistic"]
    assert pooled["balanced_accuracy"] > 0.8
    one_site = scans.filter(lambda site: site == "B", input_columns="site")
    with pytest.raises(ValueError, match="All scans are of site B: leaving one site out takes scans of at least two"):
        evaluate_sites(*loaded, one_site, {"sex": task})


def test_a_site_that_cannot_be_evaluated_is_named(loaded, with_phenotypes, task):
    unlabelled = with_phenotypes.map(lambda row: {"sex": None} if row["site"] == "C" else {})
    found = evaluate_sites(*loaded, unlabelled, {"sex": task}, EvaluationConfig(["majority"], n_resamples=50))
    assert found.leave_one_site_out["sites"] == ["A", "B"]
    assert "0 test scans that have one of them" in found.leave_one_site_out["not_evaluated"]["C"]
    assert "Site C was not evaluated" in found.summary()
    nothing = with_phenotypes.map(lambda row: {"sex": row["sex"] if row["site"] == "B" else None})
    with pytest.raises(ValueError, match=r"No site can be evaluated\. Task 'sex'"):
        evaluate_sites(*loaded, nothing, {"sex": task}, EvaluationConfig(["majority"]))


def test_the_number_of_resamples_bounds_p_from_below(checkpoint, scans, splits, task):
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    config = EvaluationConfig(["connectivity_logistic"], n_resamples=4, confounding=False)
    for found in (
        evaluate(*loaded, scans, {"sex": task}, splits, config),
        evaluate_sites(*loaded, scans, {"sex": task}, config),
    ):
        assert found.tasks["sex"]["connectivity_logistic"]["p"] == 1 / (1 + 4)


def test_options_reach_the_further_analyses(scans, splits, task, monkeypatch):
    """Of a model that reads network pairs, since only of such a one texts are checked."""
    model, processor = load_bundled_model(tiny.atlas())
    processor.feature_extractor.min_timepoints = tiny.N_TIMEPOINTS
    found = {}

    def record(name, *of_interest):
        module = importlib.import_module(f"fmri_lm_hf.evaluation.{name.split('.')[0]}")
        function = name.split(".")[1]
        signature = inspect.signature(getattr(module, function))

        def call(*args, **options):
            given = signature.bind(*args, **options).arguments
            found[function] = [given.get(each) for each in of_interest]

        monkeypatch.setattr(module, function, call)

    record("confounds.predictable_confounds", "seed")
    record("confounds.subgroups", "seed")
    record("truth.truth", "seed", "languages")
    config = EvaluationConfig(["majority"], n_resamples=4, n_truth=2, languages=["fr"], seed=5)
    evaluate(model, processor, scans, {"sex": task}, splits, config)
    assert found == {"predictable_confounds": [5], "subgroups": [5], "truth": [5, ["fr"]]}
