"""BIDS: file names, tables beside a scan, selection of scans by entity, and tables of participants."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas

from ...models.scan_errors import ScanError
from ...models.scan_files import stem

# Entities of derivatives; all others identify the scan.
DERIVED = {"space", "cohort", "res", "den", "label", "desc", "atlas", "seg", "stat", "hemi", "scale"}
# Entities by their names in filter files and options.
ENTITY_OF = {
    **{name: name for name in ("task", "run", "echo", "space", "desc", "part")},
    **{"subject": "sub", "participant_label": "sub", "session": "ses", "acquisition": "acq", "direction": "dir"},
    **{"reconstruction": "rec", "ceagent": "ce", "resolution": "res", "density": "den"},
}
ID_COLUMNS = ("participant_id", "subject_id")
RESERVED_COLUMNS = {
    *("scan_id", "session", "t_r", "n_timepoints", "bold", "roi_mask", "mean_fd", "sample_mask", "coverage"),
}


# File names


def bids_entities(path: Path) -> dict[str, str]:
    """Parse the BIDS entities of a file name: `sub-01_task-rest_bold.nii.gz` gives `{"sub": "01", "task": "rest"}`."""
    return dict(re.findall(r"(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9+]+)", stem(path)))


def scan_entities(path: Path) -> dict[str, str]:
    """Return the entities that identify the scan of a file."""
    return {key: value for key, value in bids_entities(path).items() if key not in DERIVED}


def scan_name(path: Path) -> str:
    """Name the scan of a file: `sub-01_task-rest_space-T1w_bold.nii.gz` gives `sub-01_task-rest`."""
    return "_".join(f"{key}-{value}" for key, value in scan_entities(path).items())


# Tables beside a scan


def companion(path: Path, suffix: str, extension: str = ".tsv", **entities: str) -> Path | None:
    """Find the file beside a scan that belongs to it and has this suffix.

    It compares entities, not beginnings of names: `run-1` is not `run-10`.

    Parameters
    ----------
    path : Path
        A file of the scan.
    suffix, extension : str
        Such as `outliers` and `.tsv`.
    **entities : str
        Entities that the file must have, such as `desc="confounds"`.

    Returns
    -------
    Path or None
        Of several, the one with the fewest entities.
    """
    found = [
        other
        for other in path.parent.glob(f"*_{suffix}{extension}")
        if scan_entities(other) == scan_entities(path) and entities.items() <= bids_entities(other).items()
    ]
    return min(found, key=lambda other: (len(bids_entities(other)), other.name), default=None)


def confounds_of(path: Path) -> Path | None:
    """Find the table of confounds of a scan, which fMRIPrep before 20.2 called `regressors`."""
    return companion(path, "timeseries", desc="confounds") or companion(path, "regressors", desc="confounds")


def read_tsv(path: Path) -> pandas.DataFrame:
    """Read a table beside a scan."""
    try:
        return pandas.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise ScanError(f"The table {path.name} cannot be read: {error}") from error


def mean_displacement(table: pandas.DataFrame | None, n_dropped: int = 0) -> float | None:
    """Average framewise displacement in mm after the first `n_dropped` volumes; None without such a column."""
    if table is None or "framewise_displacement" not in table:
        return None
    values = pandas.to_numeric(table["framewise_displacement"], errors="coerce")
    return float(values[n_dropped:].mean())


# Selection of scans


@dataclass(frozen=True)
class Selection:
    """A selection of scans by BIDS entities.

    Parameters
    ----------
    wanted : mapping of str to tuple of str
        Accepted values of entities, such as `{"task": ("rest",), "sub": ("01", "02")}`; a scan without the entity is
        not selected. Numbers are compared as numbers: run `1` is run `01`.
    """

    wanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, filter_file: Path | None = None, **options: Any) -> Selection:
        """Make a selection from options (`participant_label`, `session`, `task`, `run`) and a BIDS filter file."""
        wanted = {ENTITY_OF[name]: tuple(map(str, values)) for name, values in options.items() if values}
        if filter_file is not None:
            wanted |= _read_filter(filter_file)
        for entity in {"sub", "ses"} & set(wanted):
            wanted[entity] = tuple(label.removeprefix(f"{entity}-") for label in wanted[entity])
        return cls(wanted)

    def reason(self, entities: Mapping[str, str]) -> str | None:
        """Give the reason why a scan is not selected; None if it is selected."""
        for entity, values in self.wanted.items():
            found = entities.get(entity)
            if found is None:
                return f"not selected: has no {entity}-, expected {', '.join(values)}"
            if _without_zeros(found) not in map(_without_zeros, values):
                return f"not selected: has {entity}-{found}, expected {', '.join(values)}"
        return None


def _without_zeros(value: str) -> str:
    return value.lstrip("0") or "0" if value.isdigit() else value


def _read_filter(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScanError(f"The BIDS filter file {path} cannot be read: {error}.") from error
    query = record.get("bold", {}) if isinstance(record, dict) else None
    if not isinstance(query, dict):
        raise ScanError(f'{path.name} is not a BIDS filter file: expected {{"bold": {{"task": "rest"}}}}.')
    wanted = {}
    for name, value in query.items():
        if name in ("datatype", "suffix", "extension"):
            continue
        if name not in ENTITY_OF:
            raise ScanError(f"{path.name} filters by {name!r}: expected some of {', '.join(sorted(ENTITY_OF))}.")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, (str, int)) for item in values):
            raise ScanError(f"{path.name} has {name}: {value!r}, expected a value or a list of values.")
        wanted[ENTITY_OF[name]] = tuple(map(str, values))
    return wanted


# Participants


def read_participants(path: Path) -> dict[str, dict[str, Any]]:
    """Read phenotypes from a BIDS `participants.tsv`, or a CSV with a row for each subject.

    A column `site` gives the site of the scans of a subject; other columns become columns of the dataset.

    Returns
    -------
    dict
        By subject id without `sub-`, a dict from column to value; missing values are None.
    """
    try:
        # Ids as strings: pandas would read subject 0050 as the number 50.
        separator = "," if path.suffix.lower() == ".csv" else "\t"
        table = pandas.read_csv(path, sep=separator, na_values=["n/a"], dtype=dict.fromkeys(ID_COLUMNS, str))
    except (OSError, ValueError) as error:
        raise ScanError(f"The participants file {path} cannot be read: {error}.") from error
    identifier = next((column for column in ID_COLUMNS if column in table), None)
    if identifier is None:
        raise ScanError(f"{path.name} has no column participant_id: found {', '.join(map(str, table.columns))}.")
    reserved = RESERVED_COLUMNS & set(table.columns)
    if reserved:
        raise ScanError(f"{path.name} may not have the column {', '.join(sorted(reserved))}: rename it.")
    keys = table.pop(identifier).map(subject_key)
    if keys.duplicated().any():
        repeated = sorted(set(keys[keys.duplicated()]))[:5]
        raise ScanError(f"{path.name} has several rows for {', '.join(repeated)}: expected one for each subject.")
    # With nullable types, whole numbers stay whole: pandas makes a column float if a value is missing.
    return dict(zip(keys, plain_rows(table.convert_dtypes()), strict=True))


def subject_key(subject_id: Any) -> str:
    """Remove the prefix `sub-`, which some tables have and others do not."""
    return str(subject_id).removeprefix("sub-")


def plain_rows(table: pandas.DataFrame) -> list[dict[str, Any]]:
    """Convert the rows of a pandas table to plain Python values, None for missing ones."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
