"""Reading one scan, whatever it comes as, into a table of ROI signals with its TR: `read_scan`."""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .atlas import Atlas
from .scan_images import ScanError, image_data, is_cifti, load_image

__all__ = ["Scan", "constant_rois", "read_scan", "sidecar_t_r", "stem", "table_names"]

logger = logging.get_logger(__name__)

PLAUSIBLE_T_R = (0.05, 20.0)  # seconds; a larger number is nearly always milliseconds
SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0, "second": 1.0}
MISSING = {"": "nan", "n/a": "nan", "N/A": "nan", "NA": "nan"}


@dataclass
class Scan:
    """One scan as ROI signals.

    Attributes
    ----------
    bold : np.ndarray of shape (n_timepoints, n_rois), float32
        Masked ROIs are zero.
    t_r : float
        Seconds from one time point to the next.
    roi_mask : np.ndarray of shape (n_rois,), bool
        False for ROIs without usable signal.
    report : tuple of str
        What was noticed on reading, one sentence each.
    """

    bold: np.ndarray
    t_r: float
    roi_mask: np.ndarray
    report: tuple[str, ...] = ()


def read_scan(
    scan: Any,
    atlas: Atlas | None = None,
    t_r: float | None = None,
    roi_names: Sequence[str] | None = None,
    *,
    n_rois: int | None = None,
    max_masked: float = 0.5,
    mask_img: Any = None,
) -> Scan:
    """Read a scan into a table of ROI signals with its TR.

    Parameters
    ----------
    scan : path, nibabel image, array, tensor or mapping
        - 4D NIfTI: the signals of the atlas are extracted;
        - CIFTI `.dtseries.nii` (with a CIFTI label atlas) or `.ptseries.nii` (parcels are matched by name);
        - `.npy`, `.npz` (keys `bold`, optional `t_r` and `roi_names`), `.tsv`, `.csv` (optional header of ROI
          names) or an array, of shape (n_timepoints, n_rois);
        - a row of a scan dataset: `bold`, `t_r`, optional `roi_mask`.
    atlas : Atlas, optional
        Needed for images. Tables with ROI names are brought into its order.
    t_r : float, optional
        TR in seconds, if the scan does not say it, or to overrule what it says.
    roi_names : sequence of str, optional
        Names of the columns of an array.
    n_rois : int, optional
        Expected number of ROIs where there is no atlas.
    max_masked : float
        The scan is refused if a larger part of its ROIs has no usable signal.
    mask_img : path or nibabel image, optional
        Only voxels of this brain mask are read from a NIfTI scan.

    Returns
    -------
    Scan

    Raises
    ------
    ScanError
        If the scan cannot be used; the message says what to do.
    """
    report: list[str] = []
    if isinstance(scan, (str, os.PathLike)):
        label = Path(scan).name
        bold, found_t_r, found_names, row_mask = _read_file(Path(scan), atlas, mask_img, report)
    elif isinstance(scan, Mapping):
        label = str(scan.get("scan_id", "The scan"))
        if "bold" not in scan:
            raise ScanError(
                f"The scan is a row without `bold`: found {sorted(scan)}. Expected `bold` and `t_r`."
            )
        bold, found_t_r, found_names = scan["bold"], scan.get("t_r"), scan.get("roi_names")
        row_mask = scan.get("roi_mask")
    elif hasattr(scan, "dataobj"):
        label = Path(scan.get_filename() or "The image").name
        bold, found_t_r, found_names = _read_image(scan, atlas, mask_img)
        row_mask = None
    else:
        label = "The scan"
        bold, found_t_r, found_names, row_mask = scan, None, None, None

    bold = _as_table(bold, label)
    names = roi_names if roi_names is not None else found_names
    n_expected = atlas.n_rois if atlas is not None else n_rois
    slots = None
    if names is not None and len(names) != bold.shape[1]:
        raise ScanError(
            f"{label} has {bold.shape[1]} columns but {len(names)} ROI names: give one for each column."
        )
    if names is not None and atlas is not None:
        slots = atlas.roi_slots(names)
    else:
        _check_n_rois(bold, n_expected, atlas, label)
    if row_mask is not None:
        row_mask = np.asarray(row_mask, dtype=bool)
        if row_mask.shape != (bold.shape[1],):
            raise ScanError(f"{label} has a roi_mask of shape {row_mask.shape}: expected ({bold.shape[1]},).")
    if slots is not None and not np.array_equal(slots, np.arange(len(slots))):
        bold = bold[:, slots]
        row_mask = None if row_mask is None else row_mask[slots]
        report.append("The columns were brought into the order of the atlas by their names.")
    seconds = _settle_t_r(t_r, found_t_r, label, report)
    bold, roi_mask = _mask_rois(bold, row_mask, atlas, label, max_masked, report)
    return Scan(bold, seconds, roi_mask, tuple(report))


def stem(path: str | os.PathLike) -> str:
    """File name without the extensions of a scan: `sub-1_bold.nii.gz` becomes `sub-1_bold`."""
    return re.sub(r"(\.[dp]tseries)?\.nii(\.gz)?$|\.(npy|npz|tsv|csv|mat)$", "", Path(path).name, flags=re.I)


def constant_rois(bold: np.ndarray) -> np.ndarray:
    """Which columns of (n_timepoints, n_rois) do not vary beyond rounding."""
    low, high = bold.min(axis=0), bold.max(axis=0)
    return (high - low) <= 1e-6 * np.maximum(np.abs(low), np.abs(high))


def table_names(path: str | os.PathLike) -> tuple[int, list[str] | None]:
    """Number of ROIs of a table (or `.ptseries.nii`), and their names where the file holds them."""
    bold, _, names, _ = _read_file(Path(path), None, None, [])
    return _as_table(bold, Path(path).name).shape[1], None if names is None else list(names)


Content = tuple[Any, float | None, Sequence[str] | None]


def _read_file(
    path: Path, atlas: Atlas | None, mask_img: Any, report: list[str]
) -> tuple[Any, float | None, Sequence[str] | None, Any]:
    suffix = path.name.lower()
    if not path.exists():
        raise ScanError(f"The scan {path.name} does not exist: check the path {path}.")
    if path.is_dir():
        raise ScanError(f"{path.name} is a folder: expected one scan. For folders use `fmri-lm scans`.")
    row_mask = None
    if suffix.endswith((".nii", ".nii.gz")):
        bold, t_r, names = _read_image(load_image(path), atlas, mask_img)
    elif suffix.endswith((".npy", ".npz")):
        bold, t_r, names, row_mask = _read_numpy(path)
    elif suffix.endswith((".tsv", ".csv")):
        bold, t_r, names = _read_text(path)
    else:
        raise ScanError(
            f"{path.name} is of an unknown kind: expected .nii, .nii.gz, .dtseries.nii, .ptseries.nii, .npy, .npz, "
            ".tsv or .csv."
        )
    beside = sidecar_t_r(path)
    if beside is not None and t_r is not None and not math.isclose(beside, t_r, rel_tol=1e-3):
        note = f"{path.name}: the header says TR {t_r:g} s, its sidecar {beside:g} s; the sidecar is taken."
        logger.warning(note)
        report.append(note)
    return bold, t_r if beside is None else beside, names, row_mask


def _read_image(image: Any, atlas: Atlas | None, mask_img: Any = None) -> Content:
    if not is_cifti(image):
        if atlas is None:
            raise ScanError(
                "Reading an image needs an atlas: give `atlas=`, for example Atlas.load('dosenbach_2010')."
            )
        return atlas.extract(image, mask_img), _header_t_r(image), None
    axes = [image.header.get_axis(i) for i in range(image.ndim)]
    kinds = [type(axis).__name__ for axis in axes]
    if kinds[0] != "SeriesAxis":
        raise ScanError(
            f"The CIFTI file holds {' x '.join(kinds)}: expected a series (.dtseries.nii, .ptseries.nii)."
        )
    unit = SECONDS_PER_UNIT.get(str(axes[0].unit).lower())
    t_r = None if unit is None else float(axes[0].step) * unit
    if kinds[1] == "ParcelsAxis":
        return image_data(image), t_r, [str(name) for name in axes[1].name]
    if atlas is None:
        raise ScanError("Reading a dense CIFTI series needs a CIFTI label atlas: give `atlas=`.")
    return atlas.extract(image), t_r, None


def _header_t_r(image: Any) -> float | None:
    """TR of a NIfTI header; None where it only holds what a writer leaves when it knows no TR."""
    step, unit = float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]
    if step <= 0 or (step == 1 and unit == "unknown"):
        return None
    # the header holds float32: without rounding, 0.72 s would be 0.7200000286 s
    return round(step * SECONDS_PER_UNIT[unit], 6) if unit in SECONDS_PER_UNIT else None


def _read_numpy(path: Path) -> tuple[Any, float | None, Sequence[str] | None, Any]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content, None, None, None
        with content:
            arrays = {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ScanError(
            f"{path.name} is not a readable array file: it may be truncated, or hold Python objects, which are never "
            "loaded. Save it again with numpy.save or numpy.savez, with numbers and strings only."
        ) from error
    if "bold" not in arrays and len(arrays) != 1:
        raise ScanError(f"{path.name} holds {sorted(arrays)}: expected the key `bold` (or a single array).")
    bold = arrays["bold"] if "bold" in arrays else next(iter(arrays.values()))
    names = arrays["roi_names"].tolist() if "roi_names" in arrays else None
    return bold, float(arrays["t_r"]) if "t_r" in arrays else None, names, arrays.get("roi_mask")


def _read_text(path: Path) -> Content:
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ScanError(f"{path.name} cannot be read as text: {error}.") from error
    if not lines:
        raise ScanError(f"{path.name} is empty: expected a row for each time point.")
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    rows = [[MISSING.get(cell, cell) for cell in map(str.strip, line.split(delimiter))] for line in lines]
    names = None
    if not all(map(_is_number, rows[0])):
        names = [cell.strip('"') for cell in rows.pop(0)]
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(names or rows[0])), None)
    if ragged is not None:
        raise ScanError(
            f"{path.name} has {len(rows[ragged])} columns in data row {ragged + 1}, expected {len(names or rows[0])}: "
            "the file may be truncated, or use another delimiter."
        )
    try:
        return np.asarray(rows, dtype=np.float64), None, names
    except ValueError as error:
        raise ScanError(f"{path.name} holds text where numbers are expected: {error}.") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def sidecar_t_r(path: Path) -> float | None:
    """`RepetitionTime` of the BIDS sidecar beside a scan."""
    sidecar = path.with_name(stem(path) + ".json")
    if not sidecar.exists():
        return None
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScanError(
            f"The sidecar {sidecar.name} of {path.name} is not readable JSON: {error}."
        ) from error
    t_r = record.get("RepetitionTime") if isinstance(record, dict) else None
    return float(t_r) if isinstance(t_r, (int, float)) else None


def _as_table(bold: Any, label: str) -> np.ndarray:
    """A numeric (n_timepoints, n_rois) float32 table from an array, a tensor or nested lists."""
    if hasattr(bold, "detach"):
        bold = bold.detach().cpu().numpy()
    try:
        table = np.asarray(bold)
        if table.dtype.kind not in "fiub":
            table = table.astype(np.float32)  # nested lists with None come as objects
    except (TypeError, ValueError) as error:
        raise ScanError(f"{label} is no table of numbers: expected shape (n_timepoints, n_rois).") from error
    if table.ndim != 2 or table.size == 0:
        raise ScanError(f"{label} has shape {table.shape}: expected (n_timepoints, n_rois).")
    return table.astype(np.float32, copy=False)


def _check_n_rois(bold: np.ndarray, n_expected: int | None, atlas: Atlas | None, label: str) -> None:
    if n_expected is None or bold.shape[1] == n_expected:
        return
    whose = f" of atlas {atlas.name!r}" if atlas is not None else ""
    if bold.shape[0] == n_expected:
        raise ScanError(
            f"{label} has shape {bold.shape} and looks transposed: expected (n_timepoints, {n_expected} ROIs{whose}). "
            "Transpose it."
        )
    raise ScanError(
        f"{label} has {bold.shape[1]} ROIs (shape {bold.shape}), expected {n_expected}{whose}: extract it with the "
        "atlas that the model was made for."
    )


def _settle_t_r(given: float | None, found: Any, label: str, report: list[str]) -> float:
    found = None if found is None or not np.isfinite(found) else float(found)
    if given is None and found is None:
        raise ScanError(
            f"{label} does not say its TR: give it in seconds, `t_r=`, or in a sidecar (RepetitionTime)."
        )
    t_r = float(found if given is None else given)  # type: ignore[arg-type]
    if not PLAUSIBLE_T_R[0] <= t_r <= PLAUSIBLE_T_R[1]:
        raise ScanError(
            f"{label} has TR {t_r:g} s, which no scan has: give `t_r=` in seconds, not milliseconds."
        )
    if given is not None and found is not None and not math.isclose(given, found, rel_tol=1e-3):
        note = f"{label} says TR {found:g} s, but t_r={given:g} s was given: the given one is taken."
        logger.warning(note)
        report.append(note)
    return t_r


def _mask_rois(
    bold: np.ndarray,
    row_mask: np.ndarray | None,
    atlas: Atlas | None,
    label: str,
    max_masked: float,
    report: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Zero and mask the ROIs without usable signal; refuse a scan that has too many of them."""
    if len(bold) < 2:
        raise ScanError(
            f"{label} has {len(bold)} time point: expected a series. Is it a single volume or a map?"
        )
    finite = np.isfinite(bold).all(axis=0)
    with np.errstate(invalid="ignore"):
        flat = finite & constant_rois(bold)
    usable = finite & ~flat
    known = np.ones(len(usable), dtype=bool) if row_mask is None else row_mask
    new = np.flatnonzero(known & ~usable)  # those that the scan itself does not already mask
    roi_mask = usable & known
    if not roi_mask.any() or np.mean(~roi_mask) > max_masked:
        blank = int(np.sum(~np.isfinite(bold).any(axis=1)))
        hint = (
            f" {blank} time points are NaN throughout: remove or interpolate censored volumes."
            if blank
            else ""
        )
        raise ScanError(
            f"{label} has no usable signal in {np.sum(~roi_mask)} of {len(roi_mask)} ROIs ({np.sum(~finite)} with NaN "
            f"or infinite values, {np.sum(flat)} constant): at most {max_masked:.0%} may be masked. "
            f"Check the extraction.{hint}"
        )
    if new.size:
        names = [atlas.roi_names[i] if atlas is not None else f"column {i}" for i in new[:5]]
        more = f" and {new.size - 5} more" if new.size > 5 else ""
        note = f"{label}: {new.size} ROIs are NaN or constant and were masked ({', '.join(names)}{more})."
        logger.warning(note)
        report.append(note)
    if not roi_mask.all():
        bold = np.where(roi_mask, bold, np.float32(0))
    return bold, roi_mask
