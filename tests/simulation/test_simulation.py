"""Simulated cohorts: reproducible, balanced, band-limited, of known difficulty."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
import pytest

from fmri_lm_hf.evaluation import connectivity_features, fisher_z_connectivity, fit_logistic
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.simulation import Effect, Site, Variability, default_effects, iter_cohort, simulate_cohort

NETWORKS = ("visual", "motor", "default", "control", "limbic", "salience")


def make_atlas(n_rois: int = 48, networks: tuple[str, ...] = NETWORKS) -> Atlas:
    return Atlas(
        name="test",
        roi_names=tuple(f"roi-{i}" for i in range(n_rois)),
        networks=tuple(networks[i * len(networks) // n_rois] for i in range(n_rois)),
    )


def take(n: int, **options) -> list[dict]:
    return list(islice(iter_cohort(make_atlas(), **options), n))


def test_same_seed_same_bytes_and_other_seed_other_scans():
    sites = [Site("A", 3, n_timepoints=40)]
    first, again = take(3, sites=sites, seed=5), take(3, sites=sites, seed=5)
    other = take(3, sites=sites, seed=6)
    for row, same in zip(first, again, strict=True):
        assert row["bold"].tobytes() == same["bold"].tobytes()
        assert {k: v for k, v in row.items() if k != "bold"} == {k: v for k, v in same.items() if k != "bold"}
    assert first[0]["bold"].tobytes() != other[0]["bold"].tobytes()


def test_a_subject_does_not_depend_on_who_else_is_simulated():
    alone = take(9, sites=[Site("B", 2, n_timepoints=40)], scans_per_subject=1)
    crowd = take(99, sites=[Site("A", 5), Site("B", 9, n_timepoints=40)], scans_per_subject=2)
    among = [row for row in crowd if row["site"] == "B" and row["session"] == "ses-1"]
    for row, same in zip(alone, among, strict=False):
        assert row["scan_id"] == same["scan_id"]
        assert row["bold"].tobytes() == same["bold"].tobytes()
        assert (row["sex"], row["diagnosis"], row["age"]) == (same["sex"], same["diagnosis"], same["age"])


def test_dataset_has_the_form_of_a_scan_dataset():
    sites = [Site("A", 4), Site("B", 4, t_r=0.8, n_timepoints=200)]
    cohort = simulate_cohort(make_atlas(), sites, scans_per_subject=2)
    data = cohort.dataset
    assert len(data) == len(set(data["scan_id"])) == 16
    assert len(set(data["subject_id"])) == 8
    assert data.features["bold"].dtype == "float32"
    rows = data.with_format("numpy")
    assert rows[0]["bold"].shape == (160, 48)
    assert rows[15]["bold"].shape == (200, 48)
    assert (data[15]["t_r"], data[15]["n_timepoints"], data[15]["site"]) == (0.8, 200, "B")
    assert all(len(mask) == 48 and all(mask) for mask in data["roi_mask"])
    assert all(fd > 0 for fd in data["mean_fd"])
    streamed = list(iter_cohort(make_atlas(), sites, scans_per_subject=2))
    assert [row["scan_id"] for row in streamed] == data["scan_id"][:]
    assert np.array_equal(rows[5]["bold"], streamed[5]["bold"])


def test_labels_are_balanced_and_independent_by_default():
    rows = take(400, sites=[Site("A", 400, n_timepoints=30)], variability=Variability(0, 0, 0))
    sex = np.array([row["sex"] == "male" for row in rows], dtype=float)
    diagnosis = np.array([row["diagnosis"] == "patient" for row in rows], dtype=float)
    assert sex.mean() == diagnosis.mean() == 0.5
    assert np.corrcoef(sex, diagnosis)[0, 1] == 0
    for nuisance in ("age", "mean_fd"):
        values = [row[nuisance] for row in rows]
        assert abs(np.corrcoef(sex, values)[0, 1]) < 0.15
        assert abs(np.corrcoef(diagnosis, values)[0, 1]) < 0.15


@pytest.mark.parametrize("t_r", [0.72, 2.0])
def test_signal_stays_in_its_band(t_r):
    site = Site("A", 1, t_r=t_r, n_timepoints=400, noise=0.0, motion=0.0)
    bold = take(1, sites=[site])[0]["bold"]
    power = np.abs(np.fft.rfft(bold * np.hanning(400)[:, None], axis=0)) ** 2
    frequency = np.fft.rfftfreq(400, t_r)
    inside = (frequency > 0.006) & (frequency < 0.104)
    assert power[inside].sum() > 0.99 * power.sum()


def test_gain_scales_and_noise_and_motion_disturb():
    quiet = {"n_subjects": 1, "noise": 0.0, "motion": 0.0}
    plain, loud, noisy, moving = (
        take(1, sites=[site])[0]
        for site in (
            Site("A", **quiet),
            Site("A", **quiet, gain=3.0),
            Site("A", **{**quiet, "noise": 1.0}),
            Site("A", **{**quiet, "motion": 0.15}),
        )
    )
    np.testing.assert_allclose(loud["bold"], 3 * plain["bold"], rtol=1e-5)
    added = noisy["bold"].std() ** 2 / plain["bold"].std() ** 2
    assert 1.6 < added < 2.4
    assert plain["mean_fd"] == 0
    assert moving["mean_fd"] > 0.05
    residual = (moving["bold"] - plain["bold"])[:, 0]
    assert np.abs(residual).max() > 5 * np.median(np.abs(residual))  # artefacts are few and large


def test_planted_effect_moves_its_network_pair_and_no_other():
    atlas = make_atlas()
    effects = [Effect("diagnosis", (("visual", "motor"),), (0.5,))]
    rows = take(60, sites=[Site("A", 60)], effects=effects, variability=Variability(0.05, 0.05, 0.1))
    networks = np.array(atlas.networks)

    def mean_difference(first: str, second: str) -> float:
        block = np.ix_(networks == first, networks == second)
        values = {level: [] for level in ("patient", "control")}
        for row in rows:
            values[row["diagnosis"]].append(fisher_z_connectivity(row["bold"])[block].mean())
        return np.mean(values["patient"]) - np.mean(values["control"])

    assert mean_difference("visual", "motor") > 0.1
    assert abs(mean_difference("default", "limbic")) < 0.04


def test_subjects_keep_their_connectivity_between_scans():
    rows = take(40, sites=[Site("A", 20, n_timepoints=300)], scans_per_subject=2)
    features = connectivity_features(row["bold"] for row in rows)
    features -= features.mean(0)
    similarity = np.corrcoef(features)
    same = [similarity[i, i + 1] for i in range(0, 40, 2)]
    other = [similarity[i, j] for i in range(0, 40, 2) for j in range(i + 2, 40)]
    assert np.mean(same) > np.mean(other) + 0.2


@pytest.mark.slow
def test_default_difficulty_and_speed():
    """Logistic regression on connectivity about 0.80 on the unseen site, the oracle somewhat above."""
    start = time.process_time()
    cohort = simulate_cohort(Atlas.load("dosenbach_2010"))
    assert time.process_time() - start < 20
    site = np.array(cohort.dataset["site"])
    train, test = np.flatnonzero(site == "A"), np.flatnonzero(site == "B")
    features = connectivity_features(cohort.dataset.with_format("numpy")["bold"])
    oracle = cohort.oracle_scores(cohort.dataset.select(test))
    linear = []
    for task in ("sex", "diagnosis"):
        labels = np.array(cohort.dataset[task])
        prediction = fit_logistic(features[train], labels[train], features[test])
        linear.append(prediction.score(labels[test])["balanced_accuracy"])
        assert 0.80 < oracle[task]["balanced_accuracy"] < 0.90
    assert 0.76 < np.mean(linear) < 0.84
    assert oracle["age"]["pearson"] > 0.6


def test_oracle_beats_chance_on_few_scans_and_reports_every_task():
    effects = default_effects(make_atlas(), strength=0.8)
    cohort = simulate_cohort(make_atlas(), [Site("A", 40), Site("B", 40, gain=3, noise=1)], effects)
    scores = cohort.oracle_scores()
    assert set(scores) == {"sex", "diagnosis", "age"}
    assert scores["sex"]["balanced_accuracy"] > 0.85
    assert scores["diagnosis"]["auc"] > 0.9
    without = simulate_cohort(make_atlas(), [Site("A", 80)], default_effects(make_atlas(), strength=0.0))
    np.testing.assert_allclose(without.oracle_scores()["sex"]["auc"], 0.5)


def test_oracle_measures_observed_time_points_alone():
    """Scans with a stretch of artefact score as they do without it, where `sample_mask` leaves it out."""
    atlas = make_atlas()
    cohort = simulate_cohort(atlas, [Site("A", 24, n_timepoints=120)], default_effects(atlas, strength=0.8))
    draw = np.random.default_rng(0)
    kept = np.arange(120) < 90

    def shorter(row):
        return {"bold": np.asarray(row["bold"])[kept], "n_timepoints": 90}

    def censored(row, given=True):
        bold = np.array(row["bold"])
        bold[~kept] = 30 * draw.normal() * np.linspace(-1, 1, 30)[:, None]  # moves all ROIs alike
        return {"bold": bold, "sample_mask": kept if given else None}

    scores = [cohort.oracle_scores(cohort.dataset.map(change)) for change in (shorter, censored)]
    assert scores[0] == scores[1]
    assert cohort.oracle_scores(cohort.dataset.map(lambda row: censored(row, given=False))) != scores[0]


def test_default_effects_are_on_pairs_of_their_own_and_of_both_signs():
    effects = default_effects(make_atlas())
    pairs = [pair for effect in effects for pair in effect.pairs]
    assert len(pairs) == len(set(pairs)) == 12
    assert all(min(effect.strengths) < 0 < max(effect.strengths) for effect in effects)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Site("", 3), "expected a name"),
        (lambda: Site("A", 0), "n_subjects=0 found, expected at least 1"),
        (lambda: Site("A", 3, t_r=6.0), r"t_r=6.0 s found, expected more than 0 and less than 5 s"),
        (lambda: Site("A", 3, n_timepoints=20), r"40 s, expected at least 60 s \(30 volumes\)"),
        (lambda: Site("A", 3, gain=0), "gain=0 found, expected a number above 0"),
        (lambda: Site("A", 3, noise=-1), "noise=-1 found, expected 0 or more"),
        (lambda: Site("A", 3, motion=float("nan")), "motion=nan found"),
        (lambda: Variability(trait=-0.1), r"Variability\(trait=-0.1\) found"),
        (lambda: Effect("height", (("a", "b"),), (1.0,)), "'height'.*expected one of 'sex'"),
        (lambda: Effect("sex", (("a", "b"),), (1.0, 2.0)), "1 network pairs and 2 strengths"),
        (lambda: Effect("sex", (("a", "a"),), (1.0,)), "expected two different networks"),
        (lambda: default_effects(make_atlas(8, ("one", "two"))), "2 named networks .* at least 3"),
        (
            lambda: iter_cohort(make_atlas(), effects=[Effect("sex", (("visual", "moon"),), (1.0,))]),
            "does not have: moon; expected some of: visual",
        ),
        (
            lambda: iter_cohort(make_atlas(), sites=[Site("A", 2), Site("A", 2)]),
            "each with a name of its own",
        ),
        (lambda: iter_cohort(make_atlas(), scans_per_subject=0), "scans_per_subject=0 found"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
