"""The numbers of one scan that questions are answered with: of network pairs, of networks, and of the whole scan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from ..descriptors.catalogue import MEASURES, feature_name
from ..descriptors.prepared import PreparedScan, prepare_scan
from ..models.atlas import Atlas
from .bins import BINS, BOUNDS_BETWEEN, BOUNDS_WITHIN, UNITS, bin_of

__all__ = [
    "BINS",
    "BOUNDS_BETWEEN",
    "BOUNDS_NETWORKS",
    "BOUNDS_WITHIN",
    "NETWORK_MEASURES",
    "SCAN_MEASURES",
    "UNITS",
    "NetworkValue",
    "ScanMeasures",
    "ScanValue",
    "bin_of",
]

# Quintiles of a normal distribution, rounded: bounds between the grades of a network among those of its scan, in SDs.
BOUNDS_NETWORKS = (-0.85, -0.25, 0.25, 0.85)
# In diffusion units. Between copies of one ROI, whose profiles are the same, float32 makes distances of up to this.
SAME_PLACE = 0.01
# name in a query -> descriptor with a value for each network, and with one for the scan
NETWORK_MEASURES = {
    "node_strength": "graph/node_strength",
    "amplitude": "ica/amplitude",
    "falff": "ica/falff",
    "low_high_ratio": "ica/spectral_ratio",
    "autocorrelation": "ica/autocorrelation",
    "variability": "ica/variability",
}
SCAN_MEASURES = {
    "modularity": "graph/modularity",
    "global_efficiency": "graph/global_efficiency",
    "clustering": "graph/average_clustering",
    "range": "gradients/g1_range",
}


@dataclass(frozen=True)
class NetworkValue:
    """A measure of one network, among the networks of the scan.

    Attributes
    ----------
    value : float
    units : str
    level : str or None
        One of `BINS`, by the distance from the mean over the scan's networks; None for fewer than three of them.
    rank, n : int
        1 for the highest of `n` networks.
    z : float
        Distance from the mean over the scan's networks, in their SDs.
    mean, sd : float
        Of the scan's networks.
    """

    value: float
    units: str
    level: str | None
    rank: int
    n: int
    z: float
    mean: float
    sd: float


@dataclass(frozen=True)
class ScanValue:
    """A measure of the whole scan against chance.

    Attributes
    ----------
    value : float
    units : str
    level : str
        One of `BINS`: the grade against chance, of which "moderate" means no difference.
    z : float
        Distance from the mean of the null values, in their SDs.
    chance, sd : float
        Mean and SD of the null values.
    null : str
        What the null values are of, with their number.
    """

    value: float
    units: str
    level: str
    z: float
    chance: float
    sd: float
    null: str


@dataclass(frozen=True, eq=False)
class ScanMeasures:
    """The numbers of one scan. Each is computed when it is first asked for.

    Attributes
    ----------
    scan : PreparedScan

    Examples
    --------
    >>> measures = ScanMeasures.of(bold, t_r=2.0, atlas=Atlas.load("dosenbach_2010"))  # doctest: +SKIP
    >>> measures.pair("default", "occipital"), measures.level("default", "occipital")  # doctest: +SKIP
    (0.12, 'low')
    """

    scan: PreparedScan

    @classmethod
    def of(
        cls,
        bold: ArrayLike,
        t_r: float,
        atlas: Atlas,
        roi_mask: ArrayLike | None = None,
        sample_mask: ArrayLike | None = None,
    ) -> ScanMeasures:
        """Measure a scan.

        Parameters
        ----------
        bold : array of shape (n_timepoints, n_rois)
            ROI time series in the order of the atlas, in any units.
        t_r : float
            Repetition time in seconds.
        atlas : Atlas
        roi_mask : array of shape (n_rois,), bool, optional
            False for ROIs without data. ROIs that hold a NaN or do not vary are left out as well.
        sample_mask : array of shape (n_timepoints,), bool, optional
            True for time points that were observed; the others are not used.

        Raises
        ------
        ScanError
            If the scan does not fit the atlas, is too short, or has too few usable ROIs.
        """
        return cls(prepare_scan(bold, t_r, atlas, roi_mask, sample_mask))

    # ----- networks -----

    @property
    def network_names(self) -> tuple[str, ...]:
        """The named networks of the atlas, in its order."""
        return self.scan.network_names

    @cached_property
    def n_usable(self) -> dict[str, int]:
        """Number of usable ROIs of each network."""
        return dict(zip(self.network_names, map(int, self.scan.membership.sum(axis=0)), strict=True))

    @cached_property
    def n_rois(self) -> dict[str, int]:
        """Number of ROIs of each network in the atlas."""
        return dict(zip(self.network_names, map(int, self.scan.atlas_membership.sum(axis=0)), strict=True))

    @property
    def present(self) -> tuple[str, ...]:
        """Networks with a usable ROI."""
        return tuple(name for name, count in self.n_usable.items() if count)

    @property
    def absent(self) -> tuple[str, ...]:
        """Networks without a usable ROI."""
        return tuple(name for name, count in self.n_usable.items() if not count)

    # ----- pairs of networks -----

    @cached_property
    def rms(self) -> float:
        """Root mean square of the correlations of different usable ROIs."""
        correlation = self.scan.connectivity.astype(np.float64)
        n_rois = len(correlation)
        return float(np.sqrt((correlation**2).sum() / (n_rois * (n_rois - 1))))

    @cached_property
    def connectivity(self) -> np.ndarray:
        """Mean correlation of each two networks over `rms`, (n_networks, n_networks); NaN without a pair of ROIs.

        The definition is that of `fmri_lm_hf.models.network_pairs.network_pair_values`.
        """
        members = self.scan.membership.astype(np.float64)
        sums = members.T @ self.scan.connectivity.astype(np.float64) @ members
        sizes = members.sum(axis=0)
        counts = np.outer(sizes, sizes) - np.diag(sizes)  # no ROI is paired with itself
        return sums / np.where(counts > 0, counts, np.nan) / max(self.rms, 1e-6)

    def pair(self, first: str, second: str) -> float | None:
        """Return the connectivity of two networks, or within one (the same name twice).

        Returns
        -------
        float or None
            Mean correlation in units of the scan's RMS correlation; None if the scan has no pair of usable ROIs.

        Raises
        ------
        ValueError
            If the atlas lacks a network.
        """
        value = float(self.connectivity[self._index(first), self._index(second)])
        return None if np.isnan(value) else value

    def level(self, first: str, second: str) -> str | None:
        """Return the bin of a pair, one of `BINS`; None where `pair` is."""
        value = self.pair(first, second)
        return None if value is None else BINS[int(bin_of(value, first == second))]

    @cached_property
    def between(self) -> dict[tuple[str, str], float]:
        """Connectivity of each pair of different networks that the scan has, in the order of the atlas."""
        return self._known(combinations(self.network_names, 2))

    @cached_property
    def within(self) -> dict[tuple[str, str], float]:
        """Connectivity within each network with two usable ROIs or more; keys are ``(name, name)``."""
        return self._known((name, name) for name in self.network_names)

    def rank(self, first: str, second: str) -> tuple[int, int]:
        """Rank a pair by its signed value among the pairs of its kind (1 for the strongest), and count these."""
        value = self.pair(first, second)
        if value is None:
            raise ValueError(f"{first} and {second} have no connectivity in this scan, expected a pair that has.")
        others = self.within if first == second else self.between
        return 1 + sum(other > value for other in others.values()), len(others)

    def _known(self, pairs) -> dict[tuple[str, str], float]:
        values = {pair: self.pair(*pair) for pair in pairs}
        return {pair: value for pair, value in values.items() if value is not None}

    def _index(self, name: str) -> int:
        if name not in self.network_names:
            raise ValueError(
                f"Network {name!r} found, expected one of {', '.join(self.network_names) or 'no networks at all'}."
            )
        return self.network_names.index(name)

    # ----- networks and the whole scan: descriptors -----

    @cached_property
    def graph(self) -> dict[str, float]:
        """Descriptors of the family "graph"."""
        from ..descriptors.graph import graph_features

        return graph_features(self.scan)

    @cached_property
    def gradients(self) -> dict[str, float]:
        """Descriptors of the family "gradients", on the scan's own axes."""
        from ..descriptors.gradients import gradient_features

        return gradient_features(self.scan)

    @cached_property
    def signals(self) -> dict[str, float]:
        """Descriptors of the family "ica", of the networks' mean signals."""
        from ..descriptors.ica import ica_features

        return ica_features(self.scan) if self.present else {}

    def _features(self, descriptor: str) -> dict[str, float]:
        family = MEASURES[descriptor].family
        return {"graph": self.graph, "gradients": self.gradients, "ica": self.signals}[family]

    def values(self, measure: str) -> dict[str, float]:
        """Return a measure of each network that has it.

        Parameters
        ----------
        measure : str
            One of `NETWORK_MEASURES`.
        """
        descriptor = NETWORK_MEASURES[measure]
        features = self._features(descriptor)
        values = {name: features[feature_name(descriptor, name)] for name in self.present}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def network(self, measure: str, name: str) -> NetworkValue | None:
        """Return a measure of a network among the networks of the scan; None if it cannot be computed.

        Raises
        ------
        ValueError
            If the atlas lacks the network.
        """
        self._index(name)
        values = self.values(measure)
        if name not in values:
            return None
        numbers = np.array(list(values.values()))
        value, mean, sd = values[name], float(numbers.mean()), float(numbers.std())
        # Equal but for rounding: no network is above another.
        z = (value - mean) / sd if sd > 1e-6 * max(abs(mean), 1e-6) else 0.0
        level = BINS[int(np.digitize(z, BOUNDS_NETWORKS))] if len(values) > 2 else None
        rank = 1 + int((numbers > value).sum())
        return NetworkValue(value, MEASURES[NETWORK_MEASURES[measure]].units, level, rank, len(values), z, mean, sd)

    def whole(self, measure: str) -> ScanValue | None:
        """Return a measure of the whole scan against chance; None if it cannot be computed.

        Parameters
        ----------
        measure : str
            One of `SCAN_MEASURES`.
        """
        from .nulls import N_NULLS

        descriptor = SCAN_MEASURES[measure]
        value = self._features(descriptor)[descriptor]
        chance = self._range_chance if measure == "range" else self._graph_chance.get(measure)
        if chance is None or not np.isfinite(value) or not np.isfinite(chance.mean):
            return None
        null = f"{N_NULLS} {chance.of}"
        units = MEASURES[descriptor].units
        return ScanValue(value, units, chance.level(value), chance.z(value), chance.mean, chance.sd, null)

    @cached_property
    def mean_strength(self) -> float:
        """Mean node strength of all usable ROIs, in summed correlation."""
        from .nulls import graph_of

        return float(graph_of(self.scan).sum(axis=1).mean())

    @cached_property
    def _graph_chance(self):
        from .nulls import graph_chance, graph_of

        graph = graph_of(self.scan)
        return graph_chance(graph) if graph.any() else {}

    @cached_property
    def _range_chance(self):
        from .nulls import gradient_range_chance

        return gradient_range_chance(self.scan)

    @cached_property
    def positions(self) -> dict[str, float]:
        """Position of each network on the principal gradient, from 0 to 1 between its two outermost networks.

        The sign of a gradient is arbitrary, so that a position has a meaning by the names of the ends only (see
        `ends`). Empty for fewer than two networks, or if all lie at one place.
        """
        values = {name: self.gradients[feature_name("gradients/g1", name)] for name in self.present}
        if len(values) < 2:
            return {}
        low, high = min(values.values()), max(values.values())
        if high - low < SAME_PLACE:
            return {}
        return {name: (value - low) / (high - low) for name, value in values.items()}

    @property
    def ends(self) -> tuple[str, str] | None:
        """Networks at position 0 and at position 1 of the principal gradient; None without positions."""
        if not self.positions:
            return None
        return min(self.positions, key=self.positions.__getitem__), max(self.positions, key=self.positions.__getitem__)
