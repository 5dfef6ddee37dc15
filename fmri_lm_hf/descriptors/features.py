"""Compute the features of a scan: all families of descriptors by one call, as numbers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import ArrayLike

from ..models.atlas import Atlas
from .catalogue import FAMILIES, Feature, check_families, feature_name, feature_table
from .connectivity import network_connectivity
from .gradients import gradient_features
from .graph import graph_features
from .ica import ica_features
from .prepared import PreparedScan, prepare_scan
from .reference_maps import ReferenceMaps


@dataclass(frozen=True, order=True)
class Acquisition:
    """Where and how a scan was acquired: scans of one acquisition differ by their subjects alone.

    Parameters
    ----------
    site : str
        Empty if unknown.
    t_r : float
        Repetition time in seconds, rounded to hundredths.
    """

    site: str
    t_r: float

    @classmethod
    def of(cls, site: str | None, t_r: float) -> Acquisition:
        """The acquisition of a scan from its site (or None) and repetition time."""
        return cls("" if site is None else str(site), round(float(t_r), 2))

    def __str__(self) -> str:
        return f"{self.site or 'unnamed site'}, {self.t_r:g} s"


class FeatureDict(dict[str, float]):
    """Features by name, with the conditions under which they can be compared.

    Attributes
    ----------
    maps_fingerprint : str or None
        Fingerprint of the reference maps that they were computed with; None without maps.
    acquisition : Acquisition or None
        Site and repetition time of the scan.
    """

    maps_fingerprint: str | None = None
    acquisition: Acquisition | None = None


def compute_features(
    bold: ArrayLike,
    t_r: float,
    atlas: Atlas,
    families: Sequence[str] = FAMILIES,
    maps: ReferenceMaps | None = None,
    roi_mask: ArrayLike | None = None,
    sample_mask: ArrayLike | None = None,
    site: str | None = None,
) -> FeatureDict:
    """Compute the descriptors of one scan.

    Parameters
    ----------
    bold : array of shape (n_timepoints, n_rois)
        ROI time series in the order of the atlas, in any units.
    t_r : float
        Repetition time in seconds.
    atlas : Atlas
        Names the ROIs and their networks. Every named network is used, subcortical and cerebellar ones included.
    families : sequence of {"connectivity", "gradients", "graph", "ica"}
    maps : ReferenceMaps, optional
        Gradients of a cohort, to which those of the scan are aligned, and the maps of its group ICA. Without them the
        gradients keep their own axes (signs fixed), and the mean signals of the networks replace the components of
        the ICA: useful for a single scan, but not comparable with a cohort.
    roi_mask : array of shape (n_rois,), bool, optional
        False for ROIs without data. ROIs that hold a NaN or do not vary are left out as well.
    sample_mask : array of shape (n_timepoints,), bool, optional
        True for time points that were observed; values at the others (censored, interpolated) are not used.
    site : str, optional
        Site of the scan, to compare it with scans of the same acquisition.

    Returns
    -------
    FeatureDict
        A dict from feature name to value, such as ``connectivity/mean/Default-Visual``, in a fixed order. The value
        is NaN for a network without a usable ROI, and for a measure that the scan does not allow.

    Raises
    ------
    ScanError
        If the scan does not fit the atlas, is too short, or has too few usable ROIs, or the atlas names no networks.
    ValueError
        If a family is unknown, or the maps were fitted with another atlas.

    Examples
    --------
    >>> features = compute_features(bold, t_r=0.72, atlas=Atlas.load("seitzman_2018"))  # doctest: +SKIP
    >>> features["graph/modularity"]  # doctest: +SKIP
    0.41
    """
    families = check_families(families)
    if maps is not None:
        maps.check_atlas(atlas)
    table = feature_table(atlas, families)
    return features_of(prepare_scan(bold, t_r, atlas, roi_mask, sample_mask), table, maps, site)


def features_of(
    scan: PreparedScan,
    table: Mapping[str, Feature],
    maps: ReferenceMaps | None = None,
    site: str | None = None,
) -> FeatureDict:
    """Compute the features of a table (see `feature_table`) for a prepared scan; see `compute_features`."""
    gradients = None if maps is None else maps.gradients
    ica_maps = None if maps is None else maps.ica_maps
    compute: dict[str, Callable[[PreparedScan], dict[str, float]]] = {
        "connectivity": _connectivity_features,
        "gradients": lambda scan: gradient_features(scan, gradients),
        "graph": graph_features,
        "ica": lambda scan: ica_features(scan, ica_maps),
    }
    # A family computes all of its features at once, in its own order; the table then gives the names and the order.
    values: dict[str, float] = {}
    for family in dict.fromkeys(feature.measure.family for feature in table.values()):
        values |= compute[family](scan)
    features = FeatureDict({name: values[name] for name in table})
    features.acquisition = Acquisition.of(site, scan.t_r)
    features.maps_fingerprint = None if maps is None else maps.fingerprint
    return features


def _connectivity_features(scan: PreparedScan) -> dict[str, float]:
    """``connectivity/mean`` of every pair of networks, within-network pairs included (Fisher z).

    The strongest and weakest pair of a scan are derived from these values as facts.
    """
    pairs = combinations_with_replacement(scan.network_names, 2)
    means = network_connectivity(scan)[np.triu_indices(len(scan.network_names))]
    return {feature_name("connectivity/mean", *pair): float(mean) for pair, mean in zip(pairs, means, strict=True)}
