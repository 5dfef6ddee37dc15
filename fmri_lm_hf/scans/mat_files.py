"""Read ROI signals from MATLAB files of version 5: `read_mat`.

Only full matrices of real numbers are decoded; cells, structures and objects are skipped. `scipy.io.loadmat` is not
used: on some damaged files, scipy 1.17.1 ends the process with a segmentation fault, which no exception handler stops
and which would end a build of thousands of scans. A test has such a file, with one changed byte. On intact files, the
tests compare this reader with scipy; on damaged ones, a fuzzer checks it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..models.scan_errors import ScanError

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15  # kinds of elements
# Types of stored numbers. MATLAB stores whole numbers in the smallest type that holds them, whatever their class.
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)  # mxDOUBLE_CLASS to mxUINT64_CLASS
COMPLEX, LOGICAL = 0x0800, 0x0200  # flags of a matrix
MAX_BYTES = 4_000_000_000  # of a variable, so that a small compressed file cannot fill the memory


def read_mat(path: Path, key: str = "tc") -> np.ndarray:
    """Read the ROI signals of a MATLAB file (version 5), in which `key` holds (n_rois, n_timepoints).

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
    try:
        signals = _find_matrix(path.read_bytes(), key)
    except (OSError, ValueError, KeyError, StopIteration, struct.error, zlib.error) as error:
        raise ScanError(
            f"{path.name} is not a readable MATLAB file: it may be truncated, or of version 4 or 7.3. Save it with "
            "`-v7`."
        ) from error
    if signals is None or signals.ndim != 2:
        raise ScanError(
            f"{path.name} has no variable {key!r} of numbers (n_rois, n_timepoints): give its name with --mat-key, or "
            "exclude the file with --match."
        )
    return np.ascontiguousarray(signals.T, dtype=np.float32)


def _find_matrix(content: bytes, key: str) -> np.ndarray | None:
    """Find the last numeric variable of this name."""
    # The last two bytes of the header are "MI" as a number, in the byte order of the machine that wrote it.
    order = {b"IM": "<", b"MI": ">"}[content[126:128]]
    if content[124:126] not in (b"\x00\x01", b"\x01\x00"):
        raise ValueError("another version of the format")
    last = None
    for kind, data in _elements(memoryview(content)[HEADER_BYTES:], order):
        if kind == COMPRESSED:
            stream = zlib.decompressobj()
            inflated = stream.decompress(data, MAX_BYTES)
            # zlib compares the checksum at the end of the stream: before it, damaged bytes would pass for numbers.
            if not stream.eof:
                raise ValueError("the compressed variable does not end")
            [(kind, data)] = _elements(memoryview(inflated), order)
        if kind == MATRIX:
            matrix = _decode_matrix(data, order, key)
            last = last if matrix is None else matrix
    return last


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and content of each element."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # a small element lies inside its tag, whose upper half is the size
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            end = place + 8
            if size > 4:
                raise ValueError("a small element of more than four bytes")
        else:
            start = place + 8
            end = start + size + (0 if kind == COMPRESSED else -size % 8)  # padded to eight bytes
        if start + size > len(data):
            raise ValueError("the file ends within a variable")
        yield kind, data[start : start + size]
        place = end


def _decode_matrix(data: memoryview, order: str, key: str) -> np.ndarray | None:
    """Decode a variable, as an empty array unless it is a full one of real numbers; None if it has another name."""
    parts = _elements(data, order)
    _, flags = next(parts)
    _, shape = next(parts)
    _, name = next(parts)
    if bytes(name) != key.encode("ascii", "replace"):
        return None
    (word,) = struct.unpack_from(f"{order}I", flags)
    if word & 0xFF not in NUMERIC_CLASSES or word & (COMPLEX | LOGICAL):
        return np.empty(0)
    kind, numbers = next(parts)
    sizes = np.frombuffer(shape, dtype=f"{order}i4")
    values = np.frombuffer(numbers, dtype=order + DTYPES[kind])
    # As Python numbers: the product of damaged sizes may overflow to the right number of values.
    if np.any(sizes < 0) or np.prod(sizes, dtype=object) != len(values):
        raise ValueError("the number of values is not that of the shape")
    return values.reshape(sizes, order="F")
