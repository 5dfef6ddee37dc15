"""ROI signals from MATLAB files of version 5: one variable, a full matrix of real numbers.

Only that much of the format is read here. scipy's reader knows all of it, and damaged files crash the process in it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..models.scan_images import ScanError

__all__ = ["read_mat"]

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15
# Types of stored numbers, and classes of arrays of numbers.
DTYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
NUMBERS = range(6, 16)  # mxDOUBLE_CLASS to mxUINT64_CLASS
COMPLEX, LOGICAL = 0x0800, 0x0200
LARGEST = 4_000_000_000  # bytes of a variable


def read_mat(path: Path, key: str = "tc") -> np.ndarray:
    """ROI signals of a MATLAB file (version 5), where `key` holds (n_rois, n_timepoints).

    Parameters
    ----------
    path : Path
    key : str
        Name of the variable.

    Returns
    -------
    np.ndarray of shape (n_timepoints, n_rois), float32

    Raises
    ------
    ScanError
        If the file is damaged, of version 4 or 7.3, or has no such variable.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(f"The scan {path.name} does not exist: check the path {path}.")
    unreadable = (
        f"{path.name} is not a readable MATLAB file: it may be truncated, or of version 4 or 7.3. Save it with "
        "`-v7`."
    )
    try:
        content = path.read_bytes()
        order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
        if order is None or content[124:126] not in (b"\x00\x01", b"\x01\x00"):
            raise ScanError(unreadable)
        signals = None
        for kind, data in _elements(memoryview(content)[HEADER_BYTES:], order):
            if kind == COMPRESSED:
                [(kind, data)] = _elements(memoryview(_inflate(data)), order)
            if kind == MATRIX:
                found = _matrix(data, order, key)
                signals = found if found is not None else signals
    except (OSError, ValueError, KeyError, StopIteration, struct.error, zlib.error) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(unreadable) from error
    if signals is None or signals.ndim != 2:
        raise ScanError(
            f"{path.name} has no variable {key!r} of numbers (n_rois, n_timepoints): give its name with --mat-key, or "
            "leave the file out with --match."
        )
    return np.ascontiguousarray(signals.T, dtype=np.float32)


def _inflate(data: memoryview) -> bytes:
    """A whole compressed element, checksum included."""
    stream = zlib.decompressobj()
    content = stream.decompress(data, LARGEST)
    if not stream.eof:
        raise ValueError("the compressed variable does not end")
    return content


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element; small ones stand in their own tag."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # small: the upper half is the size
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            end = place + 8
            if size > 4:
                raise ValueError("a small element of more than four bytes")
        else:
            start = place + 8
            end = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError("the file ends within a variable")
        yield kind, data[start : start + size]
        place = end


def _matrix(data: memoryview, order: str, key: str) -> np.ndarray | None:
    """The numbers of a variable, if it has this name and is a full array of real numbers."""
    parts = _elements(data, order)
    _, flags = next(parts)
    (word,) = struct.unpack_from(f"{order}I", flags)
    _, shape = next(parts)
    _, name = next(parts)
    if bytes(name) != key.encode("ascii", "replace"):
        return None
    if word & 0xFF not in NUMBERS or word & (COMPLEX | LOGICAL):
        return np.empty(0)
    kind, numbers = next(parts)
    sizes = np.frombuffer(shape, dtype=f"{order}i4")
    values = np.frombuffer(numbers, dtype=order + DTYPES[kind])
    if np.any(sizes < 0) or np.prod(sizes, dtype=object) != len(values):
        raise ValueError("the variable has another size than it says")
    return values.reshape(sizes, order="F")
