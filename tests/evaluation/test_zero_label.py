"""A hypothesis in words answers a task without labels: as its pipeline does, in the direction it states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fmri_lm_hf
from fmri_lm_hf import Atlas
from fmri_lm_hf.evaluation.evaluate import evaluate, hold_site_out
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.predictors import agreement_of_classes
from fmri_lm_hf.evaluation.results import EvaluationConfig
from fmri_lm_hf.evaluation.tasks import Task
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.simulation import Effect, Site, iter_cohort

NETWORKS = ("default", "visual", "motor", "limbic")
ATLAS = Atlas("four", tuple(f"roi-{i}" for i in range(24)), tuple(NETWORKS[i // 6] for i in range(24)))
STRONGER = "stronger connectivity between default and visual; stronger connectivity between motor and limbic"
TASK = Task(
    "diagnosis",
    "diagnosis",
    ("What is the diagnosis?",),
    {"patient": "patient", "control": "control"},
    hypothesis={"patient": STRONGER},
)
ZERO_LABEL = ["hypothesis", "hypothesis_direct"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    effects = [Effect("diagnosis", (("default", "visual"), ("motor", "limbic")), (0.5, 0.5))]
    sites = [Site("A", 12, n_timepoints=120), Site("B", 60, n_timepoints=160)]
    rows = iter_cohort(ATLAS, sites, effects)
    return load_scan_dataset(write_scan_dataset(rows, tmp_path_factory.mktemp("scans"), ATLAS))[0]


@pytest.fixture(scope="module")
def bundled():
    return fmri_lm_hf.load_bundled_model(ATLAS)


def evaluated(bundled, scans, task):
    splits = hold_site_out(scans, "B")
    config = EvaluationConfig(ZERO_LABEL, confounding=False)
    results = evaluate(*bundled, scans, {"diagnosis": task}, splits, config)
    return results.tasks["diagnosis"], results


def test_a_hypothesis_separates_groups_without_labels_in_its_direction(bundled, scans):
    scores, results = evaluated(bundled, scans, TASK)
    assert scores["hypothesis_direct"]["auc"] > 0.85
    assert scores["hypothesis"]["auc"] > 0.7
    opposite, _ = evaluated(bundled, scans, replace(TASK, hypothesis={"control": STRONGER}))
    for name in ZERO_LABEL:
        assert opposite[name]["auc"] == pytest.approx(1 - scores[name]["auc"], abs=0.01)  # ties
    weaker = replace(TASK, hypothesis={"patient": STRONGER.replace("stronger", "weaker")})
    assert evaluated(bundled, scans, weaker)[0]["hypothesis_direct"]["auc"] < 0.15
    # a baseline that needs no label is one that the model has to beat
    assert results.verdict["diagnosis"]["differences"]["hypothesis_direct"]["kind"] == "baseline"


def test_no_label_of_a_training_scan_takes_part(bundled, scans):
    draw = np.random.default_rng(0)
    groups, sites = list(scans["diagnosis"]), list(scans["site"])
    shuffled = [draw.choice(["control", "patient"]) if site == "A" else group for group, site in zip(groups, sites)]
    other = scans.remove_columns("diagnosis").add_column("diagnosis", list(map(str, shuffled)))
    before, after = evaluated(bundled, scans, TASK)[0], evaluated(bundled, other, TASK)[0]
    for name in ZERO_LABEL:
        assert after[name]["auc"] == before[name]["auc"]


def test_a_task_without_hypothesis_is_none_of_their_business(bundled, scans):
    scores, results = evaluated(bundled, scans, replace(TASK, hypothesis={}))
    assert set(scores) == {"fmri_lm"}
    assert results.left_out == {"diagnosis": {}}


def test_a_task_declares_its_hypothesis():
    declared = TASK.to_dict()
    assert declared["hypothesis"] == {"patient": STRONGER}
    assert Task.from_dict("diagnosis", declared) == TASK
    with pytest.raises(ValueError, match=r"`hypothesis` .* is about healthy; its answers are control, patient"):
        Task.from_dict("diagnosis", {**declared, "hypothesis": {"healthy": STRONGER}})
    with pytest.raises(Unavailable, match="No training scan has an answer"):
        agreement_of_classes({}, ["a", "b"])


def test_classes_without_hypothesis_share_what_is_left():
    found = agreement_of_classes({"a": np.array([0.8, 0.5]), "b": np.array([0.4, 0.5])}, ["a", "b", "c"])
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found[0], np.array([0.8, 0.4, 0.2]) / 1.4)
    np.testing.assert_allclose(agreement_of_classes({"b": np.array([0.7])}, ["a", "b"]), [[0.3, 0.7]])
