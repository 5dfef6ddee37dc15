"""NIfTI, CIFTI and GIFTI files: opening, checking and reading them with nibabel."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .scan_errors import ScanError, as_scan_error, require, unreadable

GZIP_RATIO = 1032  # deflate packs no tighter: a larger image cannot be in the file
BLOCK = 16  # time points of an array that are copied at once

# Patterns of hemispheres in file names: BIDS, FreeSurfer at either end, and Workbench.
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
LARGEST_KEY = 2**24  # float32 holds larger integers only in part


def load_image(image: Any) -> Any:
    """Open a NIfTI or CIFTI file, or both hemispheres of a GIFTI surface (an image object is returned as it is)."""
    if not isinstance(image, (str, os.PathLike)):
        return image
    if str(image).lower().endswith(".gii"):
        return open_surfaces(image)
    with as_scan_error(image):
        return require("nibabel").load(image)


def is_cifti(image: Any) -> bool:
    """Whether a nibabel image is CIFTI (its header has axes rather than an affine)."""
    return hasattr(getattr(image, "header", None), "get_axis")


def image_data(image: Any) -> np.ndarray:
    """Read the values of an image as float32; a truncated or damaged file ends in a `ScanError`."""
    proxy, name = image.dataobj, image.get_filename() or "The image"
    with as_scan_error(name):
        if not hasattr(proxy, "get_unscaled"):
            return np.asanyarray(proxy, dtype=np.float32)
        check_size(image)
        # Nibabel scales integers in float64, which takes ten times as long and twice the memory.
        data = np.array(proxy.get_unscaled(), dtype=np.float32)
        data *= np.float32(proxy.slope)
        data += np.float32(proxy.inter)
        if str(name).lower().endswith(".gz") and os.path.exists(name):
            with require("nibabel").openers.ImageOpener(name, "rb") as file:
                _read_to_the_end(file)
        return data


def volume_data(image: Any) -> np.ndarray:
    """Read the values of a 3D image (also one that has a fourth axis of length one)."""
    if len(image.shape) < 3 or np.prod(image.shape[3:]) != 1:
        raise ScanError(f"The label or mask image has shape {tuple(image.shape)}: expected one 3D volume.")
    return image_data(image).reshape(image.shape[:3])


def check_size(image: Any) -> None:
    """Refuse a file that is too short for its header, before memory is allocated for what it cannot hold."""
    proxy, name = image.dataobj, image.get_filename()
    if name is None or not hasattr(proxy, "get_unscaled") or not os.path.exists(name):
        return
    # as Python's integers: the shape in a damaged header can overflow 64 bits and come out small
    n_bytes = int(np.prod(proxy.shape, dtype=object)) * proxy.dtype.itemsize
    limit = os.path.getsize(name) * (1 if str(name).lower().endswith(".nii") else GZIP_RATIO)
    if min(proxy.shape, default=0) < 1 or n_bytes > limit:
        raise ScanError(unreadable(name))


def series_of(image: Any, where: np.ndarray) -> Iterator[np.ndarray]:
    """Yield unscaled values of voxels of a 4D image, or grayordinates of a CIFTI series, time point by time point.

    One volume of a file is in memory at a time. Compressed files are read to their end.

    Parameters
    ----------
    image : nibabel image
    where : np.ndarray of shape (n_voxels,), int
        Indices into a volume in Fortran order, or into the grayordinates.

    Yields
    ------
    np.ndarray of shape (n_voxels,)
        In the type of the file; `dataobj.slope` and `dataobj.inter` scale it.
    """
    proxy, name = image.dataobj, image.get_filename() or "The image"
    if hasattr(proxy, "get_unscaled") and os.path.exists(name) and not is_cifti(image):
        with as_scan_error(name), require("nibabel").openers.ImageOpener(name, "rb") as file:
            # NIfTI is in Fortran order: the last axis, time, varies slowest, and a volume is one run of bytes
            size = int(np.prod(proxy.shape[:3], dtype=object)) * proxy.dtype.itemsize
            file.seek(proxy.offset)
            for _ in range(proxy.shape[3]):
                content = file.read(size)
                if len(content) < size:
                    raise ScanError(unreadable(name))
                yield np.frombuffer(content, dtype=proxy.dtype)[where]
            _read_to_the_end(file)
        return
    with as_scan_error(name):
        data = np.asanyarray(proxy.get_unscaled() if hasattr(proxy, "get_unscaled") else proxy)
    if is_cifti(image):
        for row in data:
            yield row[where]
        return
    voxels = np.unravel_index(where, data.shape[:3], order="F")
    # Arrays may hold the time points of a voxel side by side: several at once are read in one pass over them.
    for start in range(0, data.shape[3], BLOCK):
        block = (*voxels, slice(start, start + BLOCK))
        yield from np.ascontiguousarray(data[block].T)


def _read_to_the_end(file: Any) -> None:
    """Read a compressed file to its end, where its checksum is: otherwise damaged bytes would pass for values."""
    while file.read(1 << 20):
        pass


def both_hemispheres(path: str | os.PathLike) -> tuple[str, Path, Path]:
    """Find the two files of a surface.

    Parameters
    ----------
    path : path
        The file of either hemisphere.

    Returns
    -------
    name : str
        The common part of both names.
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
        "rh.), and the other hemisphere in the same folder."
    )


def open_surfaces(path: str | os.PathLike) -> Any:
    """Open both hemispheres of a surface series (`.func.gii`) or parcellation (`.label.gii`), as one CIFTI image.

    Parameters
    ----------
    path : path
        The file of either hemisphere; the other one is in the same folder.

    Returns
    -------
    nibabel.Cifti2Image
        In memory: (n_timepoints, n_vertices), or one row of labels with the table that names them. The series has a
        step of NaN if the files do not give their TR.

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
    # One after the other, so that nibabel's copies of both are never in memory at once.
    left, right = (_read_surface(file, structure) for file, structure in zip(files, STRUCTURES, strict=True))
    is_labels = path.name.lower().endswith(".label.gii")
    if len(left.rows) != len(right.rows):
        rows = "maps" if is_labels else "time points"
        raise ScanError(
            f"{files[0].name} has {len(left.rows)} {rows}, but {files[1].name} has {len(right.rows)}: expected two "
            "hemispheres of one scan."
        )
    cifti2 = require("nibabel.cifti2")
    if is_labels:
        if len(left.rows) != 1:
            raise ScanError(f"{path.name} holds {len(left.rows)} maps of labels: expected one, export it alone.")
        values, names = _merge_labels(left, right, path)
        axis = cifti2.LabelAxis(["labels"], [{key: (name, (1, 1, 1, 1)) for key, name in names.items()}])
    else:
        t_rs = sorted(left.t_rs | right.t_rs)
        if len(t_rs) > 1:
            raise ScanError(
                f"{files[0].name} and {files[1].name} give several TRs ({', '.join(f'{t:g}' for t in t_rs)} s): "
                "expected one."
            )
        values = np.concatenate([left.rows, right.rows], axis=1)
        axis = cifti2.SeriesAxis(0, t_rs[0] if t_rs else math.nan, len(values))
    cortex = [
        cifti2.BrainModelAxis.from_mask(np.ones(half.rows.shape[1], dtype=bool), name=name)
        for half, name in ((left, "cortex_left"), (right, "cortex_right"))
    ]
    image = cifti2.Cifti2Image(values, (axis, cortex[0] + cortex[1]))
    image.file_map["image"].filename = str(path)  # for errors
    return image


class _Surface(NamedTuple):
    """Content of a GIFTI file."""

    rows: np.ndarray  # (n_timepoints or n_maps, n_vertices), float32
    t_rs: set[float]  # in seconds
    names: dict[int, str]  # of label keys


def _read_surface(file: Path, structure: str) -> _Surface:
    with as_scan_error(file):
        image = require("nibabel").load(file)
        if not getattr(image, "darrays", None):
            raise ScanError(unreadable(file))
        if any(array.intent in MESH for array in image.darrays):
            raise ScanError(f"{file.name} holds a mesh: expected values of its vertices (.func.gii, .label.gii).")
        meta = [dict(part.meta) for part in (image, *image.darrays)]
        names = {key: str(name) for key, name in image.labeltable.get_labels_as_dict().items()}
        # an array for each time point, or one with all of them as columns
        arrays = [np.asarray(array.data) for array in image.darrays]
        rows = arrays[0].T if len(arrays) == 1 and arrays[0].ndim == 2 else np.stack(arrays)
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiu":
            raise ScanError(unreadable(file))
        rows = np.ascontiguousarray(rows, dtype=np.float32)
    other = {entries.get("AnatomicalStructurePrimary") for entries in meta} & set(STRUCTURES) - {structure}
    if other:
        raise ScanError(
            f"The header of {file.name} states {other.pop()}, expected {structure} by its name: the "
            "hemispheres are exchanged, or the file was renamed."
        )
    t_rs = set()
    for time_step in (entries["TimeStep"] for entries in meta if "TimeStep" in entries):
        try:
            step = float(time_step)
        except ValueError as error:
            raise ScanError(f"{file.name} has the TimeStep {time_step[:20]!r}: expected a number.") from error
        if math.isfinite(step) and step > 0:
            t_rs.add(step / 1000 if step >= SHORTEST_MS else step)
    return _Surface(rows, t_rs, names)


def _merge_labels(left: _Surface, right: _Surface, path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Labels of both hemispheres (1, n_vertices), and the names of those that occur.

    Parcellations that number each hemisphere from one get other numbers on the right, and names that both have are
    distinguished by `LH_` and `RH_`.
    """
    # -1 and NaN, too, stand for vertices without a label: they become the background, 0
    keys = [np.rint(np.maximum(np.nan_to_num(half.rows[0], posinf=0), 0)).astype(int) for half in (left, right)]
    names = [
        {key: half.names[key] for key in np.unique(values).tolist() if key != 0 and key in half.names}
        for half, values in zip((left, right), keys, strict=True)
    ]
    if names[0].keys() & names[1].keys():
        shift = int(keys[0].max())
        keys[1] = np.where(keys[1] != 0, keys[1] + shift, 0)
        names[1] = {key + shift: name for key, name in names[1].items()}
    shared = set(names[0].values()) & set(names[1].values())
    merged = {0: "???"}
    for side, own in zip(("LH", "RH"), names, strict=True):
        merged |= {key: f"{side}_{name}" if name in shared else name for key, name in own.items()}
    values = np.concatenate(keys)[None]
    if values.max() > LARGEST_KEY:
        raise ScanError(
            f"{path.name} has label keys up to {values.max()}, expected at most {LARGEST_KEY}: number its labels from "
            "one."
        )
    return values.astype(np.float32), merged
