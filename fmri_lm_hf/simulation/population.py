"""Sites, planted effects and population of a simulated cohort, and the simulation of one scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import fft

from ..models.atlas import Atlas

BAND = (0.01, 0.1)  # Hz; band of resting-state BOLD fluctuations
PHENOTYPES = {"sex": ("female", "male"), "diagnosis": ("control", "patient")}
AGE_RANGE = (20.0, 80.0)  # years, uniform
AGE_CENTRE, AGE_UNIT = 50.0, 20.0  # years; the strength of an age effect is the change over AGE_UNIT
# The population depends on the atlas alone. With the seed of the cohort in it, cohorts of different seeds would differ
# in their mean connectivity.
POPULATION_SEED = 20_101


@dataclass(frozen=True)
class Site:
    """A site where scans are acquired.

    Parameters
    ----------
    name : str
        Name in the column `site` and in scan ids.
    n_subjects : int
        Number of subjects.
    t_r : float, default=2.0
        Repetition time in seconds.
    n_timepoints : int, default=160
        Volumes of a scan.
    gain : float, default=1.0
        Scale of the scanner, which multiplies the whole series (besides a fixed factor for each ROI, SD about 15 %).
    noise : float, default=0.5
        SD of the white measurement noise; the band-limited BOLD signal has SD 1.
    motion : float, default=0.15
        Typical mean framewise displacement in mm; 0 for no motion.
    """

    name: str
    n_subjects: int
    t_r: float = 2.0
    n_timepoints: int = 160
    gain: float = 1.0
    noise: float = 0.5
    motion: float = 0.15

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("Site(name='') found, expected a name such as 'A'.")
        if self.n_subjects < 1:
            raise ValueError(f"Site {self.name!r}: n_subjects={self.n_subjects} found, expected at least 1.")
        nyquist_t_r = 1 / (2 * BAND[1])
        if not 0 < self.t_r < nyquist_t_r:
            raise ValueError(
                f"Site {self.name!r}: t_r={self.t_r} s found, expected more than 0 and less than {nyquist_t_r:g} s: "
                f"slower sampling cannot carry BOLD up to {BAND[1]} Hz."
            )
        shortest = math.ceil(60 / self.t_r)
        if self.n_timepoints < shortest:
            raise ValueError(
                f"Site {self.name!r}: n_timepoints={self.n_timepoints} at t_r={self.t_r:g} s is "
                f"{self.n_timepoints * self.t_r:g} s, expected at least 60 s ({shortest} volumes)."
            )
        if not self.gain > 0:
            raise ValueError(f"Site {self.name!r}: gain={self.gain} found, expected a number above 0.")
        for field in ("noise", "motion"):
            value = getattr(self, field)
            if not value >= 0:  # also refuses NaN
                raise ValueError(f"Site {self.name!r}: {field}={value} found, expected 0 or more.")


@dataclass(frozen=True)
class Effect:
    """The effect of a phenotype on the connectivity of some network pairs.

    Parameters
    ----------
    phenotype : {"sex", "diagnosis", "age"}
    pairs : tuple of (str, str)
        Pairs of different networks, named as in the atlas.
    strengths : tuple of float
        For each pair, the change of the correlation of its networks in units of Fisher z: male minus female, patient
        minus control, or, for age, over 20 years.
    """

    phenotype: str
    pairs: tuple[tuple[str, str], ...]
    strengths: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.phenotype not in (*PHENOTYPES, "age"):
            raise ValueError(f"Effect(phenotype={self.phenotype!r}) found, expected one of 'sex', 'diagnosis', 'age'.")
        if not self.pairs or len(self.pairs) != len(self.strengths):
            raise ValueError(
                f"The effect of {self.phenotype} has {len(self.pairs)} network pairs and {len(self.strengths)} "
                "strengths, expected one strength for each of at least one pair."
            )
        for first, second in self.pairs:
            if first == second:
                raise ValueError(
                    f"The effect of {self.phenotype} names the pair ({first!r}, {second!r}), expected two "
                    "different networks."
                )


@dataclass(frozen=True)
class Variability:
    """Variability between subjects, and between the scans of a subject.

    Parameters
    ----------
    trait : float
        SD of the Fisher z of each network pair between subjects, constant over the scans of a subject.
    state : float
        SD of the same between the scans of a subject.
    topography : float
        SD of the loading of each ROI on each network between subjects, constant over the scans of a subject.
    """

    trait: float = 0.12
    state: float = 0.08
    topography: float = 0.2

    def __post_init__(self) -> None:
        for field in ("trait", "state", "topography"):
            value = getattr(self, field)
            if not value >= 0:
                raise ValueError(f"Variability({field}={value}) found, expected 0 or more.")


def default_effects(atlas: Atlas, strength: float = 0.24) -> tuple[Effect, ...]:
    """Plant effects of sex, diagnosis and age on separate network pairs, positive and negative in turn.

    The pairs come from the (at most eight) largest networks, up to four for each phenotype.
    """
    sizes = {name: atlas.networks.count(name) for name in atlas.named_networks}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:8]
    pairs = list(combinations(largest, 2))
    if len(pairs) < 3:
        raise ValueError(
            f"Atlas {atlas.name!r} has {len(largest)} named networks ({', '.join(largest)}), expected at least 3 "
            "to choose effects on; pass `effects` of your own."
        )
    strengths = [strength * (-1) ** i for i in range(4)]
    effects = []
    for start, phenotype in enumerate(("sex", "diagnosis", "age")):
        chosen = tuple(pairs[start::3][:4])
        effects.append(Effect(phenotype, chosen, tuple(strengths[: len(chosen)])))
    return tuple(effects)


class Population:
    """The population of simulated subjects: mean network connectivity, ROI loadings and planted effects.

    Parameters
    ----------
    atlas : Atlas
        Its networks structure the covariance. An atlas always gives the same population.
    effects : sequence of Effect
        Effects of sex, diagnosis and age.
    """

    def __init__(self, atlas: Atlas, effects: Sequence[Effect]) -> None:
        self.atlas = atlas
        self.effects = tuple(effects)
        names = list(atlas.network_names)
        unknown = sorted({n for effect in effects for pair in effect.pairs for n in pair} - set(names))
        if unknown:
            raise ValueError(
                f"The effects name networks that atlas {atlas.name!r} does not have: {', '.join(unknown)}; "
                f"expected some of: {', '.join(names)}."
            )
        rng = np.random.default_rng([POPULATION_SEED, len(names), atlas.n_rois])
        upper = np.triu(rng.normal(0.1, 0.12, (len(names), len(names))), 1)
        self.base_z = upper + upper.T  # (n_networks, n_networks), Fisher z
        own = np.array([names.index(network) for network in atlas.networks])
        # Loadings of 0.5 to 0.8 leave 36 to 75 % of the variance of an ROI to itself.
        self.loadings = np.zeros((atlas.n_rois, len(names)))
        self.loadings[np.arange(atlas.n_rois), own] = rng.uniform(0.5, 0.8, atlas.n_rois)
        self.own_signal = np.sqrt(1 - (self.loadings**2).sum(1))  # SD of the part of an ROI that no other ROI shares
        self._effect_z = {phenotype: np.zeros_like(self.base_z) for phenotype in (*PHENOTYPES, "age")}
        for effect in effects:
            for (first, second), strength in zip(effect.pairs, effect.strengths, strict=True):
                i, j = names.index(first), names.index(second)
                self._effect_z[effect.phenotype][i, j] += strength
                self._effect_z[effect.phenotype][j, i] += strength

    def expected_z(self, sex: str, diagnosis: str, age: float) -> np.ndarray:
        """Compute the mean Fisher z of each network pair in people of this sex, diagnosis and age."""
        # Binary phenotypes add minus or plus half the strength, so that the population mean stays `base_z`.
        z = self.base_z + self._effect_z["age"] * (age - AGE_CENTRE) / AGE_UNIT
        for phenotype, value in (("sex", sex), ("diagnosis", diagnosis)):
            z = z + self._effect_z[phenotype] * (PHENOTYPES[phenotype].index(value) - 0.5)
        return z


# One scan: from the network connectivity of a subject to a BOLD series with motion

SPIKES_PER_VOLUME = 0.01
ARTEFACT_PER_MM = 1.5  # change in BOLD SDs for a displacement of 1 mm


def network_cholesky(z: np.ndarray) -> np.ndarray:
    """Compute the Cholesky factor of a correlation matrix near `tanh(z)`.

    Independent deviations of many pairs may give negative eigenvalues: those below 0.02 are raised to 0.02.
    """
    correlation = np.tanh(z)
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    covariance = (vectors * np.maximum(values, 0.02)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(covariance))
    return np.linalg.cholesky(covariance * scale[:, None] * scale)


def simulate_bold(
    z: np.ndarray, loadings: np.ndarray, population: Population, site: Site, rng: np.random.Generator
) -> np.ndarray:
    """Simulate band-limited BOLD (0.01-0.1 Hz, power falling as 1/f) of expected SD 1, without noise or motion.

    Parameters
    ----------
    z : ndarray of shape (n_networks, n_networks)
        Fisher z of the correlations of network signals in this scan.
    loadings : ndarray of shape (n_rois, n_networks)
        Loading of each ROI on each network signal in this subject.

    Returns
    -------
    ndarray of shape (n_timepoints, n_rois)
    """
    # An inverse FFT is periodic: a longer series is made and its end cut off, or the last volumes of a scan would
    # predict the first ones.
    n_long = fft.next_fast_len(site.n_timepoints + round(40 / site.t_r), real=True)
    frequencies = fft.rfftfreq(n_long, site.t_r)
    inside = np.flatnonzero((frequencies >= BAND[0]) & (frequencies <= BAND[1]))
    # Amplitudes for an expected SD of 1 in time: each frequency has a real and an imaginary part of variance 1.
    amplitude = 1 / np.sqrt(frequencies[inside])
    amplitude *= n_long / (2 * np.sqrt((amplitude**2).sum()))

    def complex_normal(n_columns: int) -> np.ndarray:
        parts = rng.standard_normal((2, len(inside), n_columns))
        return parts[0] + 1j * parts[1]

    networks = complex_normal(len(z)) @ network_cholesky(z).T
    own = complex_normal(len(loadings)) * population.own_signal
    spectrum = np.zeros((len(frequencies), len(loadings)), dtype=complex)
    spectrum[inside] = amplitude[:, None] * (networks @ loadings.T + own)
    return fft.irfft(spectrum, n_long, axis=0)[: site.n_timepoints]


def simulate_displacement(typical: float, n_timepoints: int, rng: np.random.Generator) -> np.ndarray:
    """Simulate framewise displacement in mm of shape (n_timepoints,): constant small movements and a few spikes."""
    displacement = typical * rng.gamma(2.0, 0.5, n_timepoints)
    spikes = rng.random(n_timepoints) < SPIKES_PER_VOLUME
    displacement += spikes * typical * rng.exponential(5.0, n_timepoints)
    displacement[0] = 0.0  # no volume before the first one
    return displacement


def motion_artefact(displacement: np.ndarray, n_rois: int, rng: np.random.Generator) -> np.ndarray:
    """Simulate the effect of movement on the series (n_timepoints, n_rois): mostly global, over two volumes."""
    excess = np.maximum(displacement - 0.2, 0.0)
    course = excess + 0.5 * np.concatenate([[0.0], excess[:-1]])
    weights = rng.choice([-1.0, 1.0]) * (1 + 0.3 * rng.standard_normal(n_rois))
    return ARTEFACT_PER_MM * course[:, None] * weights
