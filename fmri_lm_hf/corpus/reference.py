"""The cohort reference: statistics of the training subjects that a scan's descriptors are compared with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save
from tqdm import tqdm
from transformers.utils import logging

from ..descriptors import (
    FAMILIES,
    Acquisition,
    Feature,
    FeatureDict,
    compute_features,
    feature_table,
    features_of,
)
from ..descriptors.catalogue import check_families
from ..descriptors.connectivity import GroupConnectivity
from ..descriptors.prepared import PreparedScan, prepare_row
from ..descriptors.reference_maps import MAP_FAMILIES, ReferenceMaps
from ..files import write_bytes
from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from ..scans.splits import subjects_sha256
from .facts import OTHER_ACQUISITIONS, Fact, make_facts

logger = logging.get_logger(__name__)

ARRAYS_FILE = "reference.safetensors"
JSON_FILE = "reference.json"
STATISTICS = ("mean", "std", "count")
FORMAT_VERSION = 2
MIN_ACQUISITION_SCANS = 20  # training scans from which a site and repetition time has its own mean and SD


class RunningMoments:
    """Mean and SD of a stream of vectors (Welford's method). NaN is skipped."""

    def __init__(self, size: int) -> None:
        self.count = np.zeros(size, dtype=np.int64)
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)  # sum of squared deviations from the mean

    def update(self, values: np.ndarray) -> None:
        # Missing values are replaced by the mean so far, so their deviation is 0 and changes nothing. The squares take
        # one deviation from the old mean and one from the new: E[x^2] - E[x]^2 would cancel where the mean is large.
        known = np.isfinite(values)
        self.count += known
        deviation = np.where(known, values, self.mean) - self.mean
        self.mean = self.mean + deviation / np.maximum(self.count, 1)
        self._squares += deviation * np.where(known, values - self.mean, 0.0)

    @property
    def std(self) -> np.ndarray:
        """Sample SD (n - 1 in the denominator), NaN below two values."""
        return np.sqrt(np.where(self.count > 1, self._squares, np.nan) / np.maximum(self.count - 1, 1))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and SD of every feature over some scans.

    Attributes
    ----------
    mean, std : numpy.ndarray of shape (n_features,)
        NaN without a scan that has a value; the SD also with a single one.
    count : numpy.ndarray of shape (n_features,), int
        Number of scans with a value.
    n_scans : int
    """

    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray
    n_scans: int

    @classmethod
    def of(cls, moments: RunningMoments, n_scans: int) -> Statistics:
        mean = np.where(moments.count > 0, moments.mean, np.nan)
        return cls(mean, moments.std, moments.count, n_scans)

    @property
    def scale(self) -> np.ndarray:
        """The SD; NaN where it is zero up to rounding, since z would be noise of any size."""
        return np.where(self.std > 1e-6 * np.maximum(np.abs(self.mean), 1e-6), self.std, np.nan)


@dataclass(frozen=True, eq=False)
class CohortReference:
    """Mean and SD of every feature over the training scans, and the maps that the features need.

    Fit it with `fit` on scans of training subjects only: test subjects would leak into every description. To compute
    the features of many scans in parallel, construct it with the maps of `ReferenceMaps.fit` and call
    `fit_statistics`.

    Parameters
    ----------
    maps : ReferenceMaps
        The atlas, and the maps of the gradient and ICA families.
    families : tuple of str
        Descriptor families.
    statistics : Statistics or None
        Statistics of all training scans, in the order of `feature_names`; None before they are fitted.
    by_acquisition : dict from Acquisition to Statistics
        Statistics of the training scans of each site and repetition time with at least 20 scans, or with all scans.
        A scan is compared with scans of its own acquisition, so that effects of the scanner do not look like those of
        the subject.
    n_subjects : int
        Number of subjects behind the statistics.
    subjects_sha256 : str
        Hash of the sorted subject ids, which identifies the subjects without naming them.
    """

    maps: ReferenceMaps
    families: tuple[str, ...] = FAMILIES
    statistics: Statistics | None = None
    by_acquisition: Mapping[Acquisition, Statistics] = field(default_factory=dict)
    n_subjects: int = 0
    subjects_sha256: str = ""

    # ----- fitting -----

    @classmethod
    def fit(
        cls,
        scans: Iterable[Mapping[str, Any]],
        atlas: Atlas,
        families: Sequence[str] = FAMILIES,
        n_components: int = 20,
        seed: int = 0,
        progress: bool = False,
    ) -> CohortReference:
        """Fit a reference on training scans, which are read twice, one at a time: memory does not grow with them.

        Parameters
        ----------
        scans : iterable of dict
            Rows of a scan dataset, with ``bold`` (n_timepoints, n_rois), ``t_r`` (seconds), ``subject_id``, and
            optionally ``roi_mask``, ``sample_mask``, ``site`` and ``scan_id``. A `datasets.Dataset` or a list, not a
            one-time iterator. Scans that cannot be used are skipped with a warning.
        atlas : Atlas
        families, n_components, seed
            See `ReferenceMaps.fit`.
        progress : bool
            Show progress bars.
        """
        # a generator would be empty when it is read again, and the reference silently lack its statistics
        if isinstance(scans, Iterator):
            raise ValueError(
                f"The scans are a one-time iterator ({type(scans).__name__}), but the reference reads them twice. Pass "
                "a datasets.Dataset, a list, or an object whose __iter__ starts again."
            )
        if hasattr(scans, "with_format"):
            scans = scans.with_format("numpy")
        bar = partial(tqdm, unit="scan", disable=not progress)
        reference = cls(ReferenceMaps(atlas), check_families(families))
        if set(reference.families) & set(MAP_FAMILIES):
            group = GroupConnectivity(atlas.n_rois)
            for _, scan in _usable(bar(scans, desc="reference: maps"), atlas):
                group.add(scan.connectivity, scan.usable)
            maps = ReferenceMaps.fit(group, atlas, reference.families, n_components, seed)
            reference = cls(maps, reference.families)
        rows = (
            (row["subject_id"], features_of(scan, reference.feature_table, reference.maps, row.get("site")))
            for row, scan in _usable(bar(scans, desc="reference: features"), atlas)
        )
        return reference.fit_statistics(rows)

    def fit_statistics(self, rows: Iterable[tuple[str, Mapping[str, float]]]) -> CohortReference:
        """Return a copy with mean and SD of every feature over ``(subject_id, features)`` of the training scans.

        Features from `compute_features` with this reference carry their acquisition; those in a plain dict count only
        in the statistics of all scans.
        """
        names = self.feature_names
        pooled = RunningMoments(len(names))
        single: dict[Acquisition | None, tuple[RunningMoments, list[str]]] = {}
        for subject, features in rows:
            self._check_features(features)
            values = np.array([features.get(name, np.nan) for name in names], dtype=np.float64)
            moments, subjects = single.setdefault(acquisition_of(features), (RunningMoments(len(names)), []))
            pooled.update(values)
            moments.update(values)
            subjects.append(str(subject))
        n_scans = sum(len(subjects) for _, subjects in single.values())
        if n_scans < 2:
            raise ScanError(f"A cohort reference needs at least two usable training scans, found {n_scans}.")
        ids = sorted({subject for _, subjects in single.values() for subject in subjects})
        return replace(
            self,
            statistics=Statistics.of(pooled, n_scans),
            by_acquisition={
                acquisition: Statistics.of(moments, len(subjects))
                for acquisition, (moments, subjects) in single.items()
                # a single acquisition has the pooled statistics, however few its scans are
                if acquisition is not None and (len(subjects) >= MIN_ACQUISITION_SCANS or len(single) == 1)
            },
            n_subjects=len(ids),
            subjects_sha256=subjects_sha256(ids),
        )

    # ----- using -----

    @property
    def atlas(self) -> Atlas:
        return self.maps.atlas

    @cached_property
    def feature_table(self) -> dict[str, Feature]:
        """The features of the reference, by name."""
        return feature_table(self.atlas, self.families)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(self.feature_table)

    @property
    def n_scans(self) -> int:
        """Number of scans behind the statistics."""
        return 0 if self.statistics is None else self.statistics.n_scans

    def compute(
        self,
        bold: Any,
        t_r: float,
        roi_mask: Any = None,
        sample_mask: Any = None,
        site: str | None = None,
    ) -> FeatureDict:
        """Compute the features of a scan (n_timepoints, n_rois) with the maps, atlas and families of this reference."""
        return compute_features(bold, t_r, self.atlas, self.families, self.maps, roi_mask, sample_mask, site)

    def knows(self, acquisition: Acquisition | None) -> bool:
        """Whether there are training scans of the same acquisition to compare a scan with.

        Without a site, the repetition time decides. None, for features without an acquisition, counts as known.
        """
        return self._matching(acquisition) is not None

    def _matching(self, acquisition: Acquisition | None) -> Statistics | None:
        if acquisition is None:
            return self.statistics
        if acquisition.site:
            return self.by_acquisition.get(acquisition)
        # Without a site, only the repetition time is left. If all known acquisitions have it, the pooled statistics are
        # theirs; if several but not all have it, nothing says which of them is the right one.
        same = [fitted for key, fitted in self.by_acquisition.items() if key.t_r == acquisition.t_r]
        if len(same) > 1 and len(same) == len(self.by_acquisition):
            return self.statistics
        return same[0] if len(same) == 1 else None

    def z_scores(self, features: Mapping[str, float]) -> dict[str, float]:
        """Compute ``(value - mean) / SD`` of the given features; NaN if a value, the mean or a positive SD is missing.

        Mean and SD are those of training scans of the same acquisition. Without such scans they are those of all
        training scans, and measures that depend on the scanner as much as on the subject
        (`Measure.needs_acquisition`) are NaN.
        """
        if self.statistics is None:
            raise ValueError("The reference has maps but no statistics yet: call fit_statistics on it first.")
        self._check_features(features)
        matching = self._matching(acquisition_of(features))
        statistics = self.statistics if matching is None else matching
        values = np.array([features.get(name, np.nan) for name in self.feature_names], dtype=np.float64)
        z = (values - statistics.mean) / statistics.scale
        if matching is None:
            z[[feature.measure.needs_acquisition for feature in self.feature_table.values()]] = np.nan
        z_of = dict(zip(self.feature_names, z.tolist(), strict=True))
        return {name: z_of[name] for name in self.feature_names if name in features}

    def facts(self, features: Mapping[str, float]) -> list[Fact]:
        """State the features of a scan relative to this cohort, see `fmri_lm_hf.corpus.facts.make_facts`.

        Parameters
        ----------
        features : mapping from feature name to value
            Features of `compute`, of all families or some. NaN, and features that do not vary in the cohort, give no
            fact. For a scan of an acquisition without training scans, each fact has ``relative_to``.

        Examples
        --------
        >>> reference = CohortReference.fit(training_scans, atlas)  # doctest: +SKIP
        >>> reference.facts(reference.compute(bold, t_r=2.0))[0]  # doctest: +SKIP
        {'family': 'connectivity', 'feature': 'connectivity/mean/Visual-Visual', 'network': ['Visual', 'Visual'],
         'value': 0.83, 'z': 1.4, 'direction': 'raised', 'units': 'Fisher z'}
        """
        facts = make_facts(features, self.z_scores(features), self.feature_table)
        if not self.knows(acquisition_of(features)):
            for fact in facts:
                fact["relative_to"] = OTHER_ACQUISITIONS
        return facts

    def _check_features(self, features: Mapping[str, float]) -> None:
        if not features.keys() <= self.feature_table.keys():
            unknown = sorted(features.keys() - self.feature_table.keys())
            raise ValueError(
                f"The reference has no feature {unknown[0]!r} ({len(unknown)} unknown of {len(features)}). It was "
                f"fitted for families {', '.join(self.families)} of atlas {self.atlas.name!r}."
            )
        # Gradients and ICA components of other maps may have the same names in another order or with other signs.
        if not isinstance(features, FeatureDict) or features.maps_fingerprint == self.maps.fingerprint:
            return
        if any(name.startswith(MAP_FAMILIES) for name in features):
            raise ValueError(
                "The gradients and ICA features were computed with maps of another reference. Compute them with "
                "reference.compute(bold, t_r)."
            )

    # ----- files -----

    def save(self, directory: str | os.PathLike) -> None:
        """Write ``reference.safetensors`` and ``reference.json`` into a folder, each in one atomic step."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        maps = {"gradients": self.maps.gradients, "ica_maps": self.maps.ica_maps}
        arrays = {name: values for name, values in maps.items() if values is not None}
        acquisitions = sorted(self.by_acquisition)
        rows = [] if self.statistics is None else [self.statistics]
        rows += [self.by_acquisition[acquisition] for acquisition in acquisitions]
        if rows:  # the first for all scans, then one for each acquisition
            arrays |= {name: np.stack([getattr(row, name) for row in rows]) for name in STATISTICS}
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        description = {
            "format_version": FORMAT_VERSION,
            "families": list(self.families),
            "n_scans": [row.n_scans for row in rows],
            "acquisitions": [asdict(acquisition) for acquisition in acquisitions],
            "n_subjects": self.n_subjects,
            "subjects_sha256": self.subjects_sha256,
            "arrays_sha256": hashlib.sha256(content).hexdigest(),
            "feature_names": list(self.feature_names),
            "atlas": self.atlas.to_dict(),
        }
        # the JSON last: its hash of the arrays tells a folder with one old and one new file from a whole one
        write_bytes(content, directory / ARRAYS_FILE)
        write_bytes(json.dumps(description, indent=2).encode(), directory / JSON_FILE)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> CohortReference:
        """Read a reference that `save` wrote."""
        directory = Path(directory)
        if not (directory / JSON_FILE).is_file():
            raise FileNotFoundError(f"{directory} has no {JSON_FILE}; expected a folder of CohortReference.save.")
        description = json.loads((directory / JSON_FILE).read_text())
        if description.get("format_version") not in (1, FORMAT_VERSION):
            raise ValueError(
                f"{directory / JSON_FILE} has format version {description.get('format_version')}, this release reads "
                f"1 and {FORMAT_VERSION}. Fit the reference again."
            )
        digest = hashlib.sha256((directory / ARRAYS_FILE).read_bytes()).hexdigest()
        arrays = load_file(directory / ARRAYS_FILE)
        if description["format_version"] == 1:
            description, arrays = _from_version_1(description, arrays)
        rows = [
            Statistics(arrays["mean"][row], arrays["std"][row], arrays["count"][row], n_scans)
            for row, n_scans in enumerate(description["n_scans"])
        ]
        acquisitions = [Acquisition(**entry) for entry in description["acquisitions"]]
        reference = cls(
            maps=ReferenceMaps(Atlas.from_dict(description["atlas"]), arrays.get("gradients"), arrays.get("ica_maps")),
            families=tuple(description["families"]),
            statistics=rows[0] if rows else None,
            by_acquisition=dict(zip(acquisitions, rows[1:], strict=True)),
            n_subjects=description["n_subjects"],
            subjects_sha256=description["subjects_sha256"],
        )
        same_names = list(reference.feature_names) == description["feature_names"]
        if digest != description["arrays_sha256"] or not same_names:
            raise ValueError(
                f"{JSON_FILE} and {ARRAYS_FILE} in {directory} do not belong together. Copy both again from the source."
            )
        return reference


def _from_version_1(
    description: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Convert a reference of release 0.1.0, which has no acquisitions.

    Features whose definition has changed since are left out: those of unnamed networks, and the efficiency of weighted
    graphs. (Measures that need an acquisition drop out by themselves, since such a reference has none.)
    """
    names = list(feature_table(Atlas.from_dict(description["atlas"]), description["families"]))
    position = {name: k for k, name in enumerate(description["feature_names"])}
    kept = [position[name] for name in names]
    if description["n_scans"]:  # else it has maps only
        arrays = arrays | {name: arrays[name][kept][None] for name in STATISTICS}
        arrays["std"][0, [name == "graph/global_efficiency" for name in names]] = np.nan
    n_scans = [description["n_scans"]] if description["n_scans"] else []
    return description | {"feature_names": names, "n_scans": n_scans, "acquisitions": []}, arrays


def acquisition_of(features: Mapping[str, float]) -> Acquisition | None:
    """Return the acquisition of the scan that features come from; None for a plain dict."""
    return features.acquisition if isinstance(features, FeatureDict) else None


def _usable(scans: Iterable[Mapping[str, Any]], atlas: Atlas) -> Iterator[tuple[Mapping[str, Any], PreparedScan]]:
    """Iterate over the scans that can be used, prepared for descriptors; warn of each other one."""
    for row in scans:
        try:
            scan = prepare_row(row, atlas)
        except ScanError as error:
            logger.warning(f"Scan {row.get('scan_id', '(unnamed)')} is left out of the reference: {error}")
        else:
            yield row, scan
