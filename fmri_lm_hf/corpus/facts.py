"""Facts about a scan relative to a cohort, for programs, and the words that state them.

The grammar (`prose`) writes with the words below, and the checker (`check`) reads them: both need every word, so the
tables are here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, TypedDict

from ..descriptors import MEASURES, Feature, Measure

DIRECTION_THRESHOLD = 1.0
OTHER_ACQUISITIONS = "scans of other acquisitions"
PAIR_BIN = "connectivity/bin"  # of a network pair, relative to its own scan and not to a cohort
EXTREME_MEASURES = ("connectivity/strongest", "connectivity/weakest")

Direction = Literal["raised", "lowered", "typical"]


class _Statement(TypedDict):
    family: str
    feature: str
    network: list[str]
    value: float
    z: float
    direction: Direction
    units: str


class Fact(_Statement, total=False):
    """One statement about a scan.

    `feature` is the feature's full name, `network` its networks (none, one or two; the same one twice for a value
    within a network), `value` is in `units`, and `z` counts SDs from the cohort's mean. `relative_to` is set if the
    cohort has no scans of this site and repetition time: part of `z` may then be due to the scanner.
    """

    relative_to: str


def direction_of(z: float) -> Direction:
    """Return ``raised`` from one SD above the cohort's mean, ``lowered`` from one SD below it, else ``typical``."""
    if z >= DIRECTION_THRESHOLD:
        return "raised"
    return "lowered" if z <= -DIRECTION_THRESHOLD else "typical"


def is_decided(fact: Mapping) -> bool:
    """Whether a fact's direction would be the same if the scan were a little longer or shorter.

    Over fewer time points every measure has another value. If z is nearer to the threshold than the margin of the
    measure, the direction depends on chance: such facts are true, but no text states them.
    """
    measure = MEASURES.get(fact_measure(fact))
    margin = Measure.margin if measure is None else measure.margin
    return abs(abs(fact["z"]) - DIRECTION_THRESHOLD) >= margin


def fact_measure(fact: Mapping) -> str:
    """Return the measure of a fact, ``family/measure``: its feature's name without the networks."""
    return _measure_of(fact["feature"])


def fact_key(fact: Mapping) -> tuple[str | None, tuple[str, ...]]:
    """Return a key of a fact's subject: its measure and its networks in alphabetical order."""
    return fact_measure(fact), tuple(sorted(fact["network"]))


@lru_cache(maxsize=4096)
def _measure_of(feature: str) -> str:
    return "/".join(feature.split("/", 2)[:2])


def make_facts(
    features: Mapping[str, float], z_scores: Mapping[str, float], table: Mapping[str, Feature]
) -> list[Fact]:
    """Make the facts of all features that have a finite z, in the order of the table.

    The strongest and the weakest pair of different networks follow as ``connectivity/strongest/A-B`` and
    ``connectivity/weakest/A-B``, with the value and z of that pair's mean connectivity. Strong and weak go by
    magnitude: the weakest pair is the one nearest to zero, not the most negative one.

    Parameters
    ----------
    features, z_scores : mappings from feature name to value
    table : mapping from feature name to Feature
        Measure and networks of each feature, see `fmri_lm_hf.descriptors.feature_table`.
    """
    facts = [
        Fact(
            family=feature.measure.family,
            feature=name,
            network=list(feature.networks),
            value=float(features[name]),
            z=float(z_scores[name]),
            direction=direction_of(z_scores[name]),
            units=feature.measure.units,
        )
        for name, feature in table.items()
        if math.isfinite(z_scores.get(name, math.nan))
    ]
    return facts + extreme_facts([fact for fact in facts if fact_measure(fact) == "connectivity/mean"])


def extreme_facts(facts: Sequence[Fact]) -> list[Fact]:
    """State which pairs of different networks are the strongest and the weakest by magnitude; none below two pairs."""
    # Connectivity within a network is nearly always the strongest, so it would say nothing about a scan.
    pairs = sorted((f for f in facts if f["network"][0] != f["network"][1]), key=lambda fact: abs(fact["value"]))
    if len(pairs) < 2:
        return []
    extremes = []
    for measure, fact in zip(EXTREME_MEASURES, (pairs[-1], pairs[0]), strict=True):
        name = fact["feature"].replace(fact_measure(fact), measure, 1)
        extremes.append(Fact(**{**fact, "feature": name, "network": list(fact["network"])}))
    return extremes


# ----- words for measures and directions -----

# Nouns of the grammar for each measure, without article and without words for directions. A noun that is also an
# alias of another measure would make texts contradict their own facts.
NOUNS: dict[str, tuple[str, ...]] = {
    "connectivity/mean": ("functional connectivity", "connectivity", "functional coupling"),
    PAIR_BIN: (
        "connectivity within this scan",
        "within-scan connectivity",
        "coupling within this scan",
    ),
    "connectivity/strongest": ("strongest coupling", "strongest connection"),
    "connectivity/weakest": ("weakest coupling", "weakest connection"),
    "gradients/g1": ("principal-gradient value", "gradient-1 value", "value on gradient 1"),
    "gradients/g2": ("gradient-2 value", "value on gradient 2", "score on gradient 2"),
    "gradients/g3": ("gradient-3 value", "value on gradient 3", "score on gradient 3"),
    "gradients/g1_range": ("gradient-1 range", "range of gradient 1", "principal-gradient range"),
    "gradients/g2_range": ("gradient-2 range", "range of gradient 2", "extent of gradient 2"),
    "gradients/g3_range": ("gradient-3 range", "range of gradient 3", "extent of gradient 3"),
    "gradients/variance": ("gradient variance", "gradient dispersion", "variance of the gradients"),
    "graph/modularity": ("modularity", "graph modularity", "network modularity"),
    "graph/global_efficiency": ("global efficiency", "global graph efficiency", "network efficiency"),
    "graph/average_clustering": ("clustering coefficient", "mean clustering coefficient", "graph clustering"),
    "graph/node_strength": ("node strength", "nodal strength", "mean node strength"),
    "ica/amplitude": ("component amplitude", "signal amplitude", "fluctuation amplitude"),
    "ica/variability": ("temporal variability", "amplitude variability", "variability over time"),
    "ica/spectral_ratio": ("spectral ratio", "slow-to-fast power ratio", "ratio of slow to fast power"),
    "ica/autocorrelation": ("temporal autocorrelation", "signal autocorrelation", "autocorrelation"),
    "ica/outlier_rate": ("outlier rate", "rate of outliers", "share of outlying time points"),
    "ica/falff": ("fALFF", "fractional ALFF", "fractional amplitude of slow fluctuations"),
    "ica/fnc": ("functional network connectivity", "FNC", "component coupling"),
}

# Further names that the checker reads, from texts of people, models and earlier releases.
ALIASES: dict[str, tuple[str, ...]] = {
    "connectivity/mean": ("coupling", "mean connectivity", "mean correlation"),
    "connectivity/strongest": (
        "strongest connectivity",
        "strongest functional connectivity",
        "strongest pair",
        "strongest network pair",
    ),
    "connectivity/weakest": (
        "weakest connectivity",
        "weakest functional connectivity",
        "weakest pair",
        "weakest network pair",
    ),
    "gradients/g1": ("first gradient", "principal gradient", "gradient 1", "position on gradient 1"),
    "gradients/g2": ("second gradient", "gradient 2", "position on gradient 2"),
    "gradients/g3": ("third gradient", "gradient 3", "position on gradient 3"),
    "gradients/g1_range": ("range of the first gradient", "range of the principal gradient"),
    "gradients/g2_range": ("range of the second gradient",),
    "gradients/g3_range": ("range of the third gradient",),
    "graph/modularity": ("modular organisation", "modular organization", "modularity of the graph"),
    "graph/global_efficiency": ("efficiency", "efficiency of the graph"),
    "graph/average_clustering": ("average clustering", "clustering", "local clustering"),
    "ica/amplitude": ("amplitude",),
    "ica/variability": ("variability",),
    "ica/spectral_ratio": (
        "low/high spectral ratio",
        "low-to-high frequency ratio",
        "low-to-high frequency power ratio",
        "power ratio",
    ),
    "ica/outlier_rate": ("outliers", "fraction of outliers", "outlying time points"),
    "ica/falff": ("fractional amplitude of low-frequency fluctuations", "fractional amplitude"),
}

# Adjectives that fit before a noun ("raised modularity") and after it ("modularity is raised").
ADJECTIVES: dict[Direction, tuple[str, ...]] = {
    "raised": ("raised", "elevated", "increased", "high", "heightened"),
    "lowered": ("lowered", "reduced", "decreased", "low", "diminished"),
    "typical": ("typical", "ordinary", "unremarkable", "normal"),
}

# Phrases that compare with the cohort ("modularity is above the cohort mean").
RELATIONS: dict[Direction, tuple[str, ...]] = {
    "raised": ("above the cohort mean", "above average", "higher than in most of the cohort"),
    "lowered": ("below the cohort mean", "below average", "lower than in most of the cohort"),
    "typical": ("close to the cohort mean", "about average", "in the usual range"),
}

COHORT_MEAN = r"(?: the)?(?: (?:cohort|reference|group))*(?: (?:average|mean|norm))?"
# All words for a direction that the checker reads (regular expressions, matched as whole words).
DIRECTION_WORDS: dict[Direction, str] = {
    "raised": "raised|elevated|increased?|increases|high|higher|highest|heightened|enhanced|greater|larger|stronger"
    f"|above{COHORT_MEAN}",
    "lowered": "lowered|reduced|reduction|decreased?|decreases|low|lower|lowest|diminished|attenuated|smaller|weaker"
    f"|below{COHORT_MEAN}",
    "typical": "typical|average|moderate|intermediate|ordinary|unremarkable|normal|usual|unchanged|unaltered"
    f"|(?:close to|near|around|about|in line with){COHORT_MEAN}",
}

MARKED_Z = 2.0
MILD_Z = 1.5
# Adverbs of degree: for deviations of at least MARKED_Z, and of less than MILD_Z.
DEGREES: dict[str, tuple[str, ...]] = {
    "marked": ("markedly", "clearly", "notably"),
    "mild": ("slightly", "mildly", "somewhat"),
}
