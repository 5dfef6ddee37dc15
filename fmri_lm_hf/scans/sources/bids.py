"""BIDS names: what a file is about, and which other files belong to the same scan."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...models.scan_errors import ScanError, require
from ...models.scan_files import Scan, stem

# Phenotypes from a BIDS `participants.tsv`, or another table with a row for each subject.

ID_COLUMNS = ("participant_id", "subject_id")
RESERVED = {
    "scan_id",
    "session",
    "t_r",
    "n_timepoints",
    "bold",
    "roi_mask",
    "mean_fd",
    "sample_mask",
    "coverage",
}


def read_participants(path: Path) -> dict[str, dict[str, Any]]:
    """Phenotypes of each subject, by its id without `sub-`; missing values are None.

    A column `site` gives the site of the subject's scans; the others become columns of the dataset.
    """
    pandas = require("pandas")
    try:
        separator = "," if path.suffix.lower() == ".csv" else "\t"
        table = pandas.read_csv(path, sep=separator, na_values=["n/a"], dtype=dict.fromkeys(ID_COLUMNS, str))
    except (OSError, ValueError) as error:
        raise ScanError(f"The participants file {path} cannot be read: {error}.") from error
    identifier = next((column for column in ID_COLUMNS if column in table), None)
    if identifier is None:
        raise ScanError(
            f"{path.name} has no column participant_id: found {', '.join(map(str, table.columns))}."
        )
    reserved = RESERVED & set(table.columns)
    if reserved:
        raise ScanError(f"{path.name} may not have the column {', '.join(sorted(reserved))}: rename it.")
    keys = [subject_key(value) for value in table.pop(identifier)]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise ScanError(
            f"{path.name} has several rows for {', '.join(twice[:5])}: expected one for each subject."
        )
    table = table.convert_dtypes()  # whole numbers with missing values stay whole
    columns = {str(name): [plain_value(value) for value in table[name]] for name in table}
    return {key: {name: values[i] for name, values in columns.items()} for i, key in enumerate(keys)}


def subject_key(subject_id: Any) -> str:
    """A subject's id without the prefix that BIDS writes in some places and not in others."""
    return str(subject_id).removeprefix("sub-")


def plain_value(value: Any, missing: float | None = None) -> Any:
    """A value of a pandas table as plain Python; None where it is missing (or equals the code `missing`)."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is require("pandas").NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return None if missing is not None and value == missing else value


# Which scans of a folder are wanted, and which of those that were read are good enough.

ENTITY_OF = {
    **{"subject": "sub", "participant_label": "sub", "session": "ses", "task": "task", "run": "run"},
    **{"acquisition": "acq", "direction": "dir", "reconstruction": "rec", "echo": "echo", "ceagent": "ce"},
    **{"space": "space", "desc": "desc", "resolution": "res", "density": "den", "part": "part"},
}


@dataclass(frozen=True)
class Selection:
    """Scans by their BIDS entities.

    Parameters
    ----------
    wanted : mapping of str to tuple of str
        Values that an entity may have, such as `{"task": ("rest",), "sub": ("01", "02")}`; a scan without the entity
        is not wanted. Numbers are compared as numbers: run `1` is run `01`.
    """

    wanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, filter_file: Path | None = None, **options: Any) -> Selection:
        """From options by name (`participant_label`, `session`, `task`, `run`) and a filter file as of fMRIPrep."""
        wanted = {
            ENTITY_OF[name]: tuple(str(value) for value in values)
            for name, values in options.items()
            if values
        }
        if filter_file is not None:
            wanted |= _read_filter(filter_file)
        if "sub" in wanted:
            wanted["sub"] = tuple(label.removeprefix("sub-") for label in wanted["sub"])
        if "ses" in wanted:
            wanted["ses"] = tuple(label.removeprefix("ses-") for label in wanted["ses"])
        return cls(wanted)

    def reason(self, entities: Mapping[str, str]) -> str | None:
        """Why a scan is not wanted; None if it is."""
        for entity, values in self.wanted.items():
            found = entities.get(entity)
            if found is None or _same(found) not in {_same(value) for value in values}:
                has = f"has {entity}-{found}" if found is not None else f"has no {entity}-"
                return f"not selected: {has}, wanted {', '.join(values)}"
        return None


def _same(value: str) -> str:
    return value.lstrip("0") or "0" if value.isdigit() else value


def _read_filter(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScanError(f"The BIDS filter file {path} cannot be read: {error}.") from error
    query = record.get("bold", {}) if isinstance(record, dict) else None
    if not isinstance(query, dict):
        raise ScanError(f'{path.name} is no BIDS filter file: expected {{"bold": {{"task": "rest"}}}}.')
    wanted = {}
    for name, value in query.items():
        if name in ("datatype", "suffix", "extension"):
            continue
        if name not in ENTITY_OF:
            raise ScanError(
                f"{path.name} filters by {name!r}: expected some of {', '.join(sorted(ENTITY_OF))}."
            )
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, (str, int)) for each in values):
            raise ScanError(f"{path.name} has {name}: {value!r}, expected a value or a list of values.")
        wanted[ENTITY_OF[name]] = tuple(map(str, values))
    return wanted


@dataclass(frozen=True)
class Thresholds:
    """When a scan or an ROI is good enough.

    Parameters
    ----------
    max_masked : float
        Refuse scans with a larger part of ROIs without signal.
    min_coverage : float
        Mask ROIs of which a smaller part of the voxels has signal.
    min_minutes : float
        Refuse scans of which less is left after censoring. Studies of resting-state connectivity ask for 4 to 5.
    max_censored : float
        Refuse scans of which a larger part was censored.
    max_mean_fd : float, optional
        Refuse scans with a larger mean framewise displacement, in mm; scans without a known one pass.
    min_dof : int
        Refuse scans with fewer residual degrees of freedom after confounds were regressed out.
    """

    max_masked: float = 0.5
    min_coverage: float = 0.5
    min_minutes: float = 1.0
    max_censored: float = 0.8
    max_mean_fd: float | None = None
    min_dof: int = 20

    def __post_init__(self) -> None:
        for name in ("max_masked", "min_coverage", "max_censored"):
            if not 0 <= getattr(self, name) <= 1:
                raise ScanError(f"{name}={getattr(self, name)} found, expected a share from 0 to 1.")

    def apply(self, scan: Scan, mean_fd: float | None, label: str) -> Scan:
        """Mask what is not covered; raise `ScanError` with the figures if the scan is not good enough."""
        scan = self._covered(scan, label)
        n_left, n_times = int(scan.sample_mask.sum()), len(scan.sample_mask)
        minutes = n_left * scan.t_r / 60
        if minutes < self.min_minutes:
            raise ScanError(
                f"{label} has {minutes:.2f} minutes left ({n_left} of {n_times} time points at TR {scan.t_r:g} s), "
                f"expected at least {self.min_minutes:g} (--min-minutes)."
            )
        censored = 1 - n_left / n_times
        if censored > self.max_censored:
            raise ScanError(
                f"{label} has {censored:.0%} of its time points censored ({n_times - n_left} of {n_times}), expected "
                f"at most {self.max_censored:.0%} (--max-censored)."
            )
        if self.max_mean_fd is not None and mean_fd is not None and mean_fd > self.max_mean_fd:
            raise ScanError(
                f"{label} has a mean framewise displacement of {mean_fd:.3f} mm, expected at most "
                f"{self.max_mean_fd:g} (--max-mean-fd)."
            )
        return scan

    def _covered(self, scan: Scan, label: str) -> Scan:
        if scan.coverage is None:
            return scan
        poor = scan.roi_mask & (scan.coverage < self.min_coverage)
        if not poor.any():
            return scan
        roi_mask = scan.roi_mask & ~poor
        if not roi_mask.any() or np.mean(~roi_mask) > self.max_masked:
            raise ScanError(
                f"{label} has signal in less than {self.min_coverage:.0%} of the voxels of {poor.sum()} ROIs, which "
                f"leaves {roi_mask.sum()} of {len(roi_mask)}: at most {self.max_masked:.0%} may be masked "
                "(--min-coverage, --max-masked). Check that scan and atlas are in one space."
            )
        note = f"{label}: {poor.sum()} ROIs are covered by less than {self.min_coverage:.0%} and were masked."
        scan.bold[:, poor] = 0
        scan.roi_mask = roi_mask
        scan.report = (*scan.report, note)
        return scan


# Entities that say how a file was derived from a scan; all others say which scan it is.
DERIVED = {"space", "cohort", "res", "den", "label", "desc", "atlas", "seg", "stat", "hemi", "scale"}


def bids_entities(path: Path) -> dict[str, str]:
    """BIDS entities of a file name: `sub-01_task-rest_bold.nii.gz` gives `{"sub": "01", "task": "rest"}`."""
    return dict(re.findall(r"(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9+]+)", stem(path)))


def identity(path: Path) -> dict[str, str]:
    """The entities that say which scan a file belongs to."""
    return {key: value for key, value in bids_entities(path).items() if key not in DERIVED}


def scan_name(path: Path) -> str:
    """The scan that a file belongs to: `sub-01_task-rest_space-T1w_bold.nii.gz` gives `sub-01_task-rest`."""
    return "_".join(f"{key}-{value}" for key, value in identity(path).items())


def suffix_of(path: Path) -> str:
    """The last part of a BIDS name: `timeseries` of `sub-01_desc-confounds_timeseries.tsv`."""
    return stem(path).rpartition("_")[2].partition(".")[0]


def companion(path: Path, suffix: str, extension: str = ".tsv", **entities: str) -> Path | None:
    """The file beside a scan that is about the same scan and has this suffix.

    Entities are compared, not beginnings of names: `run-1` is not `run-10`.

    Parameters
    ----------
    path : Path
        A file of the scan.
    suffix, extension : str
        Such as `outliers` and `.tsv`.
    **entities : str
        That the companion must have besides, such as `desc="confounds"`.

    Returns
    -------
    Path or None
        Of several, the one with the fewest entities of derivation.
    """
    wanted = identity(path)
    found = [
        other
        for other in sorted(path.parent.glob(f"*_{suffix}{extension}"))
        if identity(other) == wanted
        and suffix_of(other) == suffix
        and entities.items() <= bids_entities(other).items()
    ]
    return min(found, key=lambda other: (len(bids_entities(other)), other.name), default=None)
