"""`fmri-lm evaluate`: every option reaches the evaluation, seeds act, and no more is imported than is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from hub import tiny

from fmri_lm_hf.cli import main
from fmri_lm_hf.evaluation import EvaluationConfig
from fmri_lm_hf.evaluation.evaluate import hold_site_out
from fmri_lm_hf.evaluation.model_answers import TaskSplit
from fmri_lm_hf.evaluation.predictors import PREDICTORS
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.scans.splits import SplitManifest

MOST_MODULES = 63
NOT_NEEDED = tuple(
    f"fmri_lm_hf.{name}"
    for name in ("hub", "training", "demo", "corpus", "simulation", "pipelines", "scans.sources", "scans.build")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    draw = np.random.default_rng(0)
    rows = [
        {
            "scan_id": f"scan-{i}",
            "subject_id": f"sub-{i}",
            "site": "AB"[i % 2],
            "t_r": 2.0,
            "bold": draw.normal(size=(tiny.N_TIMEPOINTS, tiny.N_ROIS)).astype("float32"),
            "sex": ["female", "male"][i // 2 % 2],
        }
        for i in range(48)
    ]
    return write_scan_dataset(rows, tmp_path_factory.mktemp("command") / "scans", tiny.atlas())


def words(checkpoint, folder, out, *more: str) -> list[str]:
    given = [
        "evaluate",
        checkpoint,
        "--scans",
        folder,
        "--labels",
        "sex",
        "--holdout-site",
        "B",
        "--out",
        out,
    ]
    return [*map(str, given), *more]


def test_help_is_short_and_in_groups():
    environment = os.environ | {"COLUMNS": "80"}
    command = [sys.executable, "-m", "fmri_lm_hf.cli", "evaluate", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert len(text.splitlines()) <= 80
    for group in ("data:", "scores:", "further analyses:"):
        assert f"\n{group}\n" in text
    assert "--readers" not in text


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        (["--predictors", "noise", "majority"], "predictors", ["noise", "majority"]),
        (["--readers", "noise"], "predictors", ["noise"]),
        (["--split", "validation"], "split", "validation"),
        (["--wordings", "3"], "n_wordings", 3),
        (["--no-confounding"], "confounding", False),
        (["--truth", "7"], "n_truth", 7),
        (["--languages", "fr", "de"], "languages", ["fr", "de"]),
        (["--shots", "0", "2"], "shots", [0, 2]),
        (["--occlusion", "4"], "n_occluded", 4),
        (["--robustness", "5"], "n_robustness", 5),
        (["--report-leaks"], "refuse_leakage", False),
        (["--seed", "9"], "seed", 9),
    ],
)
def test_every_option_reaches_the_configuration(given, field, value, checkpoint, folder, tmp_path, monkeypatch):
    seen = []

    def evaluate(model, processor, scans, tasks, splits, config):
        seen.append(config)
        raise ValueError("enough")

    monkeypatch.setattr("fmri_lm_hf.evaluation.evaluate.evaluate", evaluate)
    monkeypatch.setattr(
        "fmri_lm_hf.evaluation.evaluate.split_rows", lambda *_: {"train": range(48), "test": range(48)}
    )
    main(words(checkpoint, folder, tmp_path, *given))
    (config,) = seen
    assert getattr(config, field) == value
    usual = EvaluationConfig(n_wordings=10, n_truth=40, languages=[], shots=[], fitted=[])
    others = {each.name for each in fields(config)} - {field}
    assert {name: getattr(config, name) for name in others} == {name: getattr(usual, name) for name in others}


def test_the_seed_acts_on_bootstrap_permutations_and_controls(checkpoint, folder, tmp_path):
    found = []
    for name, seed in (("first", "0"), ("other", "1"), ("again", "0")):
        more = ["--seed", seed, "--no-confounding", "--wordings", "0", "--predictors"]
        more += ["connectivity_logistic", "other_scan", "phase_randomised", "noise"]
        assert main(words(checkpoint, folder, tmp_path / name, *more)) == 0
        found.append(json.loads((tmp_path / name / "results.json").read_text())["tasks"]["sex"])
    first, other, again = found
    assert first == again
    same_answers = ("fmri_lm", "connectivity_logistic")  # and other draws
    for predictor in same_answers:
        assert first[predictor]["auc"] == other[predictor]["auc"]
        assert first[predictor]["auc_se"] != other[predictor]["auc_se"]
        assert first[predictor]["auc_interval"] != other[predictor]["auc_interval"]
    assert [first[name]["p"] for name in same_answers] != [other[name]["p"] for name in same_answers]
    for control in ("other_scan", "phase_randomised", "noise"):
        assert first[control]["auc"] != other[control]["auc"]


def test_the_command_records_evaluations_of_test_subjects(checkpoint, folder, tmp_path):
    scans, earlier = shutil.copytree(folder, tmp_path / "scans"), []
    for name in ("first", "second"):
        more = ["--no-confounding", "--wordings", "0", "--predictors", "majority"]
        assert main(words(checkpoint, scans, tmp_path / name, *more)) == 0
        earlier.append(json.loads((tmp_path / name / "results.json").read_text())["history"]["n_earlier"])
    assert earlier[1] == earlier[0] + 1  # the folder has a history of other tests


def test_validation_subjects_are_evaluated_where_no_subject_is_tested(checkpoint, folder, tmp_path):
    manifest = SplitManifest(
        {"train": sorted(f"sub-{i}" for i in range(32)), "validation": sorted(f"sub-{i}" for i in range(32, 48))}
    )
    (tmp_path / "splits.json").write_text(json.dumps(manifest.to_dict()), encoding="utf-8")
    given = ["evaluate", checkpoint, "--scans", folder, "--labels", "sex", "--splits", tmp_path / "splits.json"]
    given += ["--split", "validation", "--out", tmp_path / "out", "--no-confounding", "--predictors", "majority"]
    assert main([*map(str, given)]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["questions"]["sex"]["n_test"] == 16


@pytest.mark.parametrize("seed", range(8))
def test_the_other_scan_is_one_of_another_person(seed):
    subjects = [f"sub-{i // 3}" for i in range(12)]  # three scans each: the next one is often of the same person
    shown = []
    evaluation = SimpleNamespace(subjects=subjects, seed=seed, answer=lambda split, rows: shown.append(list(rows)))
    test = (11, 0, 1, 2, 6, 7, 8, 3)
    PREDICTORS["other_scan"].answer(TaskSplit(evaluation, "sex", (), (), test, ("female", "male")))
    assert set(shown[0]) <= set(test)
    assert all(subjects[row] != subjects[own] for row, own in zip(shown[0], test, strict=True))


@pytest.fixture(scope="module", params=["--holdout-site", "--splits"])
def imported(request, checkpoint, folder, tmp_path_factory):
    """The modules of this package that an evaluation with the usual options imports."""
    work = tmp_path_factory.mktemp("imports")
    given = words(checkpoint, folder, work / "out")
    if request.param == "--splits":
        splits = hold_site_out(load_scan_dataset(folder)[0], "B")
        (work / "splits.json").write_text(json.dumps(splits.to_dict()))
        place = given.index("--holdout-site")
        given[place : place + 2] = ["--splits", str(work / "splits.json")]
    program = (
        "import sys\nfrom fmri_lm_hf.cli import main\n"
        f"assert main({given!r}) == 0\n"
        "print('\\n'.join(name for name in sys.modules if name.split('.')[0] == 'fmri_lm_hf'), file=sys.stderr)\n"
    )
    # Under the name of the command: the package registers everything when any other program imports it.
    script = work / "fmri-lm"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (work / "out" / "results.json").exists()
    return sorted(line for line in done.stderr.splitlines() if line.startswith("fmri_lm_hf"))


def test_only_what_an_evaluation_needs_is_imported_where_all_is_local(imported):
    assert [name for name in imported if name.startswith(NOT_NEEDED)] == []
    assert len(imported) <= MOST_MODULES, "\n".join(imported)
