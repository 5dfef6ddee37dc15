"""GIFTI surfaces: a file for each hemisphere, opened together as one CIFTI image.

As CIFTI, a surface series or parcellation needs no readers of its own: all vertices of the left hemisphere are followed
by all of the right one.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from .scan_errors import ScanError, reading, require, unreadable

__all__ = ["both_hemispheres", "open_surfaces"]

# How names say the hemisphere: BIDS, FreeSurfer at either end, and Workbench.
HEMISPHERE = (
    re.compile(r"_hemi-([LR])(?=[_.])"),
    re.compile(r"^([lr])h[._]"),
    re.compile(r"[._-]([lr])h(?=[._])"),
    re.compile(r"[._]([LR])(?=\.)"),
)
STRUCTURES = ("CortexLeft", "CortexRight")
MESH = {1008, 1009}  # intents of coordinates and triangles
# Some writers give the time step in milliseconds, others in seconds. No scan has a TR that could be either.
SHORTEST_MS = 50
LARGEST_KEY = 2**24  # beyond it, float32 has no room for every whole number


def both_hemispheres(path: str | os.PathLike) -> tuple[str, Path, Path]:
    """The two files of a surface.

    Parameters
    ----------
    path : path
        The file of either hemisphere.

    Returns
    -------
    name : str
        What the names of both have in common.
    left, right : Path
        They need not exist.
    """
    path = Path(path)
    for pattern in HEMISPHERE:
        match = pattern.search(path.name)
        if match is not None:
            before, after = path.name[: match.start(1)], path.name[match.end(1) :]
            sides = "LR" if match[1].isupper() else "lr"
            left, right = (path.with_name(before + side + after) for side in sides)
            return path.name[: match.start()] + path.name[match.end() :], left, right
    raise ScanError(
        f"{path.name} does not say in its name which hemisphere it is of: expected hemi-L or hemi-R (or .L., .R., lh., "
        "rh.), and the other hemisphere beside it."
    )


def open_surfaces(path: str | os.PathLike) -> Any:
    """Both hemispheres of a surface series (`.func.gii`) or parcellation (`.label.gii`).

    Parameters
    ----------
    path : path
        The file of either hemisphere; the other one lies beside it.

    Returns
    -------
    nibabel.Cifti2Image
        In memory: (n_timepoints, n_vertices), or one row of labels with the table that names them. The series has a
        step of NaN where the files do not say their TR.

    Raises
    ------
    ScanError
        If a hemisphere is missing, a file cannot be read, or the two do not fit.
    """
    path = Path(path)
    _, *files = both_hemispheres(path)
    for file in files:
        if not file.exists():
            raise ScanError(
                f"The hemisphere {file.name} does not exist: a surface is read from the files of both hemispheres, "
                "side by side."
            )
    cifti2 = require("nibabel.cifti2")
    halves = [_open(file, structure) for file, structure in zip(files, STRUCTURES, strict=True)]
    is_labels = path.name.lower().endswith(".label.gii")
    rows = [_rows(half, file) for half, file in zip(halves, files, strict=True)]
    if len(rows[0]) != len(rows[1]):
        what = "maps" if is_labels else "time points"
        raise ScanError(
            f"{files[0].name} has {len(rows[0])} {what}, but {files[1].name} has {len(rows[1])}: expected two "
            "hemispheres of one scan."
        )
    cortex = cifti2.BrainModelAxis.from_mask(np.ones(rows[0].shape[1], dtype=bool), name="cortex_left")
    cortex += cifti2.BrainModelAxis.from_mask(np.ones(rows[1].shape[1], dtype=bool), name="cortex_right")
    if is_labels:
        if len(rows[0]) != 1:
            raise ScanError(
                f"{path.name} holds {len(rows[0])} maps of labels: expected one, export it alone."
            )
        values, names = _merged_labels(halves, rows, path)
        axis = cifti2.LabelAxis(["labels"], [{key: (name, (1, 1, 1, 1)) for key, name in names.items()}])
    else:
        values = np.concatenate(rows, axis=1)
        axis = cifti2.SeriesAxis(0, _time_step(halves, files), len(values))
    image = cifti2.Cifti2Image(values, (axis, cortex))
    image.file_map["image"].filename = str(path)  # what errors call it
    return image


def _open(file: Path, structure: str) -> Any:
    with reading(file):
        image = require("nibabel").load(file)
        if not getattr(image, "darrays", None):
            raise ScanError(unreadable(file))
        meta = [dict(part.meta) for part in (image, *image.darrays)]
        said = {each["AnatomicalStructurePrimary"] for each in meta if "AnatomicalStructurePrimary" in each}
    other = said & set(STRUCTURES) - {structure}
    if other:
        raise ScanError(
            f"{file.name} says in its header that it is of {other.pop()}, expected {structure} by its name: the "
            "hemispheres are exchanged, or the file was renamed."
        )
    return image


def _rows(image: Any, file: Path) -> np.ndarray:
    """Values (n_timepoints, n_vertices): an array for each time point, or one with all of them as columns."""
    with reading(file):
        arrays = [np.asarray(array.data) for array in image.darrays]
        if any(array.intent in MESH for array in image.darrays):
            raise ScanError(
                f"{file.name} holds a mesh: expected values of its vertices (.func.gii, .label.gii)."
            )
        rows = arrays[0].T if len(arrays) == 1 and arrays[0].ndim == 2 else np.stack(arrays)
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiu":
            raise ScanError(unreadable(file))
        return np.ascontiguousarray(rows, dtype=np.float32)


def _time_step(images: list[Any], files: list[Path]) -> float:
    """TR in seconds; NaN where no file says it."""
    found = set()
    for image, file in zip(images, files, strict=True):
        for part in (image, *image.darrays):
            text = dict(part.meta).get("TimeStep")
            if text is None:
                continue
            try:
                step = float(text)
            except ValueError as error:
                raise ScanError(f"{file.name} has the TimeStep {text[:20]!r}: expected a number.") from error
            if math.isfinite(step) and step > 0:
                found.add(step / 1000 if step >= SHORTEST_MS else step)
    if len(found) > 1:
        raise ScanError(
            f"{files[0].name} and the other hemisphere give several TRs ({', '.join(f'{t:g}' for t in sorted(found))} "
            "s): expected one."
        )
    return found.pop() if found else math.nan


def _merged_labels(
    images: list[Any], rows: list[np.ndarray], path: Path
) -> tuple[np.ndarray, dict[int, str]]:
    """Labels of both hemispheres (1, n_vertices), and the names of those that occur.

    Parcellations that number each hemisphere from one get other numbers on the right, and names that both have are told
    apart by `LH_` and `RH_`.
    """
    with reading(path):
        tables = [dict(image.labeltable.get_labels_as_dict()) for image in images]
        keys = [np.rint(np.maximum(np.nan_to_num(half[0]), 0)).astype(int) for half in rows]  # -1 is unknown
    left, right = (
        {key: str(table[key]) for key in np.unique(values).tolist() if key != 0 and key in table}
        for table, values in zip(tables, keys, strict=True)
    )
    if left.keys() & right.keys():
        shift = int(keys[0].max())
        keys[1] = np.where(keys[1] != 0, keys[1] + shift, 0)
        right = {key + shift: name for key, name in right.items()}
    twice = set(left.values()) & set(right.values())
    left = {key: f"LH_{name}" if name in twice else name for key, name in left.items()}
    right = {key: f"RH_{name}" if name in twice else name for key, name in right.items()}
    values = np.concatenate(keys)[None]
    if values.max() > LARGEST_KEY:
        raise ScanError(
            f"{path.name} has label keys up to {values.max()}, expected at most "
            f"{LARGEST_KEY}: number its labels from one."
        )
    return values.astype(np.float32), {0: "???"} | left | right
