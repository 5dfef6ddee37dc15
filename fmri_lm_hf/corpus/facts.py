"""Facts: what a scan's descriptors say, relative to a cohort, in a form that a machine can check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypedDict

from ..descriptors import MEASURES, Feature, Measure

__all__ = [
    "DIRECTION_THRESHOLD",
    "OTHER_ACQUISITIONS",
    "Direction",
    "Fact",
    "direction_of",
    "fact_measure",
    "is_decided",
    "make_facts",
]

DIRECTION_THRESHOLD = 1.0
OTHER_ACQUISITIONS = "scans of other acquisitions"

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

    `feature` is the feature's full name, `network` the list of networks that it is about (none, one or two; the same
    one twice for a value within a network), `value` is in `units`, and `z` counts SDs from the cohort's mean.
    `relative_to` is there where the cohort has no scans of this site and repetition time, so that part of `z` may be
    the scanner's doing.
    """

    relative_to: str


def direction_of(z: float) -> Direction:
    """``raised`` from one SD above the cohort's mean, ``lowered`` from one SD below it, ``typical`` in between."""
    if z >= DIRECTION_THRESHOLD:
        return "raised"
    return "lowered" if z <= -DIRECTION_THRESHOLD else "typical"


def is_decided(fact: Mapping) -> bool:
    """Whether a fact's direction would stand if the scan were a little longer or shorter.

    A value over fewer time points is another number. Where z is nearer to the threshold than the measure's margin, the
    direction is a matter of chance: such facts are true, but no text is made of them.
    """
    measure = MEASURES.get(fact_measure(fact))
    margin = Measure.margin if measure is None else measure.margin
    return abs(abs(fact["z"]) - DIRECTION_THRESHOLD) >= margin


def fact_measure(fact: Mapping) -> str:
    """The measure of a fact, ``family/measure``: its feature's name without the networks."""
    return _measure_of(fact["feature"])


@lru_cache(maxsize=4096)
def _measure_of(feature: str) -> str:
    return "/".join(feature.split("/", 2)[:2])


def make_facts(
    features: Mapping[str, float], z_scores: Mapping[str, float], table: Mapping[str, Feature]
) -> list[Fact]:
    """Facts of all features that have a finite z, in the order of the table.

    The strongest and the weakest pair of different networks follow as ``connectivity/strongest/A-B`` and
    ``connectivity/weakest/A-B``, with the value and z of that pair's mean connectivity. Strong and weak go by
    magnitude: the weakest pair is the one nearest to zero, not the most negative one.

    Parameters
    ----------
    features, z_scores : mappings from feature name to value
    table : mapping from feature name to Feature
        Says which network(s) a feature is about, see `fmri_lm_hf.descriptors.feature_table`.
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
    pairs = [
        fact for fact in facts if fact_measure(fact) == "connectivity/mean" and len(set(fact["network"])) == 2
    ]
    if len(pairs) > 1:
        ranked = sorted(pairs, key=lambda fact: abs(fact["value"]))
        for extreme, fact in (("strongest", ranked[-1]), ("weakest", ranked[0])):
            name = fact["feature"].replace("connectivity/mean", f"connectivity/{extreme}", 1)
            facts.append(Fact(**{**fact, "feature": name, "network": list(fact["network"])}))
    return facts
