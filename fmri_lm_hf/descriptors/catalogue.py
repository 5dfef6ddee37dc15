"""Catalogue of the descriptors: their names, scopes and units.

A feature's name is ``family/measure`` for one value a scan, ``family/measure/Network`` for one value a network
and ``family/measure/NetworkA-NetworkB`` for one value a pair of networks, in the order of the atlas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Literal

from ..models.atlas import Atlas
from ..models.scan_errors import ScanError

FAMILIES = ("connectivity", "gradients", "graph", "ica")

Scope = Literal["scan", "network", "pair", "pair_or_within"]


@dataclass(frozen=True)
class Measure:
    """One descriptor.

    Attributes
    ----------
    name : str
        ``family/measure``.
    units : str
    scopes : tuple of str
        What it has values for: the scan, each network, each pair of networks.
    needs_acquisition : bool
        Whether noise and repetition time of a scanner change the value as much as subjects differ. Such a value is
        compared with scans of the same acquisition only.
    margin : float
        Distance of z from the threshold between typical and raised or lowered, below which no direction is stated:
        about the SD of the change of z when 30 % of a scan of five minutes are censored, as
        `benchmarks/robustness.py` measures it.
    """

    name: str
    units: str
    scopes: tuple[Scope, ...]
    needs_acquisition: bool = False
    margin: float = 0.3

    @property
    def family(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Feature:
    """One value of a scan: a measure, and the networks (none, one or a pair) that it is computed for."""

    measure: Measure
    networks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return feature_name(self.measure.name, *self.networks)


# A name here is a column of every corpus and a key of every stored reference: renaming one breaks both.
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("connectivity/mean", "Fisher z", ("pair_or_within",)),
        *(Measure(f"gradients/g{k}", "diffusion units", ("network",), margin=0.55) for k in (1, 2, 3)),
        *(Measure(f"gradients/g{k}_range", "diffusion units", ("scan",), margin=0.7) for k in (1, 2, 3)),
        Measure("gradients/variance", "squared diffusion units", ("scan",), margin=0.6),
        Measure("graph/modularity", "Q", ("scan",), margin=0.4),
        Measure("graph/global_efficiency", "inverse steps", ("scan",), margin=0.5),
        Measure("graph/average_clustering", "correlation units", ("scan",), True, margin=0.6),
        Measure("graph/node_strength", "summed correlation", ("network",), margin=0.4),
        Measure("ica/amplitude", "signal SD", ("scan", "network")),
        Measure("ica/variability", "fraction of the mean", ("scan", "network"), margin=0.8),
        Measure("ica/spectral_ratio", "log10 ratio", ("scan", "network"), True, margin=0.6),
        Measure("ica/autocorrelation", "correlation units", ("scan", "network"), True, margin=0.7),
        Measure("ica/outlier_rate", "fraction of time points", ("scan", "network"), margin=0.9),
        Measure("ica/falff", "fraction of the sum", ("scan", "network"), True, margin=0.6),
        Measure("ica/fnc", "Fisher z", ("pair",)),
    )
}


def feature_name(measure: str, *networks: str) -> str:
    """Join measure and networks, if any: ``connectivity/mean/Default-Visual``."""
    return "/".join((measure, "-".join(networks))) if networks else measure


def check_families(families: Sequence[str]) -> tuple[str, ...]:
    """Sort families into their fixed order; refuse an unknown family or an empty choice."""
    families = (families,) if isinstance(families, str) else tuple(families)
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families:
        raise ValueError(f"Unknown descriptor families {unknown or families}, expected some of {', '.join(FAMILIES)}.")
    return tuple(family for family in FAMILIES if family in families)


def feature_table(atlas: Atlas, families: Sequence[str] = FAMILIES) -> dict[str, Feature]:
    """List every feature that scans of an atlas have, by name, in a fixed order."""
    families = check_families(families)
    networks = atlas.named_networks
    if not networks:
        raise ScanError(
            f"Atlas {atlas.name!r} names no network for any of its {atlas.n_rois} ROIs, so there is nothing to "
            "describe. Give the networks: Atlas.with_networks(table), with a table of columns name and network."
        )
    members: dict[Scope, list[tuple[str, ...]]] = {
        "scan": [()],
        "network": [(network,) for network in networks],
        "pair": list(combinations(networks, 2)),
        "pair_or_within": list(combinations_with_replacement(networks, 2)),
    }
    features = [
        Feature(measure, names)
        for measure in MEASURES.values()
        if measure.family in families
        for scope in measure.scopes
        for names in members[scope]
    ]
    # With networks `A`, `B-C`, `A-B` and `C`, two pairs would be called `A-B-C`, and one would overwrite the other.
    table = {feature.name: feature for feature in features}
    if len(table) < len(features):
        raise ValueError(
            f"Two pairs of networks of atlas {atlas.name!r} give the same feature name, because its network names "
            f"hold hyphens: {', '.join(networks)}. Rename the networks."
        )
    return table
