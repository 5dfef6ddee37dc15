"""Tables of ROI signals in every form they come in: arrays, tensors, data frames, text files and numpy's files.

What a table holds beside signals (a header of numbers, an index column) is recognised, or the table is refused: taken
for a time point or an ROI it would go unnoticed and change every correlation.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .scan_errors import ScanError, reading

MISSING = {"": "nan", "n/a": "nan", "N/A": "nan", "NA": "nan", "NaN": "nan"}
# What writers of tables call the column that counts time points.
INDEX_NAMES = {
    *("", "unnamed: 0", "index", "row", "time", "times", "timepoint", "time_point", "timepoints"),
    *("volume", "volumes", "frame", "frames", "scan", "t", "tr", "seconds", "sec"),
}
KINDS = {"b": "true or false", "c": "complex numbers", "M": "dates", "m": "durations", "V": "records"}
FEWEST_TO_COUNT = 5  # time points from which on a column of equal steps is an index and no signal


@dataclass
class Table:
    """Signals as they were found.

    Attributes
    ----------
    bold : np.ndarray of shape (n_timepoints, n_rois)
    names : list of str, optional
        Of the columns.
    t_r : float, optional
        In seconds.
    roi_mask, sample_mask, coverage : array, optional
        Unchecked, as the file or row holds them.
    notes : list of str
        What was noticed, one sentence each.
    """

    bold: Any
    names: Sequence[str] | None = None
    t_r: Any = None
    roi_mask: Any = None
    sample_mask: Any = None
    coverage: Any = None
    notes: list[str] = field(default_factory=list)


def as_table(bold: Any, label: str, known: Collection[str] = ()) -> Table:
    """A table of numbers from an array, a tensor, a data frame or nested lists.

    Parameters
    ----------
    bold : array, tensor, data frame or nested lists
        (n_timepoints, n_rois)
    label : str
        What errors call it.
    known : collection of str
        Names of ROIs, which no index column has.
    """
    names = None
    with reading(label, f"{label} is no table of numbers: expected shape (n_timepoints, n_rois)."):
        if hasattr(bold, "columns") and hasattr(bold, "to_numpy"):
            names, bold = [str(name) for name in bold.columns], bold.to_numpy()
        if hasattr(bold, "detach"):
            bold = bold.detach().cpu()
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
    table = Table(values)
    if names is not None:
        table.names = None if _counts([_number(name) for name in names]) else names
        _drop_index(table, label, known)
    return table


def _numbers(values: np.ndarray, label: str) -> np.ndarray:
    flat = [None if value is None else value for value in values.ravel()]
    wrong = next((v for v in flat if v is not None and not isinstance(v, numbers.Real)), None)
    if wrong is not None or any(isinstance(value, (bool, np.bool_)) for value in flat):
        kind = type(wrong).__name__ if wrong is not None else "bool"
        raise ScanError(f"{label} is no table of numbers: found a value of type {kind} in it.")
    return np.array([np.nan if v is None else float(v) for v in flat]).reshape(values.shape)


def read_text(path: Path, known: Collection[str] = ()) -> Table:
    """A `.tsv` or `.csv` table, with or without a header of ROI names.

    A first row of whole numbers above rows of fractions, or one that counts its columns, is a header too: data frames
    without names are written so. A first column that counts time points is left out.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ScanError(f"{path.name} cannot be read as text: {error}.") from error
    if not lines:
        raise ScanError(f"{path.name} is empty: expected a row for each time point.")
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    first = [cell.strip().strip('"').strip() for cell in lines[0].split(delimiter)]
    is_header = any(
        np.isnan(_number(cell)) and cell.lower() not in ("n/a", "na", "nan", "") for cell in first
    )
    if is_header and len(lines) == 1:
        raise ScanError(f"{path.name} holds a header alone: expected a row for each time point.")
    values = _parse(lines[is_header:], delimiter, len(first), path)
    table = Table(values, first if is_header else None)
    if not is_header and len(values) > 1 and _is_numeric_header(first, values):
        table.bold = values[1:]
        table.names = None if _counts(values[0, first[0] == "" :]) else [_plain(cell) for cell in first]
        table.notes.append(f"{path.name}: the first row numbers the columns and was taken for a header.")
    _drop_index(table, path.name, known)
    return table


def _parse(lines: list[str], delimiter: str, n_columns: int, path: Path) -> np.ndarray:
    try:
        values = np.loadtxt(lines, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
        if values.shape == (len(lines), n_columns):
            return values
    except (ValueError, IndexError):
        pass  # missing values, or something to be named
    rows = [[cell.strip().strip('"').strip() for cell in line.split(delimiter)] for line in lines]
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


def _plain(cell: str) -> str:
    value = _number(cell)
    return str(int(value)) if np.isfinite(value) and value == int(value) else cell


def _counts(values: Any) -> bool:
    """Whether values are 0, 1, 2, ... or 1, 2, 3, ..."""
    values = np.asarray(values, dtype=float)
    return len(values) > 0 and any(np.array_equal(values, np.arange(len(values)) + start) for start in (0, 1))


def _is_numeric_header(first: Sequence[str], values: np.ndarray) -> bool:
    has_corner = first[0] == ""  # pandas writes none above its index
    cells, rest = values[0, has_corner:], values[1:, has_corner:]
    if len(cells) < 2 or not np.isfinite(cells).all() or np.any(cells != np.rint(cells)):
        return False
    if _counts(cells) and (has_corner or len(cells) > 2):
        return True
    fractions = np.isfinite(rest) & (rest != np.rint(rest))
    return len(set(cells)) == len(cells) and bool(fractions.mean() > 0.5)


def _drop_index(table: Table, label: str, known: Collection[str]) -> None:
    """Leave out leading columns that count time points; refuse one that has no name and does not."""
    while table.bold.shape[1] > 1:
        column = np.asarray(table.bold[:, 0], dtype=float)
        steps = np.diff(column)
        long_enough = len(column) >= (FEWEST_TO_COUNT if table.names is None else 2)
        counts = long_enough and steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3, atol=0)
        if table.names is None:
            has_name = False
        else:
            name = table.names[0].strip()
            if name in known or name.lower() not in INDEX_NAMES:
                return
            has_name = name != "" and not name.lower().startswith("unnamed")
            if not counts and not has_name:
                raise ScanError(
                    f"{label} has a first column without a name that does not count time points: name it, or leave it "
                    "out (pandas: `to_csv(..., index=False)`)."
                )
        if not counts:
            return
        table.bold = table.bold[:, 1:]
        table.names = None if table.names is None else table.names[1:]
        table.notes.append(f"{label}: the first column counts time points and was left out.")


def read_numpy(path: Path) -> Table:
    """A `.npy` or `.npz` file; the latter may hold `bold`, `t_r`, `roi_names`, `roi_mask` and `sample_mask`."""
    message = (
        f"{path.name} is not a readable array file: it may be truncated, or hold Python objects, which are never "
        "loaded. Save it again with numpy.save or numpy.savez, with numbers and strings only."
    )
    with reading(path, message):
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return Table(content)
        with content:
            arrays = {key: content[key] for key in content.files}
    if "bold" not in arrays and len(arrays) != 1:
        raise ScanError(f"{path.name} holds {sorted(arrays)}: expected the key `bold` (or a single array).")
    bold = arrays["bold"] if "bold" in arrays else next(iter(arrays.values()))
    beside: dict[str, Any] = {key: arrays.get(key) for key in ("t_r", "roi_mask", "sample_mask", "coverage")}
    return Table(bold, arrays.get("roi_names"), **beside)


# What stands beside the signals


def as_names(names: Any, label: str) -> list[str]:
    """Names of columns, from a list or an array of text."""
    values = np.asarray(names) if not isinstance(names, (list, tuple)) else names
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "USOiu":
            raise ScanError(f"{label} has `roi_names` of shape {values.shape}: expected a name a column.")
        values = values.tolist()
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in values]


def as_flags(values: Any, n: int, what: str, label: str) -> np.ndarray | None:
    """A mask of `n` values, true or false."""
    if values is None:
        return None
    with reading(label, f"{label} has a {what} that holds no flags: expected {n} values true or false."):
        flags = np.asarray(values)
        is_flags = flags.dtype.kind == "b" or (flags.dtype.kind in "iuf" and np.isin(flags, (0, 1)).all())
    if flags.shape != (n,):
        raise ScanError(f"{label} has a {what} of shape {flags.shape}: expected ({n},).")
    if not is_flags:
        raise ScanError(f"{label} has a {what} that holds no flags: expected {n} values true or false.")
    return flags.astype(bool)


def as_seconds(value: Any, label: str) -> float | None:
    """A TR in seconds from whatever holds one number; None where there is none (None or NaN)."""
    if value is None:
        return None
    with reading(label, f"{label} has a TR that is no number: expected seconds, such as 2.0."):
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "fiu":
        raise ScanError(f"{label} has a TR that is no number ({value!r:.40}): expected seconds, such as 2.0.")
    seconds = float(number.ravel()[0])
    return None if np.isnan(seconds) else seconds
