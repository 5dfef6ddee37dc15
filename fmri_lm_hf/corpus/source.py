"""Reading a scan dataset piece by piece, so that memory does not grow with the number of scans."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..models.atlas import Atlas, ScanError
from ..scans.dataset import REQUIRED_COLUMNS, load_scan_dataset

__all__ = ["CHUNK_SCANS", "Chunk", "ScanSource"]

CHUNK_SCANS = 50  # scans that a worker takes at a time
BATCH_SCANS = 10  # scans that are in memory at a time
LARGEST_ROW_GROUP = 128_000_000  # bytes, uncompressed; a row group is read up to the scans that are wanted


@dataclass(frozen=True)
class Chunk:
    """Some neighbouring scans: rows `start` to `stop` of a row group of a Parquet file.

    `first` is the index of the first of them in the scan dataset.
    """

    file: str
    row_group: int
    start: int
    stop: int
    first: int

    def __len__(self) -> int:
        return self.stop - self.start


class ScanSource:
    """A scan dataset in Parquet files, read a row group at a time.

    Parameters
    ----------
    path : Path
        A folder of Parquet files, or one file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        self.files = [file for file in found if not file.name.startswith(".")]

    @classmethod
    def open(cls, path: str | Path, work: Path) -> ScanSource:
        """A source for any form of scan dataset; one that cannot be read in pieces is rewritten into `work`."""
        path = Path(path)
        dataset_file = work / "scans.parquet"
        if path.is_dir() or path.suffix == ".parquet":
            source = cls(path)
            if source.files and source._is_readable_in_pieces():
                return source
        if not dataset_file.exists():
            dataset, _ = load_scan_dataset(path)
            work.mkdir(parents=True, exist_ok=True)
            partial = work / ".scans.parquet.tmp"
            dataset.with_format(None).to_parquet(str(partial), batch_size=CHUNK_SCANS)
            partial.replace(dataset_file)
        return cls(dataset_file)

    def _is_readable_in_pieces(self) -> bool:
        try:
            metadata = [pq.read_metadata(file) for file in self.files]
        except (pa.ArrowException, OSError) as error:
            raise ScanError(
                f"The scan dataset {self.path.name} is not readable: a file of it may be truncated ({error})."
            ) from error
        return all(
            record.row_group(group).total_byte_size <= LARGEST_ROW_GROUP
            for record in metadata
            for group in range(record.num_row_groups)
        )

    @cached_property
    def index(self) -> list[dict[str, Any]]:
        """All columns of every scan but its data, in the order of the dataset."""
        rows: list[dict[str, Any]] = []
        for file in self.files:
            names = pq.read_schema(file).names
            missing = [column for column in REQUIRED_COLUMNS if column not in names]
            if missing:
                raise ScanError(
                    f"{file.name} has no column {', '.join(missing)}: found {', '.join(names)}; expected at least "
                    f"{', '.join(REQUIRED_COLUMNS)}."
                )
            light = [name for name in names if name not in ("bold", "roi_mask")]
            rows += pq.read_table(file, columns=light).to_pylist()
        if not rows:
            raise ScanError(f"The scan dataset {self.path.name} has no scans.")
        ids = [str(row["scan_id"]) for row in rows]
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise ScanError(
                f"scan_id {twice!r} occurs twice in {self.path.name}: every scan needs an id of its own."
            )
        return rows

    @cached_property
    def chunks(self) -> list[Chunk]:
        """The scan dataset in pieces of at most `CHUNK_SCANS` scans."""
        chunks, first = [], 0
        for file in self.files:
            metadata = pq.read_metadata(file)
            for group in range(metadata.num_row_groups):
                n_rows = metadata.row_group(group).num_rows
                for start in range(0, n_rows, CHUNK_SCANS):
                    stop = min(start + CHUNK_SCANS, n_rows)
                    chunks.append(Chunk(str(file), group, start, stop, first))
                    first += stop - start
        return chunks

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and footers (schemas, statistics, offsets), without reading all data."""
        digest = hashlib.sha256()
        for file in self.files:
            name = file.relative_to(self.path).as_posix() if self.path.is_dir() else file.name
            with file.open("rb") as content:
                content.seek(-8, 2)
                length = int.from_bytes(content.read(4), "little")
                content.seek(-8 - length, 2)
                digest.update(f"{name}:{file.stat().st_size}:".encode() + content.read(length))
        return digest.hexdigest()

    def atlas(self) -> Atlas | None:
        """The atlas beside the scans, if there is one."""
        file = (self.path if self.path.is_dir() else self.path.parent) / "atlas.json"
        return Atlas.from_json(file) if file.exists() else None


def read_chunk(chunk: Chunk) -> Iterator[dict[str, Any]]:
    """The scans of a chunk: `scan_id`, `t_r`, `bold` (None when it is not numbers in two axes), `roi_mask`."""
    file = pq.ParquetFile(chunk.file)
    columns = [name for name in ("scan_id", "t_r", "bold", "roi_mask") if name in file.schema_arrow.names]
    position = 0
    for batch in file.iter_batches(BATCH_SCANS, [chunk.row_group], columns, use_threads=False):
        start, stop = max(chunk.start - position, 0), min(chunk.stop - position, len(batch))
        position += len(batch)
        if start < stop:
            wanted = batch.slice(start, stop - start)
            light = wanted.drop_columns(["bold"]).to_pylist()
            for row, bold in zip(light, wanted["bold"], strict=True):
                yield row | {"bold": _as_array(bold)}
        if position >= chunk.stop:
            break


def _as_array(bold: pa.Scalar) -> np.ndarray | None:
    """`bold` of one scan as a float32 array (n_timepoints, n_rois), without a Python object for each number."""
    if isinstance(bold, pa.ExtensionScalar):
        bold = bold.value
    if not bold.is_valid:
        return None
    volumes = bold.values
    lengths = np.unique(volumes.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1 or volumes.null_count:
        return None
    numbers = volumes.flatten()
    return numbers.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(volumes), int(lengths[0]))
