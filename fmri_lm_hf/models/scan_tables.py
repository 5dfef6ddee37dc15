"""Tables of ROI signals: arrays, tensors, data frames, text files and numpy's files.

A header of numbers or an index column is recognised, or the table is refused: taken for a time point or an ROI, it
would go unnoticed and change every correlation.
"""

from __future__ import annotations

import csv
import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .scan_errors import ScanError, as_scan_error

# Keys of dataset rows and .npz files, next to `bold`.
ROW_KEYS = ("t_r", "roi_names", "roi_mask", "sample_mask", "coverage")
MISSING = {"": "nan", "n/a": "nan", "N/A": "nan", "NA": "nan", "NaN": "nan"}
# Usual names of the column that counts time points.
INDEX_NAMES = {
    *("", "unnamed: 0", "index", "row", "time", "times", "timepoint", "time_point", "timepoints"),
    *("volume", "volumes", "frame", "frames", "scan", "t", "tr", "seconds", "sec"),
}
KINDS = {"b": "true or false", "c": "complex numbers", "M": "dates", "m": "durations", "V": "records"}
MIN_INDEX_LENGTH = 5  # time points; a shorter column of equal steps may be a signal


@dataclass
class Table:
    """Signals as they were read, unchecked.

    Attributes
    ----------
    bold : np.ndarray of shape (n_timepoints, n_rois)
    t_r : float, optional
        In seconds.
    roi_names : list of str, optional
    roi_mask, sample_mask, coverage : array, optional
    notes : list of str
        What was noticed, one sentence each.
    """

    bold: Any
    t_r: Any = None
    roi_names: Sequence[str] | None = None
    roi_mask: Any = None
    sample_mask: Any = None
    coverage: Any = None
    notes: list[str] = field(default_factory=list)


def check_table(table: Table, label: str, known: Collection[str] = ()) -> None:
    """Turn `table.bold` into an array of numbers (n_timepoints, n_rois), or refuse it.

    Parameters
    ----------
    table : Table
        Changed in place. `bold` may be an array, a tensor, a data frame or nested lists; the columns of a data frame
        name ROIs, and its index columns are dropped.
    label : str
        What errors call it.
    known : collection of str
        Names of ROIs, which no index column has.
    """
    bold, columns = table.bold, None
    with as_scan_error(label, f"{label} is no table of numbers: expected shape (n_timepoints, n_rois)."):
        if hasattr(bold, "columns") and hasattr(bold, "to_numpy"):
            columns, bold = [str(name) for name in bold.columns], bold.to_numpy()
        if hasattr(bold, "detach"):
            bold = bold.detach().cpu()  # numpy knows no bfloat16: floats go by double
            bold = (bold.double() if bold.is_floating_point() else bold).numpy()
        if np.ma.is_masked(bold):
            raise ScanError(
                f"{label} is a masked array with masked values, which would count as signal: fill them with NaN, or "
                "give the time points that were observed as `sample_mask`."
            )
        values = np.asarray(bold)
        if values.dtype.kind == "O":  # such as nested lists with None
            values = _numbers(values, label)
    if values.dtype.kind not in "fiu":
        what = KINDS.get(values.dtype.kind, "text")
        raise ScanError(f"{label} is no table of numbers but of {what}: expected (n_timepoints, n_rois).")
    if values.ndim != 2 or values.size == 0:
        raise ScanError(f"{label} has shape {values.shape}: expected (n_timepoints, n_rois).")
    if columns is not None:
        is_count = _counts([_number(name) for name in columns])
        values, columns = _drop_index(values, None if is_count else columns, label, known, table.notes)
        table.roi_names = columns if table.roi_names is None else table.roi_names
    table.bold = values


def _numbers(values: np.ndarray, label: str) -> np.ndarray:
    flat = list(values.ravel())
    for value in flat:
        if value is not None and (not isinstance(value, numbers.Real) or isinstance(value, (bool, np.bool_))):
            raise ScanError(f"{label} is no table of numbers: found a value of type {type(value).__name__} in it.")
    return np.array([np.nan if value is None else float(value) for value in flat]).reshape(values.shape)


def read_text(path: Path, known: Collection[str] = ()) -> Table:
    """Read a `.tsv` or `.csv` table, with or without a header of ROI names.

    A first row of whole numbers above rows of fractions, or one that counts its columns, is a header too: data frames
    without names are written so. A first column that counts time points is dropped.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ScanError(f"{path.name} cannot be read as text: {error}.") from error
    if not lines:
        raise ScanError(f"{path.name} is empty: expected a row for each time point.")
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    first = _cells(lines[0], delimiter)
    has_header = any(np.isnan(_number(cell)) and cell.lower() not in ("n/a", "na", "nan", "") for cell in first)
    if has_header and len(lines) == 1:
        raise ScanError(f"{path.name} holds a header alone: expected a row for each time point.")
    values, names, notes = _parse(lines[has_header:], delimiter, len(first), path), None, []
    if has_header:
        names = first
    elif len(values) > 1 and _is_numeric_header(first, values):
        notes.append(f"{path.name}: the first row numbers the columns and was read as a header.")
        if not _counts(values[0, first[0] == "" :]):
            names = [str(int(_number(cell))) if cell else cell for cell in first]
        values = values[1:]
    values, names = _drop_index(values, names, path.name, known, notes)
    return Table(values, roi_names=names, notes=notes)


def _cells(line: str, delimiter: str) -> list[str]:
    (row,) = csv.reader([line], delimiter=delimiter, skipinitialspace=delimiter == ",")
    return [cell.strip() for cell in row]


def _parse(lines: list[str], delimiter: str, n_columns: int, path: Path) -> np.ndarray:
    try:
        # fast, and strict: `genfromtxt` would fill a cell that it cannot read with NaN
        values = np.loadtxt(lines, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
        if values.shape == (len(lines), n_columns):
            return values
    except (ValueError, IndexError):
        pass  # again below, slower: with missing values, or an error that names the row
    rows = [_cells(line, delimiter) for line in lines]
    ragged = next((i for i, row in enumerate(rows) if len(row) != n_columns), None)
    if ragged is not None:
        raise ScanError(
            f"{path.name} has {len(rows[ragged])} columns in data row {ragged + 1}, expected {n_columns}: "
            "the file may be truncated, or use another delimiter."
        )
    try:
        return np.asarray([[MISSING.get(cell, cell) for cell in row] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise ScanError(f"{path.name} holds text where numbers are expected: {error}.") from error


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return np.nan


def _counts(values: Any) -> bool:
    """Whether values are 0, 1, 2, ... or 1, 2, 3, ..."""
    values = np.asarray(values, dtype=float)
    return len(values) > 0 and any(np.array_equal(values, np.arange(len(values)) + start) for start in (0, 1))


def _is_numeric_header(first: Sequence[str], values: np.ndarray) -> bool:
    has_corner = first[0] == ""  # pandas leaves the cell above its index empty
    cells, rest = values[0, has_corner:], values[1:, has_corner:]
    if len(cells) < 2 or not np.isfinite(cells).all() or np.any(cells != np.rint(cells)):
        return False
    if _counts(cells) and (has_corner or len(cells) > 2):
        return True
    # Whole numbers that count nothing, such as 3 7 12, are a header if most values below are fractions: a time point
    # that happens to be all whole numbers is hardly found above those.
    fractions = np.isfinite(rest) & (rest != np.rint(rest))
    return len(set(cells)) == len(cells) and bool(fractions.mean() > 0.5)


def _drop_index(
    values: np.ndarray, names: list[str] | None, label: str, known: Collection[str], notes: list[str]
) -> tuple[np.ndarray, list[str] | None]:
    """Drop leading columns that count time points; refuse one that has no name and does not."""
    while values.shape[1] > 1:
        column = np.asarray(values[:, 0], dtype=float)
        steps = np.diff(column)
        long_enough = len(column) >= (MIN_INDEX_LENGTH if names is None else 2)
        # equal steps, not integers alone: the column may hold seconds
        counts = long_enough and steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3, atol=0)
        if names is not None:
            name = names[0].strip().lower()
            if names[0].strip() in known or name not in INDEX_NAMES:
                break
            if not counts and (not name or name.startswith("unnamed")):
                raise ScanError(
                    f"{label} has a first column without a name that does not count time points: name it, or leave it "
                    "out (pandas: `to_csv(..., index=False)`)."
                )
        if not counts:
            break
        values, names = values[:, 1:], None if names is None else names[1:]
        notes.append(f"{label}: the first column counts time points and was dropped.")
    return values, names


def read_numpy(path: Path) -> Table:
    """Read a `.npy` or `.npz` file; the latter may hold `bold`, `t_r`, `roi_names`, `roi_mask` and `sample_mask`."""
    message = (
        f"{path.name} is not a readable array file: it may be truncated, or hold Python objects, which are never "
        "loaded. Save it again with numpy.save or numpy.savez, with numbers and strings only."
    )
    with as_scan_error(path, message):
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return Table(content)
        with content:
            arrays = {key: content[key] for key in content.files}
    if "bold" not in arrays and len(arrays) != 1:
        raise ScanError(f"{path.name} holds {sorted(arrays)}: expected the key `bold` (or a single array).")
    bold = arrays["bold"] if "bold" in arrays else next(iter(arrays.values()))
    others: dict[str, Any] = {key: arrays.get(key) for key in ROW_KEYS}
    return Table(bold, **others)


def as_names(names: Any, label: str) -> list[str]:
    """Read names of columns, from a list or an array of text."""
    if not isinstance(names, (list, tuple)):
        values = np.asarray(names)
        if values.ndim != 1 or values.dtype.kind not in "USOiu":
            raise ScanError(f"{label} has `roi_names` of shape {values.shape}: expected a name for each column.")
        names = values.tolist()
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]


def as_flags(values: Any, n: int, what: str, label: str) -> np.ndarray | None:
    """Read a mask of `n` values, true or false."""
    if values is None:
        return None
    no_flags = f"{label} has a {what} that holds no flags: expected {n} values true or false."
    with as_scan_error(label, no_flags):
        flags = np.asarray(values)
        if flags.shape != (n,):
            raise ScanError(f"{label} has a {what} of shape {flags.shape}: expected ({n},).")
        if flags.dtype.kind != "b" and not (flags.dtype.kind in "iuf" and np.isin(flags, (0, 1)).all()):
            raise ScanError(no_flags)
    return flags.astype(bool)


def as_seconds(value: Any, label: str) -> float | None:
    """Read a TR in seconds from whatever holds one number; None if there is none (None or NaN)."""
    if value is None:
        return None
    with as_scan_error(label, f"{label} has a TR that is no number: expected seconds, such as 2.0."):
        number = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if number.size != 1 or number.dtype.kind not in "fiu":
        raise ScanError(f"{label} has a TR that is no number ({value!r:.40}): expected seconds, such as 2.0.")
    seconds = float(number.ravel()[0])
    return None if np.isnan(seconds) else seconds
