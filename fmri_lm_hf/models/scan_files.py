"""Reading a scan of any format into a table of ROI signals with its TR: `read_scan`.

Files and objects are opened as a `Table` of unchecked values. Then the columns are matched with the atlas, the TR is
determined, time points without signal are filled in, and ROIs without signal are masked, in this order.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .atlas import Atlas
from .image_files import image_data, is_cifti, load_image
from .scan_errors import ScanError, as_scan_error
from .scan_images import extract
from .scan_tables import ROW_KEYS, Table, as_flags, as_names, as_seconds, check_table, read_numpy, read_text

logger = logging.get_logger(__name__)

PLAUSIBLE_T_R = (0.05, 20.0)  # seconds; a larger number is nearly always milliseconds
SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0, "second": 1.0}


@dataclass
class Scan:
    """One scan as ROI signals.

    Attributes
    ----------
    bold : np.ndarray of shape (n_timepoints, n_rois), float32
        Masked ROIs are zero.
    t_r : float
        Repetition time in seconds.
    roi_mask : np.ndarray of shape (n_rois,), bool
        False for ROIs without usable signal.
    sample_mask : np.ndarray of shape (n_timepoints,), bool
        True for observed time points; the others were filled in by linear interpolation.
    coverage : np.ndarray of shape (n_rois,), float32, optional
        For images: the share of the voxels of each ROI that have signal.
    report : tuple of str
        What was noticed on reading, one sentence each.
    """

    bold: np.ndarray
    t_r: float
    roi_mask: np.ndarray
    sample_mask: np.ndarray
    coverage: np.ndarray | None = None
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
    dtype: type = np.float32,
) -> Scan:
    """Read a scan into a table of ROI signals with its TR.

    Time points at which no ROI has a number, or all are exactly zero, were not observed (censored or padded): they are
    filled in, reported, and marked in `sample_mask`.

    Parameters
    ----------
    scan : path, nibabel image, array, tensor or mapping
        - 4D NIfTI: the signals of the atlas are extracted;
        - CIFTI `.dtseries.nii` (with a CIFTI label atlas) or `.ptseries.nii` (parcels are matched by name);
        - GIFTI `.func.gii` of either hemisphere, the other one in the same folder (with a GIFTI or CIFTI label atlas);
        - `.npy`, `.npz` (keys `bold`, optional `t_r`, `roi_names`, `roi_mask` and `sample_mask`), `.tsv`, `.csv`
          (optional header of ROI names), an array or a data frame, of shape (n_timepoints, n_rois);
        - a row of a scan dataset: `bold`, `t_r`, optional `roi_mask` and `sample_mask`.
    atlas : Atlas, optional
        Needed for images. Tables with ROI names are brought into its order.
    t_r : float, optional
        TR in seconds, if the scan does not carry it, or to override it.
    roi_names : sequence of str, optional
        Names of the columns of an array.
    n_rois : int, optional
        Expected number of ROIs if there is no atlas.
    max_masked : float
        The scan is refused if a larger share of its ROIs has no usable signal.
    mask_img : path or nibabel image, optional
        Only voxels of this brain mask are read from a NIfTI scan.
    dtype : {np.float32, np.float64}
        Of `bold`; float64 if confounds are regressed out afterwards.

    Returns
    -------
    Scan

    Raises
    ------
    ScanError
        If the scan cannot be used; the message says what to do.

    Examples
    --------
    >>> scan = read_scan("sub-01_bold.nii.gz", Atlas.load("dosenbach_2010"))
    >>> scan.bold.shape, scan.t_r
    ((240, 160), 2.0)
    """
    label = "The scan"
    if isinstance(scan, (str, os.PathLike)):
        label = Path(scan).name
        table = _read_file(Path(scan), atlas, mask_img)
    elif isinstance(scan, Mapping):
        label = str(scan.get("scan_id", label))
        if "bold" not in scan:
            raise ScanError(
                f"The scan is a row without `bold`: found {sorted(map(str, scan))}. Expected `bold` and `t_r`."
            )
        others: dict[str, Any] = {key: scan.get(key) for key in ROW_KEYS}
        table = Table(scan["bold"], **others)
    elif hasattr(scan, "dataobj"):
        label = Path(scan.get_filename() or "The image").name
        table = _read_image(scan, atlas, mask_img)
    else:
        table = Table(scan)
    known: Collection[str] = () if atlas is None else atlas.roi_names
    check_table(table, label, known)
    report = table.notes

    def warn(note: str) -> None:
        logger.warning(note)
        report.append(note)

    bold = table.bold
    n_times, n_columns = bold.shape
    names = table.roi_names if roi_names is None else roi_names
    slots = _slots(bold.shape, None if names is None else as_names(names, label), atlas, n_rois, label)
    row_mask = as_flags(table.roi_mask, n_columns, "roi_mask", label)
    sample_mask = as_flags(table.sample_mask, n_times, "sample_mask", label)
    coverage = None if table.coverage is None else np.asarray(table.coverage, dtype=np.float32)
    if slots is not None and not np.array_equal(slots, np.arange(len(slots))):
        bold = bold[:, slots]
        row_mask = None if row_mask is None else row_mask[slots]
        report.append("The columns were brought into the order of the atlas by their names.")

    found, given = as_seconds(table.t_r, label), as_seconds(t_r, label)
    seconds = found if given is None else given
    if seconds is None:
        raise ScanError(
            f"{label} does not say its TR: give it in seconds (`t_r=`; `--t-r` of `fmri-lm scans`), or in a sidecar "
            "(RepetitionTime)."
        )
    if not PLAUSIBLE_T_R[0] <= seconds <= PLAUSIBLE_T_R[1]:
        raise ScanError(
            f"{label} has TR {seconds:g} s, which no scan has: give it in seconds, not milliseconds (`t_r=`; `--t-r` "
            "of `fmri-lm scans`)."
        )
    if found is not None and not math.isclose(seconds, found, rel_tol=1e-3):
        warn(f"{label} states TR {found:g} s, but t_r={given:g} s was given: the given one is used.")

    # Values beyond float32 become infinite, and their ROI is masked below: no reason to warn here.
    with np.errstate(over="ignore"):
        bold = bold.astype(dtype, copy=False)
    # Time points first: a scan with a few censored volumes of NaN would otherwise lose every ROI.
    bold, sample_mask, n_filled = _fill_unobserved(bold, row_mask, sample_mask, label)
    if n_filled:
        warn(
            f"{label}: {n_filled} of {n_times} time points hold no signal (NaN or zero throughout); they were filled "
            "in and count as censored."
        )
    roi_mask = _usable_rois(bold, row_mask, label, max_masked)
    masked = np.flatnonzero(~roi_mask if row_mask is None else row_mask & ~roi_mask)
    if masked.size:
        shown = ", ".join(f"column {i}" if atlas is None else atlas.roi_names[i] for i in masked[:5])
        more = f" and {masked.size - 5} more" if masked.size > 5 else ""
        warn(f"{label}: {masked.size} ROIs are NaN or constant and were masked ({shown}{more}).")
    if not roi_mask.all():
        bold = np.where(roi_mask, bold, bold.dtype.type(0))
    return Scan(bold, seconds, roi_mask, sample_mask, coverage, tuple(report))


def stem(path: str | os.PathLike) -> str:
    """Return a file name without the extensions of a scan: `sub-1_bold.nii.gz` becomes `sub-1_bold`."""
    scan = r"(\.[dp]tseries)?\.nii(\.gz)?$|(\.(func|label))?\.gii$|\.(npy|npz|tsv|csv|mat)$"
    return re.sub(scan, "", Path(path).name, flags=re.I)


def constant_rois(bold: np.ndarray) -> np.ndarray:
    """Find which columns of (n_timepoints, n_rois) do not vary beyond rounding."""
    low, high = bold.min(axis=0), bold.max(axis=0)
    return (high - low) <= 1e-6 * np.maximum(np.abs(low), np.abs(high))


def table_names(path: str | os.PathLike) -> tuple[int, list[str] | None]:
    """Return the number of ROIs of a table (or `.ptseries.nii`), and their names if the file holds them."""
    label = Path(path).name
    table = _read_file(Path(path), None, None)
    check_table(table, label)
    return table.bold.shape[1], None if table.roi_names is None else as_names(table.roi_names, label)


def sidecar_t_r(path: Path) -> float | None:
    """Read the `RepetitionTime` of the BIDS sidecar of a scan."""
    sidecar = path.with_name(stem(path) + ".json")
    if not sidecar.exists():
        return None
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ScanError(f"The sidecar {sidecar.name} of {path.name} is not readable JSON: {error}.") from error
    t_r = record.get("RepetitionTime") if isinstance(record, dict) else None
    return float(t_r) if isinstance(t_r, (int, float)) and not isinstance(t_r, bool) else None


def _read_file(path: Path, atlas: Atlas | None, mask_img: Any) -> Table:
    suffix = path.name.lower()
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        raise ScanError(f"The path {str(path)[:80]!r}... cannot be opened: {error}.") from error
    if not exists:
        raise ScanError(f"The scan {path.name} does not exist: check the path {path}.")
    if is_folder:
        raise ScanError(f"{path.name} is a folder: expected one scan. For folders use `fmri-lm scans`.")
    if suffix.endswith((".nii", ".nii.gz", ".gii")):
        table = _read_image(load_image(path), atlas, mask_img)
    elif suffix.endswith((".npy", ".npz")):
        table = read_numpy(path)
    elif suffix.endswith((".tsv", ".csv")):
        table = read_text(path, () if atlas is None else atlas.roi_names)
    else:
        raise ScanError(
            f"{path.name} is of an unknown kind: expected .nii, .nii.gz, .dtseries.nii, .ptseries.nii, .func.gii, "
            ".npy, .npz, .tsv or .csv."
        )
    of_sidecar, of_header = sidecar_t_r(path), as_seconds(table.t_r, path.name)
    if of_sidecar is None:
        return table
    if of_header is not None and not math.isclose(of_sidecar, of_header, rel_tol=1e-3):
        note = f"{path.name}: the header states TR {of_header:g} s, its sidecar {of_sidecar:g} s; the sidecar is used."
        logger.warning(note)
        table.notes.append(note)
    table.t_r = of_sidecar
    return table


def _read_image(image: Any, atlas: Atlas | None, mask_img: Any = None) -> Table:
    name = getattr(image, "get_filename", lambda: None)() or "The image"
    t_r = None
    if is_cifti(image):
        with as_scan_error(name):
            axes = [image.header.get_axis(i) for i in range(image.ndim)]
            kinds = [type(axis).__name__ for axis in axes]
            if kinds[0] != "SeriesAxis" or len(kinds) != 2:
                raise ScanError(
                    f"{Path(name).name} holds {' x '.join(kinds)}: expected a series (.dtseries.nii, .ptseries.nii, "
                    ".func.gii)."
                )
            if tuple(map(len, axes)) != tuple(image.shape):
                raise ScanError(
                    f"{Path(name).name} holds values of shape {tuple(image.shape)}, but its header describes "
                    f"{tuple(map(len, axes))}: it is damaged. Copy or export it again."
                )
            unit = SECONDS_PER_UNIT.get(str(axes[0].unit).lower())
            t_r = None if unit is None else float(axes[0].step) * unit
            if kinds[1] == "ParcelsAxis":
                return Table(image_data(image), t_r, [str(parcel) for parcel in axes[1].name])
    if atlas is None:
        raise ScanError(
            "Reading a series of surfaces needs a CIFTI or GIFTI label atlas: give `atlas=` (`--atlas`)."
            if is_cifti(image)
            else "Reading an image needs an atlas: give `atlas=` (`--atlas`), for example dosenbach_2010."
        )
    found = extract(atlas, image, mask_img)
    if not is_cifti(image):
        with as_scan_error(name):
            step, unit = float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]
        # writers that do not know the TR leave 0, or 1 without a unit
        if step > 0 and (step, unit) != (1, "unknown") and unit in SECONDS_PER_UNIT:
            # the header holds float32: without rounding, 0.72 s would be 0.7200000286 s
            t_r = round(step * SECONDS_PER_UNIT[unit], 6)
    return Table(found.signals, t_r, sample_mask=found.observed, coverage=found.coverage)


def _slots(
    shape: tuple[int, int], names: list[str] | None, atlas: Atlas | None, n_rois: int | None, label: str
) -> np.ndarray | None:
    """Find the columns of the scan in the order of the atlas; None if they are in this order."""
    n_times, n_columns = shape
    if names is not None:
        if len(names) != n_columns:
            raise ScanError(f"{label} has {n_columns} columns but {len(names)} ROI names: give one for each.")
        if atlas is not None:
            if atlas.labels is not None and set(names) == set(map(str, atlas.labels)):
                # columns named by the values of the label image
                names_of_labels = dict(zip(map(str, atlas.labels), atlas.roi_names, strict=True))
                names = [names_of_labels[name] for name in names]
            return atlas.roi_slots(names)
    n_expected = n_rois if atlas is None else atlas.n_rois
    if n_expected in (None, n_columns):
        return None
    of_atlas = f" of atlas {atlas.name!r}" if atlas is not None else ""
    if n_times == n_expected:
        # Refused, not transposed: it may as well be a scan of another atlas, with as many time points.
        raise ScanError(
            f"{label} has shape {shape} and looks transposed: expected (n_timepoints, {n_expected} ROIs{of_atlas}). "
            "Transpose it."
        )
    raise ScanError(
        f"{label} has {n_columns} ROIs (shape {shape}), expected {n_expected}{of_atlas}: extract it with the atlas "
        "of the model."
    )


def _fill_unobserved(
    bold: np.ndarray, row_mask: np.ndarray | None, sample_mask: np.ndarray | None, label: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Fill in the time points without signal; also return which were observed, and the number of the others."""
    signals = bold if row_mask is None or not row_mask.any() else bold[:, row_mask]
    # A column without any number says nothing about time points; one ROI alone may well be zero for once.
    signals = signals[:, np.isfinite(signals).any(axis=0)]
    if not signals.shape[1]:
        return bold, np.ones(len(bold), dtype=bool) if sample_mask is None else sample_mask, 0
    # Zero throughout is what some programs leave of censored volumes. In one ROI alone it may be a value, and if all
    # volumes are zero there is nothing to compare with.
    blank = ~np.isfinite(signals).any(axis=1)
    if signals.shape[1] > 1:
        zero = ~signals.any(axis=1)
        blank |= zero & (np.count_nonzero(zero) < len(bold))
    observed = ~blank if sample_mask is None else sample_mask & ~blank
    if observed.sum() < 2 <= len(bold):
        raise ScanError(
            f"{label} has {observed.sum()} observed time points of {len(bold)} (the others are NaN or zero throughout, "
            "or censored): expected a series. Check the extraction."
        )
    if blank.any():
        times = np.arange(len(bold))
        bold = bold.copy()
        with np.errstate(invalid="ignore"):
            # columns with numbers at all observed points; the others are masked as a whole
            for column in np.flatnonzero(np.isfinite(bold[observed]).all(axis=0)):
                bold[blank, column] = np.interp(times[blank], times[observed], bold[observed, column])
    return bold, observed, int(blank.sum())


def _usable_rois(bold: np.ndarray, row_mask: np.ndarray | None, label: str, max_masked: float) -> np.ndarray:
    """Find the ROIs with usable signal; refuse a scan in which too few have."""
    if len(bold) < 2:
        raise ScanError(f"{label} has {len(bold)} time point: expected a series. Is it a single volume or a map?")
    finite = np.isfinite(bold).all(axis=0)
    with np.errstate(invalid="ignore"):
        flat = finite & constant_rois(bold)
    roi_mask = finite & ~flat if row_mask is None else finite & ~flat & row_mask
    if not roi_mask.any() or np.mean(~roi_mask) > max_masked:
        raise ScanError(
            f"{label} has no usable signal in {np.sum(~roi_mask)} of {len(roi_mask)} ROIs ({np.sum(~finite)} with NaN "
            f"or infinite values, {np.sum(flat)} constant): at most {max_masked:.0%} may be masked. "
            "Check the extraction."
        )
    return roi_mask
