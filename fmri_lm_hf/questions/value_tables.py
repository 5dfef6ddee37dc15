"""Values of one scan as scan tokens of the bundled model: pairs of names, each with a value.

The model finds the token of a pair by its two names and grades the value in it. Names need not be those of networks: a
network and a measure are a pair of names too. So the same weights read every family of measures, once its values lie on
the scale on which the model grades connectivity (`on_scale`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import numpy as np
import torch
from torch import Tensor

from ..models.network_pairs import pair_features, pair_indices
from .bins import BINS
from .measures import BOUNDS_BETWEEN, BOUNDS_NETWORKS, NETWORK_MEASURES, SCAN_MEASURES, ScanMeasures
from .nulls import BOUNDS_NULL
from .query import SPECTRAL

Pair = tuple[str, str]

FAMILIES = ("connectivity", "graph", "gradients", "spectral")
WHOLE = "whole scan"  # stands beside a measure that is of no network
POSITION = "position"
# Bounds between the grades of a position on the principal gradient, from the one end (0) to the other (1).
BOUNDS_POSITION = (0.15, 0.4, 0.6, 0.85)

# Ends of the scale for values that are not connectivity: beyond the outer bounds, and still common in training.
LOWEST, HIGHEST = -0.6, 1.5
# The tenth of a grade next to each bound takes up a quarter of the model's bin: the model tells values apart that
# differ by about 0.02, so it reads values close to a bound more surely.
_SHARES, _PLACES = (0.0, 0.1, 0.9), (0.0, 0.25, 0.75)
# Token of the scan where a table has no connectivity: RMS correlation, mean and SD between networks, and mean within
# them, as scans have them. Zeros would be unlike any scan, and cost a tenth of the grades.
_TYPICAL_SCAN = (0.3, 0.35, 0.4, 1.0)


def on_scale(value: float | np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    """Map a measure to the scale on which the model grades connectivity between networks.

    Piecewise linear and increasing, with each of the measure's bounds on that of the model, and steeper next to it. The
    scale ends at twice the distance of the outer bounds beyond them.

    Parameters
    ----------
    value : float or ndarray
        In units of the measure.
    bounds : sequence of float
        Four increasing bounds between the five grades of the measure.

    Returns
    -------
    ndarray
        Between `LOWEST` and `HIGHEST`.

    Raises
    ------
    ValueError
        If there are not four bounds, or they do not increase.
    """
    if len(bounds) != len(BOUNDS_BETWEEN) or not (np.diff(bounds) > 0).all():
        raise ValueError(f"The bounds of the grades are {tuple(bounds)}, expected four numbers that increase.")
    reach = 2 * (bounds[-1] - bounds[0])
    points = _between([bounds[0] - reach, *bounds, bounds[-1] + reach], _SHARES)
    places = _between([LOWEST, *BOUNDS_BETWEEN, HIGHEST], _PLACES)
    return np.asarray(np.interp(value, points, places))


def _between(edges: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Return edges, and points between each two of them at given shares of the way."""
    found = [low + share * (high - low) for low, high in pairwise(edges) for share in shares]
    return [*found, edges[-1]]


@dataclass(frozen=True)
class Entry:
    """A value of a table.

    Attributes
    ----------
    value : float
        In units of the measure.
    level : str
        One of `BINS`: the grade by the numbers.
    token : float
        The value on the scale of the model.
    """

    value: float
    level: str
    token: float


@dataclass(frozen=True)
class ValueTable:
    """Named values of one scan.

    Attributes
    ----------
    names : tuple of str
        Networks, and measures or `WHOLE`.
    entries : mapping of (str, str) to Entry
        By two names in the order of `names`; one name twice is the connectivity within a network. Other pairs have no
        token.
    rms : float, optional
        Root mean square of the scan's correlations, for a table of connectivity.

    Raises
    ------
    ValueError
        If a name is there twice, or an entry is of other names or in another order.
    """

    names: tuple[str, ...]
    entries: Mapping[Pair, Entry]
    rms: float | None = None

    def __post_init__(self):
        place = {name: number for number, name in enumerate(self.names)}
        if len(place) < len(self.names):
            raise ValueError(f"The names of a table are {list(self.names)}, expected each name once.")
        for pair in self.entries:
            if not place.keys() >= set(pair) or place[pair[0]] > place[pair[1]]:
                raise ValueError(
                    f"The table has an entry for {pair}, expected two of its names {list(self.names)} in their order."
                )

    def part(self, names: Sequence[str]) -> ValueTable:
        """Return the table of some of the names, in the order of this one."""
        kept = set(names)
        entries = {pair: entry for pair, entry in self.entries.items() if kept.issuperset(pair)}
        return ValueTable(tuple(name for name in self.names if name in kept), entries, self.rms)

    def parts(self, most_names: int) -> Iterator[ValueTable]:
        """Yield tables of at most `most_names` names that together hold every entry; itself if it is small enough."""
        if len(self.names) <= most_names:
            yield self
            return
        size = most_names // 2
        blocks = [self.names[start : start + size] for start in range(0, len(self.names), size)]
        missing = set(self.entries)
        for first, second in combinations_with_replacement(blocks, 2):
            part = self.part((*first, *second))
            if missing.intersection(part.entries):
                missing.difference_update(part.entries)
                yield part

    def features(self) -> Tensor:
        """Compute the features of the model's scan tokens: (1 + n_pairs, N_FEATURES), zeros for pairs without entry."""
        first, second = (index.tolist() for index in pair_indices(len(self.names)))
        found = [self.entries.get((self.names[i], self.names[j])) for i, j in zip(first, second, strict=True)]
        values = torch.tensor([[0.0 if entry is None else entry.token for entry in found]])
        present = torch.tensor([[entry is not None for entry in found]])
        features = pair_features(values, present, torch.tensor([self.rms or 0.0]), len(self.names))[0]
        if self.rms is None:
            features[0] = torch.tensor(_TYPICAL_SCAN)
        return features


# ----- tables of a scan -----


def family_table(measures: ScanMeasures, family: str) -> ValueTable:
    """Make the table of a family of measures.

    Parameters
    ----------
    measures : ScanMeasures
    family : str
        One of `FAMILIES`. Levels of connectivity have fixed bounds; those of a network's measure are among the networks
        of the scan, those of the whole scan against chance, and those of a position between the gradient's ends.

    Raises
    ------
    ValueError
        For another family, or if a network is called as a measure is.
    """
    if family not in FAMILIES:
        raise ValueError(f"The family is {family!r}, expected one of {', '.join(FAMILIES)}.")
    if family == "connectivity":
        return _connectivity(measures)
    columns = _COLUMNS[family]
    if taken := {WHOLE, *columns}.intersection(measures.network_names):
        raise ValueError(
            f"A network of the atlas is called {taken.pop()!r}, which names a measure here, expected another name: "
            "rename it with `Atlas.with_networks`."
        )
    entries: dict[Pair, Entry] = {}
    for column in columns:
        entries |= _column(measures, column)
    known = {name for pair in entries for name in pair}
    return ValueTable(tuple(name for name in (*measures.network_names, WHOLE, *columns) if name in known), entries)


_COLUMNS = {
    "graph": ("node_strength", "modularity", "global_efficiency", "clustering"),
    "gradients": (POSITION, "range"),
    "spectral": SPECTRAL,
}


def _connectivity(measures: ScanMeasures) -> ValueTable:
    entries = {
        pair: Entry(value, measures.level(*pair) or "", value)
        for pair, value in (measures.between | measures.within).items()
    }
    return ValueTable(measures.network_names, entries, measures.rms)


def _column(measures: ScanMeasures, column: str) -> dict[Pair, Entry]:
    """Return the entries of a measure: of each network, or of the whole scan."""
    if column == POSITION:
        return {
            (name, column): _graded(position, position, BOUNDS_POSITION)
            for name, position in measures.positions.items()
        }
    if column in SCAN_MEASURES:
        found = measures.whole(column)
        return {} if found is None else {(WHOLE, column): _graded(found.value, found.z, BOUNDS_NULL)}
    assert column in NETWORK_MEASURES
    values = {name: measures.network(column, name) for name in measures.values(column)}
    return {
        (name, column): _graded(value.value, value.z, BOUNDS_NETWORKS)
        for name, value in values.items()
        if value is not None and value.level is not None
    }


def _graded(value: float, standing: float, bounds: Sequence[float]) -> Entry:
    """Make an entry of a value that is graded by its standing between bounds."""
    return Entry(value, BINS[int(np.digitize(standing, bounds))], float(on_scale(standing, bounds)))
