"""Which scans of a folder are wanted, and which of those that were read are good enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...models.scan_images import ScanError
from ...models.scan_reading import Scan

__all__ = ["Selection", "Thresholds"]

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
