"""Several questions in one answer: read strictly, field by field; what is no answer is wrong and counted."""

from __future__ import annotations

import csv
import itertools
import json
import re

import numpy as np
import pytest
from datasets import Dataset
from hub import tiny
from transformers import AutoModelForCausalLM, AutoProcessor

from fmri_lm_hf.cli import main
from fmri_lm_hf.evaluation import model_answers as module
from fmri_lm_hf.evaluation.evaluate import evaluate, evaluate_sites
from fmri_lm_hf.evaluation.predictors import other_subjects
from fmri_lm_hf.evaluation.results import EvaluationConfig
from fmri_lm_hf.evaluation.tasks import Form, load_tasks
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.scans.splits import make_splits
from fmri_lm_hf.training.texts import LabelQuestions

FIELDS = {
    "sex": {"answers": {"F": "female", "M": "male"}},
    "group": {"column": "age", "below": {30: "young", 60: "middle aged", 90: "old"}},
}
DECLARED = {"person": {"ask": ["Who is this ?", "Tell me ."], "fields": FIELDS, "answer": "Sex: {sex}. Age: {group}."}}
FORM = Form("person", ("Who?",), "Sex: {sex}. Age: {age}.", {"sex": ("female", "male"), "age": ("young", "old")})


def test_what_a_form_writes_it_reads():
    for sex, age in itertools.product(*FORM.answers.values()):
        said = {"sex": sex, "age": age}
        assert FORM.read(FORM.write(said)) == said
    assert FORM.read(" sex: MALE.\nAge:  old. ") == {"sex": "male", "age": "old"}
    assert set(FORM.examples()) == {"Sex: female. Age: young.", "Sex: male. Age: old."}
    assert FORM.n_tokens(len) == len("Sex: female. Age: young.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "male",
        "Sex: male.",
        "Sex: male. Age: old",  # a sign is missing
        "Sex: mal. Age: old.",
        "Sex: male. Age: .",
        "Age: old. Sex: male.",  # another order
        "Sex: male. Age: old. Sex: female. Age: old.",  # two answers
        "I think: Sex: male. Age: old.",
        "Sex: male or female. Age: old.",
    ],
)
def test_all_else_is_no_answer(text):
    assert FORM.read(text) is None


def test_answers_that_begin_alike_are_told_apart():
    form = Form("x", ("?",), "{a}, {b}", {"a": ("low", "low normal"), "b": ("c", "c.d")})
    for a, b in itertools.product(*form.answers.values()):
        assert form.read(f"{a}, {b}") == {"a": a, "b": b}
    assert form.read("low, cxd") is None  # signs of a pattern stand for themselves


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "Sex: {sex}."}, "expected each field once, in braces and as it is: {sex}, {group}"),
        ({"answer": "{sex} {group} {sex}"}, "expected each field once"),
        ({"answer": "{sex} {group}"}, "expected text between two fields"),
        ({"answer": "{sex:>10}, {group}"}, "expected each field once"),
        ({"answer": "{sex, {group}"}, "is not a valid template"),
        ({"fields": {"a b": FIELDS["sex"]}, "answer": None}, "the name of its column goes into `column`"),
        (
            {"fields": {"sex": {"answers": {"F": "A", "M": "a"}}}, "answer": None},
            "differ by case alone: A, a",
        ),
        ({"fields": {"sex": {"ask": ["?"], **FIELDS["sex"]}}}, "Field 'sex' of the form 'person' has ask"),
        ({"fields": ["sex"]}, "The form 'person' has ask, fields, answer: expected `ask`"),
        ({"about": "a person"}, "The form 'person' has ask, fields, answer, about: expected"),
        ({"ask": []}, "The form 'person' has"),
    ],
)
def test_declarations_that_cannot_be_meant_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_tasks({"person": DECLARED["person"] | change})


def test_a_form_is_a_task_for_each_field():
    tasks = load_tasks(DECLARED | {"sex": {"ask": ["Sex?"], **FIELDS["sex"]}})
    assert list(tasks) == ["person.sex", "person.group", "sex"]
    assert tasks["person.sex"].form is tasks["person.group"].form
    assert tasks["sex"].form is None
    assert (tasks["person.sex"].column, tasks["person.group"].column) == ("sex", "age")
    assert tasks["person.group"].kind == "ordinal"
    plain = load_tasks({"person": {"ask": "Who?", "fields": FIELDS}})
    assert plain["person.sex"].form.template == "sex: {sex}; group: {group}"


def test_training_writes_the_form_of_scans_whose_fields_are_all_known():
    columns = {"scan_id": ["a", "b", "c", "d"], "sex": ["F", "M", "M", None], "age": [20.0, 50.0, 99.0, 70.0]}
    asked = LabelQuestions(Dataset.from_dict(columns), DECLARED)
    assert asked.scan_ids == {"a", "b"}
    draw = np.random.default_rng(0)
    turns = {scan_id: [asked.turns(scan_id, draw, {}) for _ in range(20)] for scan_id in asked.scan_ids}
    assert {said.answer for (said,) in turns["a"]} == {"Sex: female. Age: young."}
    assert {said.answer for (said,) in turns["b"]} == {"Sex: male. Age: middle aged."}
    assert {said.text for (said,) in turns["a"]} == set(DECLARED["person"]["ask"])
    known = " ".join(asked.texts())
    assert all(word in known for word in ("Who", "Tell", "Sex", "Age", "middle", "old"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    draw = np.random.default_rng(1)
    rows = [
        {
            "scan_id": f"scan-{i}",
            "subject_id": f"sub-{i}",
            "site": "A" if i < 20 else "B",
            "t_r": 2.0,
            "bold": draw.normal(size=(tiny.N_TIMEPOINTS, tiny.N_ROIS)).astype("float32"),
            "sex": ["F", "M"][i % 2],
            "age": [20.0, 50.0, 70.0][i % 3],
        }
        for i in range(40)
    ]
    return write_scan_dataset(rows, tmp_path_factory.mktemp("forms") / "scans", tiny.atlas())


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )


@pytest.fixture
def written(monkeypatch):
    """What the model writes: of every fourth scan nothing that can be read, of the others the right sex."""
    texts = ["sex: female. age: young.", "sex: male. age: young.", "sex: female. age: old.", "no idea"]

    def generate_texts(model, processor, question, inputs, max_new_tokens):
        assert question == "Who is this ?"
        n = 1 if inputs is None else len(inputs["fmri_features"])
        return [texts[i % 4] for i in range(n)]

    monkeypatch.setattr(module, "generate_texts", generate_texts)


def test_fields_are_scored_as_tasks_and_what_is_no_answer_is_wrong(loaded, folder, written):
    scans, _ = load_scan_dataset(folder)
    model, processor = loaded
    splits = make_splits(scans.remove_columns("bold").to_list(), (1, 0, 0), holdout_sites=["B"])
    tasks = load_tasks(DECLARED | {"sex": {"ask": ["sex ?"], **FIELDS["sex"]}})
    found = evaluate(model, processor, scans, tasks, splits, EvaluationConfig(n_wordings=2, n_robustness=5))
    judged = [scan for scan in scans if scan["site"] == "B"]
    truth = [{"F": "female", "M": "male"}[scan["sex"]] for scan in judged]
    said = [["female", "male", "female", None][i % 4] for i in range(len(judged))]

    ours = found.tasks["person.sex"]["fmri_lm"]
    assert ours["no_answer"] == 0.25
    assert ours["balanced_accuracy"] == pytest.approx(by_hand(truth, said))
    low, high = ours["interval"]
    assert low < ours["balanced_accuracy"] < high
    assert ours["p"] < 0.05
    others = [said[i] for i in other_subjects([scan["subject_id"] for scan in judged], 0)]
    assert found.tasks["person.sex"]["other_scan"]["balanced_accuracy"] == pytest.approx(by_hand(truth, others))
    assert found.tasks["person.sex"]["without_scan"]["balanced_accuracy"] == 0.5  # the first text for all
    assert found.confusion["person.sex"] == [
        [sum(t == row and s == column for t, s in zip(truth, said)) for column in ("female", "male", None)]
        for row in ("female", "male")
    ]
    order = found.tasks["person.group"]["fmri_lm"]
    levels = {20.0: 0, 50.0: 1, 70.0: 2}
    errors = [
        2 if s is None else abs(levels[scan["age"]] - [0, 0, 2][i % 4])
        for i, (scan, s) in enumerate(zip(judged, said))
    ]
    assert order["mean_class_error"] == pytest.approx(np.mean(errors))
    near = [s is not None and error <= 1 for s, error in zip(said, errors)]
    assert order["within_one"] == pytest.approx(np.mean(near))
    # what has no probability is not calibrated, and what cannot be asked for by itself is not asked for
    assert "fmri_lm" not in found.calibration["person.sex"]
    assert "fmri_lm" in found.calibration["sex"]
    assert "connectivity_logistic" in found.tasks["person.sex"]
    assert set(found.robustness["as_they_are"]) == {"sex"}
    assert "no_answer" not in found.tasks["sex"]["fmri_lm"]


def test_forms_alone_are_judged_without_what_is_about_choices(loaded, folder, written):
    scans, _ = load_scan_dataset(folder)
    model, processor = loaded
    splits = make_splits(scans.remove_columns("bold").to_list(), (1, 0, 0), holdout_sites=["B"])
    found = evaluate(
        model, processor, scans, load_tasks(DECLARED), splits, EvaluationConfig(
            ["majority"], shots=[0, 2], n_occluded=2, n_wordings=2, n_robustness=2, confounding=False
        ),
    )  # fmt: skip
    assert set(found.tasks) == {"person.sex", "person.group"}
    assert found.wordings == {}
    assert found.few_shot is found.robustness is found.occlusion is None


def test_sites_are_joined_with_what_was_no_answer(loaded, folder, written):
    scans, _ = load_scan_dataset(folder)
    model, processor = loaded
    found = evaluate_sites(model, processor, scans, load_tasks(DECLARED), EvaluationConfig(["majority"]))
    # rows of both sites come in one reading, in the order of the dataset
    assert found.tasks["person.sex"]["fmri_lm"]["no_answer"] == 0.25
    truth = {
        site: [("female", "male")[s == "M"] for s, of in zip(scans["sex"], scans["site"]) if of == site]
        for site in "AB"
    }
    said = [["female", "male", "female", None][i % 4] for i in range(40)]
    both = by_hand(truth["A"] + truth["B"], [s for site in "AB" for s, of in zip(said, scans["site"]) if of == site])
    assert found.tasks["person.sex"]["fmri_lm"]["balanced_accuracy"] == pytest.approx(both)


def by_hand(truth, said):
    """Mean over the classes of the share of their scans that were answered rightly."""
    return np.mean(
        [np.mean([each == name for right, each in zip(truth, said) if right == name]) for name in ("female", "male")]
    )


def test_a_model_that_cannot_write_has_no_score_and_a_report(checkpoint, folder, tmp_path, capsys):
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(json.dumps(DECLARED))  # JSON is YAML
    words = ["--scans", folder, "--holdout-site", "B", "--truth", 0, "--no-confounding"]
    main(["evaluate", str(checkpoint), *map(str, [*words, "--tasks", tasks, "--out", tmp_path / "out"])])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    ours = found["tasks"]["person.sex"]["fmri_lm"]
    assert (ours["no_answer"], ours["balanced_accuracy"]) == (1.0, 0.0)
    assert "no answer in 100.0%" in (tmp_path / "out" / "tripod.md").read_text()
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert {row["no_answer"] for row in rows if (row["task"], row["predictor"]) == ("person.sex", "fmri_lm")} == {
        "1.0"
    }
    assert "person.sex" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
