"""The snippets of docs/guides/evaluation.md run as they stand, and name what is there."""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import yaml
from hub import tiny

from fmri_lm_hf.evaluation import EvaluationReport, load_tasks
from fmri_lm_hf.evaluation.evaluate import hold_site_out
from fmri_lm_hf.evaluation.predictors import PREDICTORS
from fmri_lm_hf.evaluation.tasks import COHORTS
from fmri_lm_hf.files import write_json
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "evaluation.md").read_text(encoding="utf-8")


def snippet(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return text


def test_the_snippet_runs_after_a_demo(checkpoint, tmp_path, monkeypatch, capsys):
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
        for i in range(40)
    ]
    demo = tmp_path / "demo_output"
    write_scan_dataset(rows, demo / "scans", tiny.atlas())
    write_json(hold_site_out(load_scan_dataset(demo / "scans")[0], "B").to_dict(), demo / "corpus" / "splits.json")
    shutil.copytree(checkpoint, demo / "model")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(snippet("python"), "docs/guides/evaluation.md", "exec"), names)
    assert names["again"] == names["report"]
    assert "fMRI-LM shown another scan" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert written == {"report.html", "results.json", "results.csv", "tripod.md"}
    assert all(f"`evaluation/{name}`" in GUIDE or f"`{name}`" in GUIDE for name in written)


def test_the_task_file_is_one():
    tasks = load_tasks(yaml.safe_load(snippet("yaml")))
    assert list(tasks) == ["diagnosis", "age", "person.sex", "person.diagnosis"]
    assert tasks["diagnosis"].forbidden == ("symptom_score",)
    assert (tasks["age"].kind, tasks["age"].classes) == ("regression", ["young", "in between", "old"])
    assert len(tasks["age"].ask) == 200
    assert tasks["person.diagnosis"].column == "dx_group"


def test_predictors_keys_and_cohorts_are_named_as_they_are():
    prose = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", prose))))
    assert named >= {*PREDICTORS, *COHORTS}
    keys = {"confounding", "subgroups", "conformal", "history"}
    assert named >= keys
    assert {each.name for each in fields(EvaluationReport)} >= keys
