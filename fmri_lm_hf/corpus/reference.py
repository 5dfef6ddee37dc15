"""The cohort reference: what a scan's descriptors are compared with. Fitted on training subjects only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save
from tqdm import tqdm
from transformers.utils import logging

from fmri_lm_hf.descriptors import FAMILIES, Feature, FeatureDict, compute_features, feature_table
from fmri_lm_hf.descriptors.catalogue import check_families
from fmri_lm_hf.descriptors.prepared import prepare_scan
from fmri_lm_hf.descriptors.reference_maps import MAP_FAMILIES, ReferenceMaps
from fmri_lm_hf.models.atlas import Atlas, ScanError

from .facts import Fact, make_facts

__all__ = ["CohortReference", "RunningMoments"]

logger = logging.get_logger(__name__)

ARRAYS_FILE = "reference.safetensors"
JSON_FILE = "reference.json"
FORMAT_VERSION = 1


class RunningMoments:
    """Mean and SD of vectors that arrive one at a time, without keeping them (Welford's method). NaN is skipped."""

    def __init__(self, size: int) -> None:
        self.count = np.zeros(size, dtype=np.int64)
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)  # sum of squared deviations from the mean

    def update(self, values: np.ndarray) -> None:
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
class CohortReference:
    """Mean and SD of every feature over the training scans, and the maps that their computation needs.

    Fit it with `fit`, on the scans of training subjects only: what a test subject contributes here would leak into
    every description. `fit` is `fit_maps` followed by `fit_statistics`; call these two to compute the features of
    many scans in parallel in between.

    Parameters
    ----------
    maps : ReferenceMaps
        The atlas, and the maps that the gradient and ICA families need.
    families : tuple of str
        Descriptor families that it knows.
    mean, std : numpy.ndarray of shape (n_features,)
        In the order of `feature_names`; NaN where the training scans tell nothing.
    count : numpy.ndarray of shape (n_features,), int
        Training scans with a value.
    n_scans, n_subjects : int
        How many scans and subjects the statistics come from.
    subjects_sha256 : str
        Hash of the sorted subject ids: says whether two references saw the same subjects, without naming them.
    """

    maps: ReferenceMaps
    families: tuple[str, ...] = FAMILIES
    mean: np.ndarray = field(default_factory=lambda: np.empty(0))
    std: np.ndarray = field(default_factory=lambda: np.empty(0))
    count: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    n_scans: int = 0
    n_subjects: int = 0
    subjects_sha256: str = ""

    # ------------------------------------------------------------------------------------------------- fitting

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
        """Fit a reference on training scans. They are read twice, one at a time: memory does not grow with them.

        Parameters
        ----------
        scans : iterable of dict
            Rows of a scan dataset, with ``bold`` (n_timepoints, n_rois), ``t_r`` (seconds), ``subject_id``, and
            optionally ``roi_mask`` and ``scan_id``. A `datasets.Dataset` or a list, not a one-time iterator. Scans
            that cannot be used are skipped, each with a warning that says why.
        atlas : Atlas
        families : sequence of str
        n_components : int
            Components of the group ICA, at most a third of the ROIs.
        seed : int
            Of the group ICA.
        progress : bool
            Show progress bars.
        """
        scans = _readable_twice(scans)
        maps = cls.fit_maps(scans, atlas, families, n_components, seed, progress)
        rows = maps._feature_rows(tqdm(scans, desc="reference: features", unit="scan", disable=not progress))
        return maps.fit_statistics(rows)

    @classmethod
    def fit_maps(
        cls,
        scans: Iterable[Mapping[str, Any]],
        atlas: Atlas,
        families: Sequence[str] = FAMILIES,
        n_components: int = 20,
        seed: int = 0,
        progress: bool = False,
    ) -> CohortReference:
        """A reference with gradients and ICA maps, from the mean connectivity of the scans, but no statistics yet."""
        families = check_families(families)
        if not set(families) & set(MAP_FAMILIES):
            return cls(maps=ReferenceMaps(atlas), families=families)
        total = np.zeros((atlas.n_rois, atlas.n_rois))
        n_known = np.zeros((atlas.n_rois, atlas.n_rois), dtype=np.int64)
        scans = tqdm(_readable_twice(scans), desc="reference: maps", unit="scan", disable=not progress)
        for row in scans:
            try:
                scan = prepare_scan(row["bold"], row["t_r"], atlas, row.get("roi_mask"))
            except ScanError as error:
                logger.warning(
                    f"Scan {row.get('scan_id', '(unnamed)')} is left out of the reference: {error}"
                )
                continue
            cells = np.ix_(scan.usable, scan.usable)
            total[cells] += scan.connectivity
            n_known[cells] += 1
        return cls.from_connectivity_sums(total, n_known, atlas, families, n_components, seed)

    @classmethod
    def from_connectivity_sums(
        cls,
        total: np.ndarray,
        n_known: np.ndarray,
        atlas: Atlas,
        families: Sequence[str] = FAMILIES,
        n_components: int = 20,
        seed: int = 0,
    ) -> CohortReference:
        """The same as `fit_maps`, from sums over the scans, which several processes can take in parts.

        Parameters
        ----------
        total : numpy.ndarray of shape (n_rois, n_rois)
            Sum of ``PreparedScan.connectivity`` over the scans.
        n_known : numpy.ndarray of shape (n_rois, n_rois), int
            How many scans have both ROIs.
        """
        families = check_families(families)
        maps = ReferenceMaps.from_connectivity_sums(total, n_known, atlas, families, n_components, seed)
        return cls(maps=maps, families=families)

    def fit_statistics(self, rows: Iterable[tuple[str, Mapping[str, float]]]) -> CohortReference:
        """A copy with mean and SD of every feature over ``(subject_id, features)`` of the training scans.

        The features are those of `compute_features` with this reference.
        """
        names = self.feature_names
        moments = RunningMoments(len(names))
        subjects: set[str] = set()
        n_scans = 0
        for subject, features in rows:
            self._check_features(features)
            moments.update(np.array([features.get(name, np.nan) for name in names], dtype=np.float64))
            subjects.add(str(subject))
            n_scans += 1
        if n_scans < 2:
            raise ScanError(f"A cohort reference needs at least two usable training scans, found {n_scans}.")
        return replace(
            self,
            mean=np.where(moments.count > 0, moments.mean, np.nan),
            std=moments.std,
            count=moments.count,
            n_scans=n_scans,
            n_subjects=len(subjects),
            subjects_sha256=hashlib.sha256("\n".join(sorted(subjects)).encode()).hexdigest(),
        )

    def _feature_rows(self, scans: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, FeatureDict]]:
        for row in scans:
            try:
                features = self.compute(row["bold"], row["t_r"], row.get("roi_mask"))
            except ScanError as error:
                logger.warning(
                    f"Scan {row.get('scan_id', '(unnamed)')} is left out of the reference: {error}"
                )
                continue
            yield row["subject_id"], features

    # ------------------------------------------------------------------------------------------------- using

    @property
    def atlas(self) -> Atlas:
        return self.maps.atlas

    @cached_property
    def feature_table(self) -> dict[str, Feature]:
        """The features that the reference knows, by name."""
        return feature_table(self.atlas, self.families)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(self.feature_table)

    def compute(self, bold: Any, t_r: float, roi_mask: Any = None) -> FeatureDict:
        """`compute_features` of a scan (n_timepoints, n_rois) with the maps, atlas and families of this reference."""
        return compute_features(bold, t_r, self.atlas, self.families, self.maps, roi_mask)

    def z_scores(self, features: Mapping[str, float]) -> dict[str, float]:
        """``(value - mean) / SD`` of each feature that is given; NaN where it, the mean or a positive SD is missing."""
        if self.n_scans == 0:
            raise ValueError("The reference has maps but no statistics yet: call fit_statistics on it first.")
        self._check_features(features)
        scale = np.where(self.std > 1e-6 * np.maximum(np.abs(self.mean), 1e-6), self.std, np.nan)
        statistics = dict(zip(self.feature_names, zip(self.mean, scale, strict=True), strict=True))
        return {
            name: float((features[name] - mean) / std)
            for name, (mean, std) in statistics.items()
            if name in features
        }

    def facts(self, features: Mapping[str, float]) -> list[Fact]:
        """What the features of a scan say against this cohort, see `fmri_lm_hf.corpus.facts.make_facts`.

        Parameters
        ----------
        features : mapping from feature name to value
            From `compute` (all of its families or some). Features that are NaN, or do
            not vary in the cohort, give no fact.

        Examples
        --------
        >>> reference = CohortReference.fit(training_scans, atlas)  # doctest: +SKIP
        >>> reference.facts(reference.compute(bold, t_r=2.0))[0]  # doctest: +SKIP
        {'family': 'connectivity', 'feature': 'connectivity/mean/Visual-Visual', 'network': ['Visual', 'Visual'],
         'value': 0.83, 'z': 1.4, 'direction': 'raised', 'units': 'Fisher z'}
        """
        return make_facts(features, self.z_scores(features), self.feature_table)

    def _check_features(self, features: Mapping[str, float]) -> None:
        unknown = sorted(set(features) - self.feature_table.keys())
        if unknown:
            raise ValueError(
                f"The reference knows no feature {unknown[0]!r} ({len(unknown)} unknown of {len(features)}). It was "
                f"fitted for families {', '.join(self.families)} of atlas {self.atlas.name!r}."
            )
        depends = any(name.startswith(MAP_FAMILIES) for name in features)
        if (
            depends
            and isinstance(features, FeatureDict)
            and features.maps_fingerprint != self.maps.fingerprint
        ):
            raise ValueError(
                "The gradients and ICA features were computed with other maps than this reference's. Compute them with "
                "reference.compute(bold, t_r)."
            )

    # ------------------------------------------------------------------------------------------------- files

    def save(self, directory: str | os.PathLike) -> None:
        """Write ``reference.safetensors`` and ``reference.json`` into a folder, each in one atomic step."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {"mean": self.mean, "std": self.std, "count": self.count}
        arrays |= {
            name: values
            for name, values in (("gradients", self.maps.gradients), ("ica_maps", self.maps.ica_maps))
            if values is not None
        }
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        description = {
            "format_version": FORMAT_VERSION,
            "families": list(self.families),
            "n_scans": self.n_scans,
            "n_subjects": self.n_subjects,
            "subjects_sha256": self.subjects_sha256,
            "arrays_sha256": hashlib.sha256(content).hexdigest(),
            "feature_names": list(self.feature_names),
            "atlas": self.atlas.to_dict(),
        }
        for name, data in ((ARRAYS_FILE, content), (JSON_FILE, json.dumps(description, indent=2).encode())):
            temporary = directory / f".{name}.{os.getpid()}"
            temporary.write_bytes(data)
            os.replace(temporary, directory / name)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> CohortReference:
        """Read a reference that `save` wrote."""
        directory = Path(directory)
        if not (directory / JSON_FILE).is_file():
            raise FileNotFoundError(
                f"{directory} holds no {JSON_FILE}; expected a folder of CohortReference.save."
            )
        description = json.loads((directory / JSON_FILE).read_text())
        if description.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{directory / JSON_FILE} has format version {description.get('format_version')}, this release reads "
                f"{FORMAT_VERSION}. Fit the reference again."
            )
        digest = hashlib.sha256((directory / ARRAYS_FILE).read_bytes()).hexdigest()
        arrays = load_file(directory / ARRAYS_FILE)
        reference = cls(
            maps=ReferenceMaps(
                Atlas.from_dict(description["atlas"]), arrays.get("gradients"), arrays.get("ica_maps")
            ),
            families=tuple(description["families"]),
            mean=arrays["mean"],
            std=arrays["std"],
            count=arrays["count"],
            n_scans=description["n_scans"],
            n_subjects=description["n_subjects"],
            subjects_sha256=description["subjects_sha256"],
        )
        if (
            digest != description["arrays_sha256"]
            or list(reference.feature_names) != description["feature_names"]
        ):
            raise ValueError(
                f"{JSON_FILE} and {ARRAYS_FILE} in {directory} do not belong together. Copy both again from the source."
            )
        return reference


def _readable_twice(scans: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    if isinstance(scans, Iterator):
        raise ValueError(
            f"Scans came as a one-time iterator ({type(scans).__name__}), but the reference reads them twice. Pass a "
            "datasets.Dataset, a list, or an object whose __iter__ starts anew."
        )
    return scans.with_format("numpy") if hasattr(scans, "with_format") else scans
