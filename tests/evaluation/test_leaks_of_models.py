"""`fmri-lm evaluate` refuses leaks, counts looks at a test split, and shows confounds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hub import tiny

from fmri_lm_hf.cli import main
from fmri_lm_hf.evaluation.history import HISTORY_FILE, History
from fmri_lm_hf.files import write_json
from fmri_lm_hf.scans.dataset import write_scan_dataset
from fmri_lm_hf.scans.likeness import ScanRecord, content_sketch
from fmri_lm_hf.scans.splits import make_splits

N = 60


def people() -> list[dict]:
    draw = np.random.default_rng(0)
    return [
        {
            "scan_id": f"scan-{i}",
            "subject_id": f"sub-{i}",
            "site": "AB"[i % 2],
            "t_r": 2.0,
            "bold": draw.normal(size=(3 * tiny.N_TIMEPOINTS, tiny.N_ROIS)).astype("float32"),
            "mean_fd": float(draw.uniform(0.05, 0.5)),
            "sex": ["female", "male"][int(draw.integers(2))],
            "age": float(draw.integers(20, 80)),
        }
        for i in range(N)
    ]


@pytest.fixture
def study(tmp_path, checkpoint):
    """A function that judges the model on a cohort; it gives `results.json`."""
    model = tmp_path / "small-model"
    shutil.copytree(checkpoint, model)

    def judge(rows=None, *options: str, training=None, name="scans", confounding=False):
        folder = tmp_path / name
        rows = people() if rows is None else rows
        if not folder.exists():
            write_scan_dataset(rows, folder, tiny.atlas())
            write_json(make_splits(rows, (0.5, 0.2, 0.3)).to_dict(), folder / "splits.json")
        if training is not None:
            write_json(training, model / "training_info.json")
        words = ["evaluate", str(model), "--scans", str(folder), "--labels", "sex"]
        words += ["--splits", str(folder / "splits.json"), "--out", str(tmp_path / "out")]
        words += [] if confounding else ["--no-confounding"]
        assert main([*words, "--predictors", "majority", *options]) == 0
        return json.loads((tmp_path / "out" / "results.json").read_text())

    judge.folder = tmp_path
    return judge


def refused(judge, capsys, *given, **named) -> str:
    """What is said where nothing is judged."""
    with pytest.raises(AssertionError, match="assert 2 == 0"):
        judge(*given, **named)
    return capsys.readouterr().err


def test_a_test_split_is_counted_and_a_validation_split_is_not(study, capsys):
    first = study()
    assert (first["split"], first["history"]["n_earlier"], first["leaks"]) == ("test", 0, [])
    assert "This test split had not been evaluated before." in capsys.readouterr().out
    assert study(None, "--split", "validation")["questions"]["sex"]["n_test"] == 0.2 * N
    second = study()
    assert second["history"]["n_earlier"] == 1
    assert second["scans_sha256"] == first["scans_sha256"]
    assert "It was the same model each time." in capsys.readouterr().out
    assert len(History(study.folder / "scans").read()) == 2
    assert "evaluated once before" in (study.folder / "out" / "report.html").read_text()


def test_the_count_is_of_scans_and_not_of_their_order_or_names(study):
    study()
    shuffled = [people()[i] for i in np.random.default_rng(1).permutation(N)]
    again = study(shuffled, name="copy")
    assert again["history"]["n_earlier"] == 0  # another folder has a ledger of its own
    shutil.copy(study.folder / "scans" / HISTORY_FILE, study.folder / "copy" / HISTORY_FILE)
    assert study(shuffled, name="copy")["history"]["n_earlier"] == 1


def test_leaks_are_refused_before_anything_is_judged_or_written_down(study, capsys):
    rows = people()
    split_of = make_splits(rows, (0.5, 0.2, 0.3)).split_of()
    train, test = (next(r for r in rows if split_of[r["subject_id"]] == s) for s in ("train", "test"))
    test["bold"] = 2 * train["bold"]
    said = refused(study, capsys, rows)
    assert "Evaluation refused: data leakage (1 problem)" in said
    assert "copies in two splits: 1 pair of scans" in said
    assert not (study.folder / "out").exists()
    assert History(study.folder / "scans").read() == []
    reported = study(rows, "--report-leaks")
    assert [leak["kind"] for leak in reported["leaks"]] == ["copies in two splits"]
    assert train["scan_id"] in reported["leaks"][0]["message"]
    assert "Leakage, copies in two splits" in capsys.readouterr().out
    assert "class='warning'>Leakage, copies" in (study.folder / "out" / "report.html").read_text()


def test_a_model_is_not_judged_on_what_its_record_holds(study, capsys):
    rows = people()
    split_of = make_splits(rows, (0.5, 0.2, 0.3)).split_of()
    record = ScanRecord.of(content_sketch(r["bold"]) for r in rows if split_of[r["subject_id"]] != "test")
    assert study(rows, training={"training_scans": record.to_dict()})["leaks"] == []
    everything = ScanRecord.of(content_sketch(row["bold"]) for row in rows)
    earlier = {"stage": 3, "alignment": {"training_scans": everything.to_dict()}}
    assert "The model was trained on 18 of 18 evaluated scans" in refused(study, capsys, rows, training=earlier)


def test_declared_statistics_are_looked_at(study, capsys):
    write_json([{"name": "ComBat", "subjects": [f"sub-{i}" for i in range(N)]}], study.folder / "fitted.json")
    said = refused(study, capsys, None, "--fitted", str(study.folder / "fitted.json"))
    assert "ComBat was fitted to 18 evaluated subjects" in said


def test_confounds_are_in_results_and_report(study):
    assert "confounding" not in study()
    results = study(confounding=True)
    assert set(results["confounding"]) == {"site", "motion", "sex", "age"}
    for found in results["confounding"].values():
        for read in () if "left_out" in found else ("scan_tokens", "connectivity"):
            assert 0 <= found[read]["interval"][0] <= found[read]["interval"][1] <= 1
    levels = results["subgroups"]["sex"]["within_levels"]
    assert set(levels) == {"site", "motion", "age"}
    assert sum(score["n"] for score in levels["motion"].values()) == results["questions"]["sex"]["n_test"]
    report = (study.folder / "out" / "report.html").read_text()
    for title in (
        "Confounds that scan tokens reveal",
        "Scores by subgroup",
        "Scores on scans balanced for a confound",
    ):
        assert title in report
