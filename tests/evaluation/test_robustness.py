"""Perturbed scans: what changes, what stays, and that scores are those of the perturbed scans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hub import tiny
from transformers import AutoModelForCausalLM, AutoProcessor

from fmri_lm_hf.evaluation.evaluate import evaluate, hold_site_out
from fmri_lm_hf.evaluation.report import robustness_parts
from fmri_lm_hf.evaluation.robustness import PERTURBATIONS, perturb
from fmri_lm_hf.evaluation.tasks import Task
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.simulation import Effect, Site, iter_cohort

TASK = Task("sex", "sex", ("What is the sex ?",), {"female": "female", "male": "male"})


def scan(n_timepoints: int = 200, t_r: float = 2.0, n_rois: int = 6) -> dict:
    """Slow waves and a mean of each ROI's own."""
    times = np.arange(n_timepoints) * t_r
    phases = np.linspace(0, 3, n_rois)
    bold = np.sin(2 * np.pi * 0.02 * times[:, None] + phases) + 10 * phases
    return {"bold": bold.astype(np.float32), "t_r": t_r, "scan_id": "s"}


@pytest.mark.parametrize("t_r", PERTURBATIONS["t_r"].levels)
def test_another_repetition_time_samples_the_same_waves(t_r):
    found = perturb("t_r", t_r, 0, scan(), 0)
    times = np.arange(len(found["bold"])) * t_r
    expected = np.sin(2 * np.pi * 0.02 * times[:, None] + np.linspace(0, 3, 6)) + 10 * np.linspace(0, 3, 6)
    inner = slice(5, -5)
    np.testing.assert_allclose(found["bold"][inner], expected[inner], atol=0.05)
    assert found["t_r"] == t_r
    assert len(found["sample_mask"]) == len(found["bold"])
    assert len(found["bold"]) * t_r == pytest.approx(400, abs=2 * t_r + 2)


def test_censored_points_stay_censored_where_time_is_cut_or_resampled():
    mask = np.ones(200, dtype=bool)
    mask[100:140] = False
    for kind, level in (("t_r", 1.0), ("t_r", 3.0)):
        found = perturb(kind, level, 0, {**scan(), "sample_mask": mask}, 0)["sample_mask"]
        assert (~found).mean() == pytest.approx(0.2, abs=0.02)
    assert perturb("length", 0.6, 0, {**scan(), "sample_mask": mask}, 0)["sample_mask"].tolist() == mask[:120].tolist()


def test_noise_and_motion_have_the_given_size():
    long = scan(20_000)
    added = perturb("noise", 2.0, 0, long, 0)["bold"] - long["bold"]
    np.testing.assert_allclose(added.std(0) / long["bold"].std(0), 2.0, rtol=0.03)
    assert np.abs(np.corrcoef(added.T) - np.eye(6)).max() < 0.05
    moved = perturb("motion", 0.05, 0, long, 0)["bold"] - long["bold"]
    assert (np.abs(moved[:, 0]) > 0.1).mean() == pytest.approx(2 * 0.05, abs=0.01)  # two volumes each
    assert np.abs(np.corrcoef(moved.T)).min() > 0.99  # of the whole head


def test_missing_rois_are_masked_and_further_ones_the_same():
    masks = [perturb("missing_rois", level, 0, scan(), 3)["roi_mask"] for level in (0.0, 0.34, 0.67)]
    assert [mask.sum() for mask in masks] == [6, 4, 2]
    assert not (masks[2] & ~masks[1]).any()
    known = np.array([True, True, True, True, False, False])
    found = perturb("missing_rois", 0.5, 0, {**scan(), "roi_mask": known}, 0)
    assert found["roi_mask"].sum() == 2
    assert not (found["roi_mask"] & ~known).any()
    assert np.isnan(found["bold"][:, ~found["roi_mask"]]).all()


def test_a_perfusion_scan_is_slow_and_noisy():
    slow = perturb("t_r", 4.0, 0, scan(2000), 0)
    found = perturb("modality", 1.0, 0, scan(2000), 0)
    assert found["t_r"] == 4.0
    assert len(found["bold"]) == len(slow["bold"]) == len(found["sample_mask"])
    added = found["bold"] - slow["bold"]
    np.testing.assert_allclose(added.std(0) / slow["bold"].std(0), 1.0, rtol=0.1)


def test_larger_parcels_are_means_of_neighbours_in_a_network():
    whole = scan()
    networks = ("A", "B", "A", "A", "B", "A")
    found = perturb("atlas", 2, 0, whole, 0, networks)
    assert found["roi_mask"].tolist() == [True, True, False, True, False, False]
    expected = [whole["bold"][:, rois].mean(1) for rois in ([0, 2], [1, 4], [3, 5])]
    np.testing.assert_allclose(found["bold"][:, [0, 1, 3]], np.stack(expected, 1), rtol=1e-6)
    assert np.isnan(found["bold"][:, ~found["roi_mask"]]).all()
    # what is missing is in no mean
    known = np.array([True, True, False, True, True, True])
    found = perturb("atlas", 2, 0, {**whole, "roi_mask": known}, 0, networks)
    np.testing.assert_allclose(found["bold"][:, 0], whole["bold"][:, [0, 3]].mean(1), rtol=1e-6)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_changes_every_scan(name):
    networks = ("A", "B", "A", "A", "B", "A")
    for level in PERTURBATIONS[name].levels:
        if (name, level) == ("t_r", scan()["t_r"]):
            continue
        for row in range(3):
            bold = perturb(name, level, 0, scan(), row, networks)["bold"]
            assert not np.array_equal(bold, scan()["bold"]), (level, row)


@pytest.mark.parametrize("name", ["noise", "motion", "missing_rois", "modality"])
def test_seed_and_row_decide_what_is_drawn(name):
    level = PERTURBATIONS[name].levels[-1]

    def drawn(seed, row):
        return np.nan_to_num(perturb(name, level, seed, scan(n_rois=40), row)["bold"]).tobytes()

    assert drawn(0, 0) == drawn(0, 0)
    assert len({drawn(0, 0), drawn(0, 1), drawn(1, 0), drawn(2, 0)}) == 4


def test_curves_are_the_scores_of_the_perturbed_scans(checkpoint, tmp_path, monkeypatch):
    effects = [Effect("sex", (("A", "B"),), (0.4,))]
    sites = [Site("A", 10, n_timepoints=60), Site("B", 14, n_timepoints=60)]
    write_scan_dataset(iter_cohort(tiny.atlas(), sites, effects), tmp_path / "scans", tiny.atlas())
    scans = load_scan_dataset(tmp_path / "scans")[0]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    splits = hold_site_out(scans, "B")
    results = evaluate(
        model,
        processor,
        scans,
        {"sex": TASK},
        splits,
        ["majority"],
        n_robustness=10,
        seed=3,
        confounding=False,
    )
    found = results["robustness"]
    assert found["n_scans"] == 10
    assert set(found["changes"]) == set(PERTURBATIONS)
    rows = [row for row, site in enumerate(scans["site"]) if site == "B"][:10]
    worse = [perturb("noise", 2.0, 3, scans.with_format("numpy")[row], row) for row in rows]
    kept = [scans[row] for row, site in enumerate(scans["site"]) if site == "A"]
    write_scan_dataset(
        [{**row, "bold": np.asarray(row["bold"])} for row in [*kept, *worse]],
        tmp_path / "worse",
        tiny.atlas(),
    )
    directly = evaluate(
        model,
        processor,
        load_scan_dataset(tmp_path / "worse")[0],
        {"sex": TASK},
        splits,
        ["majority"],
        confounding=False,
    )
    at = next(each for each in found["changes"]["noise"]["levels"] if each["level"] == 2.0)
    scores = directly["tasks"]["sex"]["fmri_lm"]
    assert at["tasks"]["sex"]["balanced_accuracy"] == pytest.approx(scores["balanced_accuracy"])
    assert at["tasks"]["sex"]["auc"] == pytest.approx(scores["auc"], abs=1e-6)
    # nothing changes: the same answers
    nothing = {
        "noise": replace(PERTURBATIONS["noise"], levels=(0.0,)),
        "length": replace(PERTURBATIONS["length"], levels=(0.05,)),
    }
    monkeypatch.setattr("fmri_lm_hf.evaluation.robustness.PERTURBATIONS", PERTURBATIONS | nothing)
    again = evaluate(model, processor, scans, {"sex": TASK}, splits, ["majority"], n_robustness=10, confounding=False)[
        "robustness"
    ]
    same = again["changes"]["noise"]["levels"][0]["tasks"]["sex"]
    assert same["same_answer"] == 1.0
    assert same["balanced_accuracy"] == again["as_they_are"]["sex"]["balanced_accuracy"]
    # scans that are too short by then are said to be
    (short,) = again["changes"]["length"]["levels"]
    assert short["unread"] == 1.0
    assert "too short" in short["reason"]
    page = "".join(robustness_parts(again))
    assert "Degraded scans" in page
    assert "too short" in page
    assert robustness_parts(None) == []
