"""The words for measures and directions, shared by the grammar that writes and the checker that reads."""

from __future__ import annotations

from .facts import Direction

__all__ = [
    "ADJECTIVES",
    "ALIASES",
    "COHORT_MEAN",
    "DEGREES",
    "DIRECTION_WORDS",
    "MARKED_Z",
    "MILD_Z",
    "NOUNS",
    "RELATIONS",
]

# What the grammar calls each measure: nouns that need no article, without words for directions.
NOUNS: dict[str, tuple[str, ...]] = {
    "connectivity/mean": ("functional connectivity", "connectivity", "functional coupling"),
    # relative to the scan itself, not to a cohort: see `reading.scan_facts`
    "connectivity/level": (
        "connectivity within this scan",
        "within-scan connectivity",
        "coupling within this scan",
    ),
    "connectivity/strongest": ("strongest network pair", "strongest coupling", "strongest connection"),
    "connectivity/weakest": ("weakest network pair", "weakest coupling", "weakest connection"),
    "gradients/g1": ("principal-gradient value", "gradient-1 value", "position on gradient 1"),
    "gradients/g2": ("gradient-2 value", "position on gradient 2", "score on gradient 2"),
    "gradients/g3": ("gradient-3 value", "position on gradient 3", "score on gradient 3"),
    "gradients/g1_range": ("gradient-1 range", "range of gradient 1", "principal-gradient range"),
    "gradients/g2_range": ("gradient-2 range", "range of gradient 2", "extent of gradient 2"),
    "gradients/g3_range": ("gradient-3 range", "range of gradient 3", "extent of gradient 3"),
    "gradients/variance": ("gradient variance", "gradient dispersion", "variance of the gradients"),
    "graph/modularity": ("modularity", "graph modularity", "modularity of the graph"),
    "graph/global_efficiency": ("global efficiency", "global graph efficiency", "efficiency of the graph"),
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

# What others may call it as well; the checker understands these too.
ALIASES: dict[str, tuple[str, ...]] = {
    "connectivity/mean": ("coupling", "mean connectivity", "mean correlation"),
    "connectivity/strongest": (
        "strongest connectivity",
        "strongest functional connectivity",
        "strongest pair",
    ),
    "connectivity/weakest": ("weakest connectivity", "weakest functional connectivity", "weakest pair"),
    "gradients/g1": ("first gradient", "principal gradient", "gradient 1"),
    "gradients/g2": ("second gradient", "gradient 2"),
    "gradients/g3": ("third gradient", "gradient 3"),
    "gradients/g1_range": ("range of the first gradient", "range of the principal gradient"),
    "gradients/g2_range": ("range of the second gradient",),
    "gradients/g3_range": ("range of the third gradient",),
    "graph/modularity": ("modular organisation", "modular organization", "network modularity"),
    "graph/global_efficiency": ("network efficiency", "efficiency"),
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
    "typical": ("typical", "usual", "ordinary", "unremarkable", "normal"),
}

# Phrases that compare with the cohort ("modularity is above the cohort mean").
RELATIONS: dict[Direction, tuple[str, ...]] = {
    "raised": ("above the cohort mean", "above average", "higher than in most of the cohort"),
    "lowered": ("below the cohort mean", "below average", "lower than in most of the cohort"),
    "typical": ("close to the cohort mean", "about average", "in the usual range"),
}

COHORT_MEAN = r"(?: the)?(?: (?:cohort|reference|group))*(?: (?:average|mean|norm))?"
# Every word for a direction that the checker understands (a regular expression, for whole words).
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
