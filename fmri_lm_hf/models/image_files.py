"""Files that hold images: opening them, and reading their values, whole or volume by volume.

Like its siblings this file travels with checkpoints: nibabel is asked for where an image is opened.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .scan_errors import ScanError, reading, require, unreadable
from .surface_files import open_surfaces

__all__ = [
    "ScanError",
    "check_size",
    "image_data",
    "is_cifti",
    "load_image",
    "reading",
    "require",
    "series_of",
    "volume_data",
]

GZIP_RATIO = 1032  # deflate packs no tighter: a larger image cannot be in the file
BLOCK = 16  # time points of an array that are copied at once


def load_image(image: Any) -> Any:
    """Open a NIfTI or CIFTI file, or both hemispheres of a GIFTI surface (an image object is returned as it is)."""
    if not isinstance(image, (str, os.PathLike)):
        return image
    if str(image).lower().endswith(".gii"):
        return open_surfaces(image)
    with reading(image):
        return require("nibabel").load(image)


def image_data(image: Any) -> np.ndarray:
    """The values of an image as float32; a truncated or damaged file ends in a `ScanError`."""
    proxy, name = image.dataobj, image.get_filename() or "The image"
    with reading(name):
        if not hasattr(proxy, "get_unscaled"):
            return np.asanyarray(proxy, dtype=np.float32)
        check_size(image)
        # nibabel scales integers in float64, which takes ten times as long and twice the memory
        data = np.array(proxy.get_unscaled(), dtype=np.float32)
        data *= np.float32(proxy.slope)
        data += np.float32(proxy.inter)
        if str(name).lower().endswith(".gz") and os.path.exists(name):
            with gzip.open(name, "rb") as file:
                _read_to_the_end(file)
        return data


def volume_data(image: Any) -> np.ndarray:
    """The values of a 3D image (also one that has a fourth axis of length one)."""
    if len(image.shape) < 3 or np.prod(image.shape[3:]) != 1:
        raise ScanError(f"The label or mask image has shape {tuple(image.shape)}: expected one 3D volume.")
    return image_data(image).reshape(image.shape[:3])


def is_cifti(image: Any) -> bool:
    """Whether a nibabel image is CIFTI (its header has axes rather than an affine)."""
    return hasattr(getattr(image, "header", None), "get_axis")


def check_size(image: Any) -> None:
    """Refuse a file that is too short for its header, before memory is asked for what it cannot hold."""
    proxy, name = image.dataobj, image.get_filename()
    if name is None or not hasattr(proxy, "get_unscaled") or not os.path.exists(name):
        return
    if min(proxy.shape, default=0) < 1:
        raise ScanError(unreadable(name))
    wanted = int(np.prod(proxy.shape, dtype=object)) * proxy.dtype.itemsize
    held = os.path.getsize(name)
    limit = held if str(name).lower().endswith(".nii") else held * GZIP_RATIO
    if wanted > limit:
        raise ScanError(unreadable(name))


def series_of(image: Any, where: np.ndarray) -> Iterator[np.ndarray]:
    """The unscaled values of some voxels of a 4D image, or grayordinates of a CIFTI series, one time point at a time.

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
    proxy = image.dataobj
    name = image.get_filename() or "The image"
    if is_cifti(image):
        with reading(name):
            rows = np.asarray(proxy.get_unscaled() if hasattr(proxy, "get_unscaled") else proxy)
        for row in rows:
            yield row[where]
    elif hasattr(proxy, "get_unscaled") and os.path.exists(name):
        with reading(name), _open(name) as file:
            shape, kind = proxy.shape, proxy.dtype
            size = int(np.prod(shape[:3], dtype=object)) * kind.itemsize
            file.seek(proxy.offset)
            for _ in range(shape[3]):
                content = file.read(size)
                if len(content) < size:
                    raise ScanError(unreadable(name))
                yield np.frombuffer(content, dtype=kind)[where]
            _read_to_the_end(file)
    else:
        with reading(name):
            data = proxy.get_unscaled() if hasattr(proxy, "get_unscaled") else np.asanyarray(proxy)
        voxels = np.unravel_index(where, data.shape[:3], order="F")
        # Arrays may hold the time points of a voxel side by side: several at once are read in one pass over them.
        for start in range(0, data.shape[3], BLOCK):
            block = (*voxels, slice(start, start + BLOCK))
            yield from np.ascontiguousarray(data[block].T)


def _read_to_the_end(file: Any) -> None:
    """Where the checksum of a compressed file stands: without it, damaged bytes would pass for values."""
    while file.read(1 << 20):
        pass


def _open(name: Any) -> Any:
    if str(name).lower().endswith(".gz"):
        return gzip.open(name, "rb")
    return require("nibabel").openers.ImageOpener(name, "rb")
