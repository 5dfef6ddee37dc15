"""Folders of ROI tables or of images that need no further cleaning: one file a scan."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...models.atlas import Atlas
from ...models.image_files import both_hemispheres
from ...models.scan_errors import ScanError
from ...models.scan_files import read_scan, stem
from .bids import bids_entities
from .source import N_SAMPLED, ScanFile, Source, common_atlas

# ROI signals from MATLAB files of version 5: one variable, a full matrix of real numbers.

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


TABLES = (".npy", ".npz", ".tsv", ".csv", ".ptseries.nii", ".mat")
IMAGES = (".nii.gz", ".nii", ".func.gii")


@dataclass
class FilesSource(Source):
    """Scans as single files: `.npy`, `.npz`, `.tsv`, `.csv`, `.mat`; with an atlas for images also NIfTI, CIFTI and
    GIFTI, whose two hemispheres are one scan.

    Parameters
    ----------
    pattern : str, optional
        Where names stand in the path below `root`, such as `"{site}/subjects/{subject}/{session}.mat"`; `*` stands for
        anything within a name. Other files are left out, and listed. Without it, BIDS names are understood, and other
        files are taken for a subject each.
    mat_key : str
        Variable of `.mat` files, of shape (n_rois, n_timepoints).
    """

    pattern: str | None = None
    mat_key: str = "tc"
    name = "files"

    def find(self) -> list[ScanFile]:
        template = None if self.pattern is None else _template(self.pattern)
        found = []
        for inputs in self.scans(*(TABLES + IMAGES if self.reads_images else TABLES)):
            path = inputs[0]
            relative = path.relative_to(self.root).as_posix()
            entities = bids_entities(path)
            fields: dict[str, str | None] = {
                "subject": f"sub-{entities['sub']}" if "sub" in entities else None,
                "session": entities.get("ses"),
                "site": None,
            }
            whole = path
            if path.name.endswith(".gii"):
                whole = path.with_name(both_hemispheres(path)[0])
            scan_id = stem(whole) if fields["subject"] else stem(self.relative(whole).replace("/", "_"))
            if template is not None:
                match = template.fullmatch(relative)
                if match is None:
                    self.leave(path, f"does not match the pattern {self.pattern!r} (--pattern)")
                    continue
                fields |= match.groupdict()
            subject = fields["subject"] or scan_id
            found.append(ScanFile(scan_id, subject, inputs, fields["session"], fields["site"]))
        return found

    def table_atlas(self, files: Any) -> Atlas:
        paths = [file.inputs[0] for file in files]
        if paths and all(path.suffix == ".mat" for path in paths):
            counts: Counter[int] = Counter()
            for path in paths:
                try:
                    counts[read_mat(path, self.mat_key).shape[1]] += 1
                except ScanError as error:
                    failure = error
                if counts.total() == N_SAMPLED:
                    break
            if not counts:
                raise failure
            return Atlas.numbered(counts.most_common(1)[0][0], self.name)
        return common_atlas([path for path in paths if path.suffix != ".mat"], self.name)

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        content = read_mat(path, self.mat_key) if path.suffix == ".mat" else path
        scan = read_scan(content, self.atlas, self.t_r_of(file), max_masked=self.thresholds.max_masked)
        return self.row(scan, path.name)


def _template(pattern: str) -> re.Pattern[str]:
    """`"{site}/{subject}/*.mat"` as a regular expression over a path."""
    parts = re.split(r"(\{[a-z_]+\}|\*)", pattern)
    names = [part[1:-1] for part in parts if part.startswith("{")]
    wrong = set(names) - {"subject", "session", "site"}
    if wrong or len(names) != len(set(names)):
        raise ScanError(f"The pattern {pattern!r} may hold {{subject}}, {{session}} and {{site}}, once each.")
    expression = "".join(
        f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else "[^/]*" if part == "*" else re.escape(part)
        for part in parts
    )
    return re.compile(expression)
