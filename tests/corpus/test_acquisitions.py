"""A scanner must not pass for a person, nor motion: references by site and repetition time, and robust directions."""

from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.corpus import CohortReference, reference, verbalise
from fmri_lm_hf.corpus.facts import OTHER_ACQUISITIONS, fact_measure, is_decided
from fmri_lm_hf.descriptors import FAMILIES, MEASURES, Acquisition
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.simulation import Site, iter_cohort

NETWORKS = ("Visual", "Motor", "Default", "Control", "Salience")
ATLAS = Atlas("toy", tuple(f"roi_{k}" for k in range(60)), tuple(NETWORKS[k // 12] for k in range(60)))
HOME = Site("home", 50)
FASTER = Site("faster", 20, t_r=0.8, n_timepoints=400)
OTHERS = [FASTER, Site("noisier", 20, gain=1.8, noise=0.8), Site("both", 20, 0.8, 400, gain=2.5, noise=0.8)]
SENSITIVE = {name for name, measure in MEASURES.items() if measure.needs_acquisition}


@pytest.fixture(scope="module")
def home() -> list[dict]:
    return list(iter_cohort(ATLAS, [HOME]))


@pytest.fixture(scope="module")
def cohort(home) -> CohortReference:
    return CohortReference.fit(home, ATLAS, n_components=8)


def facts_of(cohort: CohortReference, row: dict, **changes) -> list[dict]:
    row = row | changes
    features = cohort.compute(row["bold"], row["t_r"], sample_mask=row.get("sample_mask"), site=row["site"])
    return cohort.facts(features)


def mean_z(scans: list[list[dict]]) -> dict[str, float]:
    return {
        family: float(np.mean([abs(fact["z"]) for facts in scans for fact in facts if fact["family"] == family]))
        for family in FAMILIES
    }


@pytest.mark.parametrize("site", OTHERS, ids=lambda site: site.name)
def test_a_site_that_differs_by_its_scanner_alone_is_typical(cohort, site):
    scans = [facts_of(cohort, row) for row in iter_cohort(ATLAS, [site])]
    assert max(mean_z(scans).values()) < 1.0
    for facts in scans:
        assert {fact["relative_to"] for fact in facts} == {OTHER_ACQUISITIONS}
        assert not {fact_measure(fact) for fact in facts} & SENSITIVE
        assert verbalise(facts).split(",")[0].split()[-1] in ("scanners", "otherwise", "settings")


def test_scans_of_the_same_acquisition_are_compared_in_all_measures(cohort, home):
    facts = facts_of(cohort, home[0])
    assert {fact_measure(fact) for fact in facts} >= SENSITIVE
    assert all("relative_to" not in fact for fact in facts)
    unnamed = facts_of(cohort, home[0], site=None)  # known by its repetition time
    assert unnamed == facts
    assert all("relative_to" in fact for fact in facts_of(cohort, home[0], site=None, t_r=2.2))
    assert cohort.facts(dict(cohort.compute(home[0]["bold"], 2.0))) == facts  # a plain dict knows of no scanner


def test_each_acquisition_with_enough_scans_has_a_reference_of_its_own(home, monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "MIN_ACQUISITION_SCANS", 15)
    faster = list(iter_cohort(ATLAS, [FASTER]))
    few = [row | {"site": "few", "t_r": 1.5} for row in home[:5]]
    both = CohortReference.fit([*home, *faster, *few], ATLAS, n_components=8)
    both.save(tmp_path)
    both = CohortReference.load(tmp_path)
    assert {each: known.n_scans for each, known in both.by_acquisition.items()} == {
        Acquisition("home", 2.0): 50,
        Acquisition("faster", 0.8): 20,
    }
    assert both.n_scans == both.statistics.n_scans == 75
    for rows in (home, faster):
        z = [both.z_scores(both.compute(row["bold"], row["t_r"], site=row["site"])) for row in rows]
        table = np.array([list(each.values()) for each in z])
        np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(table.std(axis=0, ddof=1), 1, atol=1e-6)
    assert not both.knows(Acquisition("few", 1.5))
    assert not both.knows(Acquisition("faster", 2.0))


@pytest.mark.parametrize("kind", ["single points", "bursts"])
def test_censoring_turns_few_directions(cohort, kind):
    """Of the directions that texts may state, at most 5 % turn when 30 % of a scan are censored and filled in."""
    rng = np.random.default_rng(0)
    n_same = n_turned = 0
    for row in iter_cohort(ATLAS, [Site("home", 25)], seed=1):
        n_timepoints = len(row["bold"])
        observed = np.ones(n_timepoints, dtype=bool)
        while observed.mean() > 0.7:
            start = rng.integers(n_timepoints)
            observed[start : start + (1 if kind == "single points" else 5)] = False
        times = np.flatnonzero(observed)
        filled = [np.interp(np.arange(n_timepoints), times, column) for column in row["bold"][observed].T]
        whole = decided(facts_of(cohort, row))
        censored = decided(facts_of(cohort, row, bold=np.transpose(filled), sample_mask=observed))
        turned = [whole[name] != censored[name] for name in whole.keys() & censored.keys()]
        n_turned, n_same = n_turned + sum(turned), n_same + len(turned) - sum(turned)
    assert n_same > 500
    assert n_turned / (n_same + n_turned) < 0.05


def decided(facts: list[dict]) -> dict[str, str]:
    """Directions of the facts that texts choose from."""
    return {fact["feature"]: fact["direction"] for fact in facts if is_decided(fact)}
