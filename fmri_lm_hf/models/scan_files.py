"""Reading one scan, whatever it comes as, into a table of ROI signals with its TR: `read_scan`."""

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
from .scan_errors import ScanError, reading
from .scan_images import extract
from .scan_tables import Table, as_flags, as_names, as_seconds, as_table, read_numpy, read_text

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
        Seconds from one time point to the next.
    roi_mask : np.ndarray of shape (n_rois,), bool
        False for ROIs without usable signal.
    sample_mask : np.ndarray of shape (n_timepoints,), bool
        True for time points that were observed; the others were filled in by linear interpolation.
    coverage : np.ndarray of shape (n_rois,), float32, optional
        Share of the voxels of each ROI that have signal, where the scan is an image.
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

    Time points at which no ROI has a number, or all are exactly zero, were not observed (they were censored or
    padded): they are filled in, reported, and marked in `sample_mask`.

    Parameters
    ----------
    scan : path, nibabel image, array, tensor or mapping
        - 4D NIfTI: the signals of the atlas are extracted;
        - CIFTI `.dtseries.nii` (with a CIFTI label atlas) or `.ptseries.nii` (parcels are matched by name);
        - GIFTI `.func.gii` of either hemisphere, with the other one beside it (and a GIFTI or CIFTI label atlas);
        - `.npy`, `.npz` (keys `bold`, optional `t_r`, `roi_names`, `roi_mask` and `sample_mask`), `.tsv`, `.csv`
          (optional header of ROI names), an array or a data frame, of shape (n_timepoints, n_rois);
        - a row of a scan dataset: `bold`, `t_r`, optional `roi_mask` and `sample_mask`.
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
    dtype : {np.float32, np.float64}
        Of `bold`; float64 where confounds are regressed out afterwards.

    Returns
    -------
    Scan

    Raises
    ------
    ScanError
        If the scan cannot be used; the message says what to do.
    """
    known: Collection[str] = () if atlas is None else atlas.roi_names
    if isinstance(scan, (str, os.PathLike)):
        label = Path(scan).name
        found = _read_file(Path(scan), atlas, mask_img)
    elif isinstance(scan, Mapping):
        label = str(scan.get("scan_id", "The scan"))
        if "bold" not in scan:
            raise ScanError(
                f"The scan is a row without `bold`: found {sorted(map(str, scan))}. Expected `bold` and `t_r`."
            )
        beside: dict[str, Any] = {
            key: scan.get(key) for key in ("t_r", "roi_mask", "sample_mask", "coverage")
        }
        found = Table(scan["bold"], scan.get("roi_names"), **beside)
    elif hasattr(scan, "dataobj"):
        label = Path(scan.get_filename() or "The image").name
        found = _read_image(scan, atlas, mask_img)
    else:
        label = "The scan"
        found = Table(scan)

    table = as_table(found.bold, label, known)
    report = [*found.notes, *table.notes]
    bold = table.bold
    names = next((each for each in (roi_names, found.names, table.names) if each is not None), None)
    names = None if names is None else as_names(names, label)
    slots = _slots(bold, names, atlas, n_rois, label)
    n_times, n_columns = bold.shape
    row_mask = as_flags(found.roi_mask, n_columns, "roi_mask", label)
    sample_mask = as_flags(found.sample_mask, n_times, "sample_mask", label)
    coverage = None if found.coverage is None else np.asarray(found.coverage, dtype=np.float32)
    if slots is not None and not np.array_equal(slots, np.arange(len(slots))):
        bold = bold[:, slots]
        row_mask = None if row_mask is None else row_mask[slots]
        report.append("The columns were brought into the order of the atlas by their names.")
    seconds = _settle_t_r(as_seconds(t_r, label), as_seconds(found.t_r, label), label, report)
    with np.errstate(over="ignore"):
        bold = bold.astype(dtype, copy=False)
    bold, sample_mask = _fill_unobserved(bold, row_mask, sample_mask, label, report)
    bold, roi_mask = _mask_rois(bold, row_mask, atlas, label, max_masked, report)
    return Scan(bold, seconds, roi_mask, sample_mask, coverage, tuple(report))


def stem(path: str | os.PathLike) -> str:
    """File name without the extensions of a scan: `sub-1_bold.nii.gz` becomes `sub-1_bold`."""
    scan = r"(\.[dp]tseries)?\.nii(\.gz)?$|(\.(func|label))?\.gii$|\.(npy|npz|tsv|csv|mat)$"
    return re.sub(scan, "", Path(path).name, flags=re.I)


def constant_rois(bold: np.ndarray) -> np.ndarray:
    """Which columns of (n_timepoints, n_rois) do not vary beyond rounding."""
    low, high = bold.min(axis=0), bold.max(axis=0)
    return (high - low) <= 1e-6 * np.maximum(np.abs(low), np.abs(high))


def table_names(path: str | os.PathLike) -> tuple[int, list[str] | None]:
    """Number of ROIs of a table (or `.ptseries.nii`), and their names where the file holds them."""
    label = Path(path).name
    found = _read_file(Path(path), None, None)
    table = as_table(found.bold, label)
    return table.bold.shape[1], None if found.names is None else as_names(found.names, label)


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
        found = _read_image(load_image(path), atlas, mask_img)
    elif suffix.endswith((".npy", ".npz")):
        found = read_numpy(path)
    elif suffix.endswith((".tsv", ".csv")):
        found = read_text(path, () if atlas is None else atlas.roi_names)
    else:
        raise ScanError(
            f"{path.name} is of an unknown kind: expected .nii, .nii.gz, .dtseries.nii, .ptseries.nii, .func.gii, "
            ".npy, .npz, .tsv or .csv."
        )
    beside, t_r = sidecar_t_r(path), as_seconds(found.t_r, path.name)
    if beside is not None and t_r is not None and not math.isclose(beside, t_r, rel_tol=1e-3):
        note = f"{path.name}: the header says TR {t_r:g} s, its sidecar {beside:g} s; the sidecar is taken."
        logger.warning(note)
        found.notes.append(note)
    found.t_r = t_r if beside is None else beside
    return found


def _read_image(image: Any, atlas: Atlas | None, mask_img: Any = None) -> Table:
    name = getattr(image, "get_filename", lambda: None)() or "The image"
    t_r = names = None
    if not is_cifti(image):
        if atlas is None:
            raise ScanError(
                "Reading an image needs an atlas: give `atlas=` (`--atlas`), for example dosenbach_2010."
            )
    else:
        with reading(name):
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
                names = [str(parcel) for parcel in axes[1].name]
        if names is not None:
            return Table(image_data(image), names, t_r)
        if atlas is None:
            raise ScanError(
                "Reading a series of surfaces needs a CIFTI or GIFTI label atlas: give `atlas=` (`--atlas`)."
            )
    found = extract(atlas, image, mask_img)
    if not is_cifti(image):
        with reading(name):
            t_r = _header_t_r(image)
    return Table(found.signals, None, t_r, None, found.observed, found.coverage)


def _header_t_r(image: Any) -> float | None:
    """TR of a NIfTI header; None where it only holds what a writer leaves when it knows no TR."""
    step, unit = float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]
    if step <= 0 or (step == 1 and unit == "unknown"):
        return None
    # the header holds float32: without rounding, 0.72 s would be 0.7200000286 s
    return round(step * SECONDS_PER_UNIT[unit], 6) if unit in SECONDS_PER_UNIT else None


def sidecar_t_r(path: Path) -> float | None:
    """`RepetitionTime` of the BIDS sidecar beside a scan."""
    sidecar = path.with_name(stem(path) + ".json")
    if not sidecar.exists():
        return None
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ScanError(
            f"The sidecar {sidecar.name} of {path.name} is not readable JSON: {error}."
        ) from error
    t_r = record.get("RepetitionTime") if isinstance(record, dict) else None
    return float(t_r) if isinstance(t_r, (int, float)) and not isinstance(t_r, bool) else None


def _slots(
    bold: np.ndarray, names: list[str] | None, atlas: Atlas | None, n_rois: int | None, label: str
) -> np.ndarray | None:
    """Columns of the scan in the order of the atlas; None where they have no names."""
    if names is None or atlas is None:
        if names is not None and len(names) != bold.shape[1]:
            raise ScanError(_wrong_number(bold, names, label))
        _check_n_rois(bold, n_rois if atlas is None else atlas.n_rois, atlas, label)
        return None
    if len(names) != bold.shape[1]:
        raise ScanError(_wrong_number(bold, names, label))
    if atlas.labels is not None and set(names) == set(
        map(str, atlas.labels)
    ):  # columns named by label values
        names_of_labels = dict(zip(map(str, atlas.labels), atlas.roi_names, strict=True))
        names = [names_of_labels[name] for name in names]
    return atlas.roi_slots(names)


def _wrong_number(bold: np.ndarray, names: Sequence[str], label: str) -> str:
    return f"{label} has {bold.shape[1]} columns but {len(names)} ROI names: give one for each column."


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


def _settle_t_r(given: float | None, found: float | None, label: str, report: list[str]) -> float:
    if given is None and found is None:
        raise ScanError(
            f"{label} does not say its TR: give it in seconds (`t_r=`; `--t-r` of `fmri-lm scans`), or in a sidecar "
            "(RepetitionTime)."
        )
    t_r = float(found if given is None else given)  # type: ignore[arg-type]
    if not PLAUSIBLE_T_R[0] <= t_r <= PLAUSIBLE_T_R[1]:
        raise ScanError(
            f"{label} has TR {t_r:g} s, which no scan has: give it in seconds, not milliseconds (`t_r=`; `--t-r` of "
            "`fmri-lm scans`)."
        )
    if given is not None and found is not None and not math.isclose(given, found, rel_tol=1e-3):
        note = f"{label} says TR {found:g} s, but t_r={given:g} s was given: the given one is taken."
        logger.warning(note)
        report.append(note)
    return t_r


def _fill_unobserved(
    bold: np.ndarray,
    row_mask: np.ndarray | None,
    sample_mask: np.ndarray | None,
    label: str,
    report: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Fill in the time points that hold no signal, and say which were observed."""
    known = np.ones(bold.shape[1], dtype=bool) if row_mask is None else row_mask
    signals = bold[:, known] if known.any() else bold
    # A column without any number says nothing about time points; one ROI alone may well be zero for once.
    has_numbers = np.isfinite(signals).any(axis=0)
    signals = signals[:, has_numbers]
    if not signals.shape[1]:
        return bold, np.ones(len(bold), dtype=bool) if sample_mask is None else sample_mask
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
            for column in np.flatnonzero(np.isfinite(bold[observed]).all(axis=0)):
                bold[blank, column] = np.interp(times[blank], times[observed], bold[observed, column])
        note = (
            f"{label}: {np.sum(blank)} of {len(bold)} time points hold no signal (NaN or zero throughout); they were "
            "filled in and count as censored."
        )
        logger.warning(note)
        report.append(note)
    return bold, observed


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
        raise ScanError(
            f"{label} has no usable signal in {np.sum(~roi_mask)} of {len(roi_mask)} ROIs ({np.sum(~finite)} with NaN "
            f"or infinite values, {np.sum(flat)} constant): at most {max_masked:.0%} may be masked. "
            "Check the extraction."
        )
    if new.size:
        names = [atlas.roi_names[i] if atlas is not None else f"column {i}" for i in new[:5]]
        more = f" and {new.size - 5} more" if new.size > 5 else ""
        note = f"{label}: {new.size} ROIs are NaN or constant and were masked ({', '.join(names)}{more})."
        logger.warning(note)
        report.append(note)
    if not roi_mask.all():
        bold = np.where(roi_mask, bold, bold.dtype.type(0))
    return bold, roi_mask
