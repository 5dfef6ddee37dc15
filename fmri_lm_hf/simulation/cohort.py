"""Simulate cohorts with known ground truth, as a dataset or one scan after the other."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..descriptors.connectivity import fisher_z_connectivity
from ..evaluation.metrics import score_classification
from ..models.atlas import Atlas
from .population import (
    AGE_RANGE,
    PHENOTYPES,
    Effect,
    Population,
    Site,
    Variability,
    default_effects,
    motion_artefact,
    simulate_bold,
    simulate_displacement,
)

if TYPE_CHECKING:
    import datasets


DEFAULT_SITES = (Site("A", 800), Site("B", 300, gain=1.8, noise=0.8))
# Purposes of random generators: each has a stream of its own, so that a draw more in one leaves the others unchanged.
SITE, LABELS, SUBJECT, SCAN = range(4)


@dataclass(frozen=True)
class SimulatedCohort:
    """A simulated cohort and its planted effects.

    Attributes
    ----------
    dataset : datasets.Dataset
        Scans in the form of a scan dataset, with the phenotypes `sex`, `diagnosis` and `age`.
    atlas : Atlas
        ROIs of the columns of `bold`.
    effects : tuple of Effect
        The ground truth: the network pairs that each phenotype changes, and by how much.
    sites : tuple of Site
        Sites of the scans.
    """

    dataset: datasets.Dataset
    atlas: Atlas
    effects: tuple[Effect, ...]
    sites: tuple[Site, ...]

    def oracle_scores(self, dataset: datasets.Dataset | None = None) -> dict[str, dict[str, float | None]]:
        """Score the oracle, which knows the planted effects; see :func:`oracle_scores`.

        Parameters
        ----------
        dataset : datasets.Dataset, optional
            Scans to score, such as the held-out site; the whole cohort when None.
        """
        return oracle_scores(self.dataset if dataset is None else dataset, self.atlas, self.effects)


def simulate_cohort(
    atlas: Atlas | None = None,
    sites: Sequence[Site] = DEFAULT_SITES,
    effects: Sequence[Effect] | None = None,
    scans_per_subject: int = 1,
    variability: Variability | None = None,
    seed: int = 0,
) -> SimulatedCohort:
    """Simulate a cohort in memory.

    Sex and diagnosis are balanced within every four subjects of a site, and independent of each other, of age, of
    the site and of motion. The difficulty of the defaults is known: logistic regression on connectivity, fitted to
    the 800 scans of site A, reaches a balanced accuracy of about 0.80 on the 300 scans of site B, and the oracle that
    knows the network pairs about 0.85.

    Parameters
    ----------
    atlas : Atlas, optional
        Any atlas with networks; the 160 regions of Dosenbach 2010 when None.
    sites : sequence of Site
        Sites of the scans, with number of subjects, gain, noise and TR.
    effects : sequence of Effect, optional
        Effects of sex, diagnosis and age; :func:`default_effects` of the atlas when None.
    scans_per_subject : int, default=1
        Sessions of each subject.
    variability : Variability, optional
        Variability of subjects and scans.
    seed : int, default=0
        Equal seeds give equal bytes. The scans of a subject depend on the seed, the settings of the site and the number
        of the subject only: a larger cohort begins with the smaller one, site by site.

    Examples
    --------
    >>> cohort = simulate_cohort(sites=[Site("A", 8), Site("B", 4, t_r=0.8, n_timepoints=400)], seed=1)
    >>> cohort.dataset.unique("site")
    ['A', 'B']
    """
    import datasets

    atlas = Atlas.load("dosenbach_2010") if atlas is None else atlas
    effects = default_effects(atlas) if effects is None else tuple(effects)
    rows = list(iter_cohort(atlas, sites, effects, scans_per_subject, variability, seed))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    dataset = datasets.Dataset.from_dict(columns, features=cohort_features(atlas.n_rois))
    return SimulatedCohort(dataset, atlas, tuple(effects), tuple(sites))


def iter_cohort(
    atlas: Atlas,
    sites: Sequence[Site] = DEFAULT_SITES,
    effects: Sequence[Effect] | None = None,
    scans_per_subject: int = 1,
    variability: Variability | None = None,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yield the scans of :func:`simulate_cohort` one after the other, for cohorts of any size.

    Yields
    ------
    dict
        A row of a scan dataset; `bold` is a float32 array of shape (n_timepoints, n_rois).
    """
    names = [site.name for site in sites]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Sites named {names} found, expected at least one site, each with a name of its own.")
    if scans_per_subject < 1:
        raise ValueError(f"scans_per_subject={scans_per_subject} found, expected at least 1.")
    # Returns a generator and is none itself: wrong arguments are errors of the call, not of the first scan.
    population = Population(atlas, default_effects(atlas) if effects is None else effects)
    variability = Variability() if variability is None else variability
    return (
        row
        for site in sites
        for subject in range(site.n_subjects)
        for row in _subject_scans(population, site, subject, scans_per_subject, variability, seed)
    )


def cohort_features(n_rois: int) -> datasets.Features:
    """Return the features of a simulated scan dataset."""
    from datasets import Array2D, Features, List, Value

    types = {
        **dict.fromkeys(("scan_id", "subject_id", "session", "site"), Value("string")),
        "t_r": Value("float64"),
        "n_timepoints": Value("int64"),
        "bold": Array2D((None, n_rois), "float32"),
        "roi_mask": List(Value("bool")),
        "mean_fd": Value("float64"),
        **dict.fromkeys(PHENOTYPES, Value("string")),
        "age": Value("float64"),
    }
    return Features(types)


def _generator(seed: int, purpose: int, site: Site, *numbers: int) -> np.random.Generator:
    # By the name of the site, not its position; and not by `hash`, which differs between processes.
    key = (purpose, zlib.crc32(site.name.encode()), *numbers)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _subject_labels(site: Site, subject: int, seed: int) -> tuple[str, str]:
    """Draw sex and diagnosis: each of the four combinations once in every four subjects, in random order."""
    order = _generator(seed, LABELS, site, subject // 4).permutation(4)[subject % 4]
    return PHENOTYPES["sex"][order // 2], PHENOTYPES["diagnosis"][order % 2]


def _subject_scans(
    population: Population,
    site: Site,
    subject: int,
    scans_per_subject: int,
    variability: Variability,
    seed: int,
) -> Iterator[dict[str, Any]]:
    n_rois, n_networks = population.loadings.shape
    # The same for every subject of a site, which makes scanners recognisable, as real ones are.
    roi_gain = site.gain * np.exp(0.15 * _generator(seed, SITE, site).standard_normal(n_rois))
    # Drawn once for a subject: labels, traits, topography and restlessness; for each scan: state, noise and motion.
    sex, diagnosis = _subject_labels(site, subject, seed)
    rng = _generator(seed, SUBJECT, site, subject)
    age = round(float(rng.uniform(*AGE_RANGE)), 1)
    trait_z = population.expected_z(sex, diagnosis, age) + variability.trait * _symmetric_normal(n_networks, rng)
    loadings = population.loadings + variability.topography * rng.standard_normal((n_rois, n_networks))
    restlessness = site.motion * rng.lognormal(0.0, 0.4)
    subject_id = f"sub-{site.name}{subject + 1:04d}"
    for session in range(scans_per_subject):
        rng = _generator(seed, SCAN, site, subject, session)
        z = trait_z + variability.state * _symmetric_normal(n_networks, rng)
        bold = simulate_bold(z, loadings, population, site, rng)
        bold += site.noise * rng.standard_normal(bold.shape)
        displacement = simulate_displacement(restlessness * rng.lognormal(0.0, 0.2), site.n_timepoints, rng)
        bold += motion_artefact(displacement, n_rois, rng)
        yield {
            "scan_id": f"{subject_id}_ses-{session + 1}",
            "subject_id": subject_id,
            "session": f"ses-{session + 1}",
            "site": site.name,
            "t_r": float(site.t_r),
            "n_timepoints": site.n_timepoints,
            "bold": (roi_gain * bold).astype(np.float32),
            "roi_mask": [True] * n_rois,
            "mean_fd": float(displacement.mean()),
            "sex": sex,
            "diagnosis": diagnosis,
            "age": age,
        }


def _symmetric_normal(n: int, rng: np.random.Generator) -> np.ndarray:
    upper = np.triu(rng.standard_normal((n, n)), 1)
    return upper + upper.T


# The oracle, a predictor that knows the planted effects


def oracle_scores(
    dataset: datasets.Dataset, atlas: Atlas, effects: Sequence[Effect]
) -> dict[str, dict[str, float | None]]:
    """Score the oracle, a predictor that knows which network pairs each phenotype changes, and by how much.

    Like any other predictor, it sees the connectivity of a scan with its noise and motion, over the observed time
    points. The score of a scan is the sum, over the planted pairs, of the mean Fisher z of the block of ROIs, weighted
    by the planted strength. Labels are balanced within a site, so the threshold is the median score of the scans of the
    site, which neither its gain nor its noise can shift. The remaining errors come from the variability of people and
    the shortness of scans, and no predictor from average connectivity can avoid them.

    Returns
    -------
    dict
        For each binary phenotype with an effect `{"accuracy", "balanced_accuracy", "auc"}`; for age `{"pearson"}`,
        the correlation of the score with age within sites.
    """
    tasks = [effect.phenotype for effect in effects]
    columns = [name for name in ("bold", "roi_mask", "sample_mask") if name in dataset.column_names]
    rows = dataset.with_format("numpy", columns=columns)
    scores = np.array([_scan_scores(row, atlas, effects) for row in rows])
    sites = np.array(dataset["site"])
    # The median of a site is its threshold: half of its labels are on either side.
    for site in np.unique(sites):
        scores[sites == site] -= np.median(scores[sites == site], axis=0)
    results: dict[str, Any] = {}
    for task in dict.fromkeys(tasks):
        score = scores[:, [name == task for name in tasks]].sum(1)
        if task == "age":
            ages = np.array(dataset["age"], dtype=float)
            defined = score.std() > 0 and ages.std() > 0
            results[task] = {"pearson": float(np.corrcoef(score, ages)[0, 1]) if defined else None}
        else:
            classes = PHENOTYPES[task]
            predictions = [classes[int(value > 0)] for value in score]
            results[task] = score_classification(list(dataset[task]), predictions, score, classes=classes)
    return results


def _scan_scores(scan: Mapping[str, Any], atlas: Atlas, effects: Sequence[Effect]) -> list[float]:
    """Compute the weighted sum over the pairs of each effect; a pair without a usable ROI adds nothing."""
    z = fisher_z_connectivity(scan["bold"], scan.get("roi_mask"), scan.get("sample_mask"))
    networks = np.array(atlas.networks)
    scores = []
    for effect in effects:
        blocks = [z[np.ix_(networks == first, networks == second)] for first, second in effect.pairs]
        means = [np.nanmean(block) if np.isfinite(block).any() else 0.0 for block in blocks]
        scores.append(float(np.dot(effect.strengths, means)))
    return scores
