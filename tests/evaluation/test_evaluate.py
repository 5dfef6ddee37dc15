"""`evaluate`: each score is that of the right scan, class and reader, worked out by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hub import tiny
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from fmri_lm_hf.cli import main
from fmri_lm_hf.evaluation import connectivity_features, fit_logistic
from fmri_lm_hf.evaluation.evaluate import evaluate, split_rows
from fmri_lm_hf.evaluation.readers import READERS, other_subjects
from fmri_lm_hf.evaluation.tasks import Task, load_tasks, tasks_of_columns
from fmri_lm_hf.models.scan_images import ScanError
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
    return write_scan_dataset(
        [rows[i] for i in order], tmp_path_factory.mktemp("judged") / "scans", tiny.atlas()
    )


@pytest.fixture(scope="module")
def scans(folder):
    return load_scan_dataset(folder)[0]


@pytest.fixture(scope="module")
def splits(scans):
    columns = [{"subject_id": s, "site": site} for s, site in zip(scans["subject_id"], scans["site"])]
    return make_splits(columns, fractions=(1, 0, 0), holdout_sites=["B"])


@pytest.fixture(scope="module")
def task():
    return Task.from_dict(
        "sex", {"ask": [QUESTION, "sex ?"], "answers": {"female": "female", "male": "male"}}
    )


@pytest.fixture(scope="module")
def judged(checkpoint, scans, splits, task):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    return evaluate(model, AutoProcessor.from_pretrained(checkpoint), scans, {"sex": task}, splits)


def test_the_models_scores_are_those_of_the_pipeline_scan_by_scan(judged, checkpoint, scans):
    classify = pipeline("fmri-zero-shot-classification", model=str(checkpoint))
    truth, male = [], []
    for scan in scans:
        if scan["site"] == "B" and scan["sex"] is not None:
            answers = classify(scan, candidate_labels=["male", "female"], question=QUESTION)
            truth.append(scan["sex"])
            male.append({answer["label"]: answer["score"] for answer in answers}["male"])
    ours = judged["tasks"]["sex"]["fmri_lm"]
    assert np.std(male) / np.mean(male) > 0.2  # the scans are told apart, so that a mix-up would show
    assert ours["auc"] == pytest.approx(roc_auc_score(truth, male))
    predicted = ["male" if score > 0.5 else "female" for score in male]
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    low, high = ours["balanced_accuracy_interval"]
    assert low <= ours["balanced_accuracy"] <= high
    assert judged["asked"]["sex"] == {
        "question": QUESTION, "classes": ["female", "male"], "kind": "classification",
        "scored_by": "balanced_accuracy", "n_train": 23, "n_test": len(truth),
    }  # fmt: skip


def test_baselines_are_fitted_to_training_scans_and_asked_about_test_scans(judged, scans):
    train = [scan for scan in scans if scan["site"] == "A" and scan["sex"] is not None]
    test = [scan for scan in scans if scan["site"] == "B" and scan["sex"] is not None]
    by_hand = fit_logistic(
        connectivity_features([scan["bold"] for scan in train]),
        [scan["sex"] for scan in train],
        connectivity_features([scan["bold"] for scan in test]),
        [scan["subject_id"] for scan in train],
    )
    expected = by_hand.score([scan["sex"] for scan in test])
    assert judged["tasks"]["sex"]["connectivity_logistic"].items() >= expected.items()
    assert judged["tasks"]["sex"]["connectivity_logistic"]["balanced_accuracy"] > 0.85
    assert judged["tasks"]["sex"]["majority"]["balanced_accuracy"] == 0.5
    assert judged["tasks"]["sex"]["without_scan"]["auc"] == 0.5


def test_another_scan_is_one_of_another_subject():
    subjects = ["a", "a", "b", "c", "c", "c"]
    others = other_subjects(subjects, seed=0)
    assert all(subjects[i] != subject for i, subject in zip(others, subjects))
    assert other_subjects(subjects, seed=0) == others
    assert len({tuple(other_subjects(subjects, seed=s)) for s in range(5)}) > 1


def test_noise_in_test_scans_changes_no_baseline_fit_and_their_labels_nothing(
    checkpoint, scans, splits, task, judged
):
    """Labels of test scans reach only the scores: permuted, the probabilities behind the AUC are the same."""
    flipped = scans.map(
        lambda row: (
            {"sex": row["sex"] and {"female": "male", "male": "female"}[row["sex"]]}
            if row["site"] == "B"
            else {}
        ),
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    again = evaluate(model, AutoProcessor.from_pretrained(checkpoint), flipped, {"sex": task}, splits)
    for reader in ("fmri_lm", "connectivity_logistic"):
        before, after = (result["tasks"]["sex"][reader]["auc"] for result in (judged, again))
        assert after == pytest.approx(1 - before)


def test_a_subject_of_the_held_out_site_trains_nothing(scans):
    columns = [
        {"subject_id": "both" if i in (0, 1) else f"s{i}", "site": "B" if i % 2 else "A"}
        for i in range(len(scans))
    ]
    splits = make_splits(columns, fractions=(1, 0, 0), holdout_sites=["B"])
    dataset = scans.remove_columns(["subject_id", "site"]).add_column(
        "subject_id", [c["subject_id"] for c in columns]
    )
    rows = split_rows(dataset.add_column("site", [c["site"] for c in columns]), splits)
    assert 0 not in rows["train"]
    assert 0 not in rows["test"]  # it is a scan of a site that was seen
    assert rows["test"] == list(range(1, len(scans), 2))


def test_tasks_are_declared_once(tmp_path):
    declared = {
        "group": {"column": "dx", "ask": "Patient?", "answers": {1: "yes", 2: "no"}},
        "age": {"ask": ["Age?"], "below": {".inf": "older", 50: "younger"}},
    }
    (tmp_path / "tasks.yaml").write_text(json.dumps(declared).replace('".inf"', ".inf"))
    tasks = load_tasks(tmp_path / "tasks.yaml")
    assert tasks == {name: Task.from_dict(name, task.to_dict()) for name, task in tasks.items()}
    assert [tasks["group"].answer(value) for value in (1.0, 2, "1", 3, None, float("nan"))] == [
        "yes", "no", "yes", None, None, None
    ]  # fmt: skip
    assert [tasks["age"].answer(value) for value in (49.9, 50)] == ["younger", "older"]
    assert tasks["age"].classes == ["younger", "older"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, p: load_tasks(p / "none.yaml"), "There is no file of tasks"),
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
def test_what_cannot_be_judged_is_refused(make, message, scans, tmp_path):
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
    found = evaluate(model, processor, broken, {"sex": task}, splits, readers=["majority"])
    assert [failure["scan_id"] for failure in found["failures"]] == [rows[bad]["scan_id"]]
    for i in others:
        rows[i] |= {"bold": rows[i]["bold"][:2], "sample_mask": None}
    broken, _ = load_scan_dataset(write_scan_dataset(rows, tmp_path / "all", atlas))
    with pytest.raises(ScanError, match="None of 16 test scans can be used: The scan is too short"):
        evaluate(model, processor, broken, {"sex": task}, splits)
    with pytest.raises(
        ValueError, match="Unknown readers guess; expected some of fmri_lm, connectivity_logistic"
    ):
        evaluate(model, processor, broken, {"sex": task}, splits, readers=["guess"])


def test_the_command_writes_scores_report_and_what_the_card_shows(checkpoint, folder, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    words = ["evaluate", str(model), "--scans", str(folder), "--labels", "sex", "--holdout-site", "B"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["tasks"]["sex"]) == [
        name for name in READERS if name not in ("confounds", "connectivity_regressed")
    ]
    assert "none of site, mean_fd varies" in results["left_out"]["sex"]["confounds"]
    assert json.loads((model / "results.json").read_text()) == results
    assert "logistic regression on connectivity" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 2
    assert 'src="http' not in report
