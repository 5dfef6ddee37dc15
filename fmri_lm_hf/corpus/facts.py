"""Facts: what a scan's descriptors say, relative to a cohort, in a form that a machine can check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

import numpy as np

from fmri_lm_hf.descriptors import Feature

__all__ = ["DIRECTION_THRESHOLD", "Direction", "Fact", "direction_of", "fact_measure", "make_facts"]

DIRECTION_THRESHOLD = 1.0

Direction = Literal["raised", "lowered", "typical"]


class Fact(TypedDict):
    """One statement about a scan.

    `feature` is the feature's full name, `network` the list of networks that it is about (none, one or two; the same
    one twice for a value within a network), `value` is in `units`, and `z` counts SDs from the cohort's mean.
    """

    family: str
    feature: str
    network: list[str]
    value: float
    z: float
    direction: Direction
    units: str


def direction_of(z: float) -> Direction:
    """``raised`` from one SD above the cohort's mean, ``lowered`` from one SD below it, ``typical`` in between."""
    if z >= DIRECTION_THRESHOLD:
        return "raised"
    return "lowered" if z <= -DIRECTION_THRESHOLD else "typical"


def fact_measure(fact: Mapping) -> str:
    """The measure of a fact, ``family/measure``: its feature's name without the networks."""
    return "/".join(fact["feature"].split("/", 2)[:2])


def make_facts(
    features: Mapping[str, float], z_scores: Mapping[str, float], table: Mapping[str, Feature]
) -> list[Fact]:
    """Facts of all features that have a finite z, in the order of the table.

    The strongest and the weakest pair of different networks follow as ``connectivity/strongest/A-B`` and
    ``connectivity/weakest/A-B``, with the value and z of that pair's mean connectivity.

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
        if np.isfinite(z_scores.get(name, np.nan))
    ]
    pairs = [
        fact for fact in facts if fact_measure(fact) == "connectivity/mean" and len(set(fact["network"])) == 2
    ]
    if len(pairs) > 1:
        ranked = sorted(pairs, key=lambda fact: fact["value"])
        for extreme, fact in (("strongest", ranked[-1]), ("weakest", ranked[0])):
            name = fact["feature"].replace("connectivity/mean", f"connectivity/{extreme}", 1)
            facts.append(Fact(**{**fact, "feature": name, "network": list(fact["network"])}))
    return facts
