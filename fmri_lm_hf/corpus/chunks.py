"""Read scan datasets and write corpus shards in chunks, so that memory does not grow with the number of scans.

`ScanSource` divides a scan dataset into chunks, which the steps of a build read with `read_chunk`; `write_shards`
collects their texts by config and split.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..declarations import declare_in_features
from ..files import atomic, write_json
from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from ..scans.dataset import REQUIRED_COLUMNS, check_complete, load_scan_dataset
from .prose import SUBJECT_TEXT_COLUMN

# Scans of a chunk: few enough that workers share a small dataset evenly, and enough that a large one does not become
# thousands of temporary files.
MIN_CHUNK_SCANS, MAX_CHUNK_SCANS = 10, 500
N_CHUNKS = 128
INDEX_ROWS = 1000  # rows of the index that are Python objects at the same time
BATCH_SCANS = 10  # scans that are in memory at the same time
DATA_COLUMNS = ("scan_id", "t_r", "bold", "roi_mask", "sample_mask")  # what descriptors need
LARGEST_ROW_GROUP = 128_000_000  # bytes, uncompressed; a row group is read from its start to the end of a piece

WORK_FOLDER = ".build"  # in the folder of a corpus that is not complete
SHARD_BYTES = 300_000_000  # size of a shard before compression
ROW_GROUP_BYTES = 2_000_000  # small, since streaming fetches whole row groups
PAIR_SCHEMA = pa.schema(
    [
        ("scan_id", pa.string()),
        ("subject_id", pa.string()),
        ("site", pa.string()),
        ("scan_index", pa.int64()),
        ("acquisition_in_training", pa.bool_()),
        ("length", pa.string()),
        ("text", pa.string()),
        ("facts", pa.string()),
        (SUBJECT_TEXT_COLUMN, pa.string()),
        ("described_columns", pa.list_(pa.string())),
    ]
)
TEXT_SCHEMA = PAIR_SCHEMA.append(pa.field("split", pa.string()))

# ----- reading -----


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a row group of a Parquet file."""

    file: str
    row_group: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Chunk:
    """Consecutive scans of a scan dataset; `first` is the index of the first one."""

    pieces: tuple[Piece, ...]
    first: int

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


class ScanIndex(Sequence[Mapping[str, Any]]):
    """Metadata of all scans: a mapping for each scan of the columns with one value a scan.

    Mappings are made on access. The values stay in Arrow tables, at about the size of their text; as Python objects
    they took 1.2 KB a scan.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
        The scans in order, each with a column `scan_id`.
    """

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self._tables = tuple(tables)

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.between(0, len(self))

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        index = range(len(self))[index]
        return next(self.between(index, index + 1))

    def between(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Iterate over the scans `start` to `stop` - 1."""
        first = 0
        for table in self._tables:
            low, high = (min(max(edge - first, 0), len(table)) for edge in (start, stop))
            for batch in table.slice(low, high - low).to_batches(INDEX_ROWS):
                yield from batch.to_pylist()
            first += len(table)

    def without(self, scan_ids: Collection[str]) -> ScanIndex:
        """Return the index without these scans."""
        return ScanIndex(
            [
                table.filter(pa.array([name not in scan_ids for name in _ids(table)], pa.bool_()))
                for table in self._tables
            ]
        )

    def named_twice(self) -> str | None:
        """Return a scan_id that two scans have, or None."""
        seen: set[str] = set()
        for table in self._tables:
            for name in _ids(table):
                if name in seen:
                    return name
                seen.add(name)
        return None


def _ids(table: pa.Table) -> Iterator[str]:
    for batch in table.select(["scan_id"]).to_batches(INDEX_ROWS):
        yield from map(str, batch["scan_id"].to_pylist())


class ScanSource:
    """A scan dataset in Parquet files, read a row group at a time.

    Parameters
    ----------
    path : Path
        A folder of Parquet files, or one file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        # Files and folders with a leading dot are unfinished work.
        self.files = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]

    @classmethod
    def open(cls, path: str | Path, work: Path) -> ScanSource:
        """Open any form of scan dataset; one that cannot be read in pieces is rewritten into `work`."""
        path = Path(path)
        check_complete(path if path.is_dir() else path.parent)
        if path.is_dir() or path.suffix == ".parquet":
            source = cls(path)
            if source.files and source._largest_row_group() <= LARGEST_ROW_GROUP:
                return source
        rewritten = work / "scans.parquet"
        if not rewritten.exists():
            dataset, _ = load_scan_dataset(path)
            with atomic(rewritten) as partial:
                dataset.with_format(None).to_parquet(str(partial), batch_size=MIN_CHUNK_SCANS)
        return cls(rewritten)

    def _largest_row_group(self) -> int:
        """Size in bytes, uncompressed."""
        sizes = [0]
        for file in self.files:
            try:
                metadata = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise ScanError(
                    f"The scan dataset {self.path.name} is not readable: a file of it may be truncated, {file.name} "
                    f"({error})."
                ) from error
            sizes += [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
        return max(sizes)

    @cached_property
    def index(self) -> ScanIndex:
        """Metadata of all scans in the order of the dataset.

        Lists (of time points or ROIs) stay in the files: in memory they would grow with the number of scans.
        """
        tables: list[pa.Table] = []
        for file in self.files:
            schema = pq.read_schema(file)
            missing = [column for column in REQUIRED_COLUMNS if column not in schema.names]
            if missing:
                raise ScanError(
                    f"{file.name} has no column {', '.join(missing)}: found {', '.join(schema.names)}; expected at "
                    f"least {', '.join(REQUIRED_COLUMNS)}."
                )
            single = [field.name for field in schema if not pa.types.is_nested(field.type)]
            tables.append(read_columns(file, [name for name in single if name != "bold"]))
        index = ScanIndex(tables)
        if not len(index):
            raise ScanError(f"The scan dataset {self.path.name} has no scans.")
        if twice := index.named_twice():
            raise ScanError(f"scan_id {twice!r} occurs twice in {self.path.name}: every scan needs its own id.")
        return index

    @cached_property
    def chunks(self) -> list[Chunk]:
        """Chunks of the scan dataset; their size depends on the number of scans and on the files alone.

        Small row groups are not split, since a row group is read from its start.
        """
        groups = [
            (str(file), group, metadata.row_group(group).num_rows)
            for file in self.files
            for metadata in [pq.read_metadata(file)]
            for group in range(metadata.num_row_groups)
        ]
        # Chunks must not depend on the number of workers: sums of connectivity are taken chunk by chunk, so that other
        # chunks would change the last bits of the maps and with them bytes of the corpus.
        n_scans = sum(n_rows for _, _, n_rows in groups)
        size = min(max(-(-n_scans // N_CHUNKS), MIN_CHUNK_SCANS), MAX_CHUNK_SCANS)
        chunks: list[Chunk] = []
        pending: list[Piece] = []
        first = 0
        for file, group, n_rows in groups:
            n_parts = 1 if n_rows <= 2 * size else -(-n_rows // size)
            edges = [n_rows * part // n_parts for part in range(n_parts + 1)]
            for start, stop in pairwise(edges):
                pending.append(Piece(file, group, start, stop))
                if n_parts > 1 or sum(map(len, pending)) >= size:
                    chunks.append(Chunk(tuple(pending), first))
                    first, pending = first + len(chunks[-1]), []
        return [*chunks, Chunk(tuple(pending), first)] if pending else chunks

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and footers (schemas, statistics, offsets), without reading all data."""
        digest = hashlib.sha256()
        for file in self.files:
            name = file.relative_to(self.path).as_posix() if self.path.is_dir() else file.name
            with file.open("rb") as content:
                # A Parquet file ends with its footer, the length of the footer in four bytes, and "PAR1".
                content.seek(-8, 2)
                length = int.from_bytes(content.read(4), "little")
                content.seek(-8 - length, 2)
                digest.update(f"{name}:{file.stat().st_size}:".encode() + content.read(length))
        return digest.hexdigest()

    def atlas(self) -> Atlas | None:
        """Read `atlas.json` next to the scans, if there is one."""
        file = (self.path if self.path.is_dir() else self.path.parent) / "atlas.json"
        return Atlas.from_json(file) if file.exists() else None


def read_columns(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read some or all columns of a Parquet file."""
    # not with `pyarrow.parquet.read_table`, which reads on threads that each keep their own memory
    with pq.ParquetFile(file) as content:
        return content.read(None if columns is None else list(columns), use_threads=False)


def read_chunk(chunk: Chunk) -> Iterator[dict[str, Any]]:
    """Read the scans of a chunk: those of `DATA_COLUMNS` that the files have.

    `bold` is None if it is no matrix of numbers. Scans of a damaged row group have only `failure`, the reason.
    """
    for piece in chunk.pieces:
        n_read = 0
        try:
            for row in _read_piece(piece):
                yield row
                n_read += 1
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk failed: the file may be intact, and the scans must not be listed as damaged
            failure = f"{Path(piece.file).name} is damaged there: {str(error).splitlines()[0]}"
            yield from [{"failure": failure}] * (len(piece) - n_read)


def _read_piece(piece: Piece) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(piece.file)
    columns = [name for name in DATA_COLUMNS if name in file.schema_arrow.names]
    # Arrow reads a row group from its start: batches before the piece are dropped, and those after it are not read.
    position = 0
    for batch in file.iter_batches(BATCH_SCANS, [piece.row_group], columns, use_threads=False):
        start, stop = max(piece.start - position, 0), min(piece.stop - position, len(batch))
        position += len(batch)
        if start < stop:
            scans = batch.slice(start, stop - start)
            metadata = scans.drop_columns(["bold"]).to_pylist()
            for row, bold in zip(metadata, scans["bold"], strict=True):
                yield row | {"bold": _as_array(bold)}
        if position >= piece.stop:
            break


def _as_array(bold: pa.Scalar) -> np.ndarray | None:
    """Convert `bold` to a float32 array (n_timepoints, n_rois) without a Python object for each number."""
    if isinstance(bold, pa.ExtensionScalar):
        bold = bold.value
    if not bold.is_valid:
        return None
    # Without this check, rows of unequal length and missing rows could be reshaped into a wrong scan without an error.
    volumes = bold.values
    lengths = np.unique(volumes.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1 or volumes.null_count:
        return None
    numbers = volumes.flatten()
    return numbers.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(volumes), int(lengths[0]))


# ----- writing -----


@dataclass(frozen=True)
class ShardTask:
    """A config of the corpus, to be collected from the texts of all chunks.

    Attributes
    ----------
    config : str
        `all` or a family.
    configs : tuple of str
        All configs, in the order of their row groups in the files of texts.
    out : str
        The folder of the corpus.
    declared : tuple of str
        Declarations about the cohort, for the metadata of the shards.
    """

    config: str
    configs: tuple[str, ...]
    out: str
    declared: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 1

    @property
    def done(self) -> Path:
        """File that is written after all shards, with the number of rows in each split."""
        return Path(self.out) / WORK_FOLDER / "assembled" / f"{self.config}.json"


def write_shards(task: ShardTask) -> int:
    """Write the shards of a config, `data/<config>/<split>-00000.parquet` and so on, from the texts of all chunks."""
    folder = Path(task.out) / "data" / task.config
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
    folder.mkdir(parents=True)
    writers: dict[str, _ShardWriter] = {}
    features = published_features(task.declared)
    for file in sorted(Path(task.out, WORK_FOLDER, "texts").glob("*.parquet")):
        with pq.ParquetFile(file) as content:
            # `write_texts` wrote the row groups in turn: all, first family, ..., last family, all, ...
            first = task.configs.index(task.config)
            for group in range(first, content.num_row_groups, len(task.configs)):
                table = content.read_row_group(group, use_threads=False)
                for split in table["split"].unique().to_pylist():
                    rows = table.filter(pc.equal(table["split"], split)).drop_columns(["split"])
                    writers.setdefault(split, _ShardWriter(folder, split, features)).add(rows)
    for writer in writers.values():
        writer.close()
    write_json({split: writer.n_rows for split, writer in sorted(writers.items())}, task.done)
    return 1


class _ShardWriter:
    """Writes a split as Parquet files of about `SHARD_BYTES` at most before compression."""

    def __init__(self, folder: Path, split: str, features: datasets.Features) -> None:
        self.folder, self.split, self.schema = folder, split, features.arrow_schema
        self.n_rows = self._shard = self._shard_bytes = self._pending_bytes = 0
        self._pending: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table) -> None:
        self._pending.append(rows)
        self.n_rows += len(rows)
        # Not `nbytes`, which also counts unused parts of buffers: equal rows have to give equal files.
        self._pending_bytes += sum(pc.sum(pc.binary_length(rows[name])).as_py() for name in ("text", "facts"))
        if self._pending_bytes > ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        self._pending = []
        if self._writer is not None and self._shard_bytes + self._pending_bytes > SHARD_BYTES:
            self._end_shard()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path("tmp"), self.schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema), row_group_size=len(table))
        self._shard_bytes += self._pending_bytes
        self._pending_bytes = 0
        pa.default_memory_pool().release_unused()  # or the pool keeps the memory of the largest row groups

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            os.replace(self._path("tmp"), self._path("parquet"))
            self._writer, self._shard_bytes, self._shard = None, 0, self._shard + 1

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.split}-{self._shard:05d}.{suffix}"

    def close(self) -> None:
        self._flush()
        self._end_shard()


def published_features(declared: Iterable[str] = ()) -> datasets.Features:
    """Return the columns of a corpus and their types, with the declarations about the cohort in their metadata."""
    features = datasets.Features.from_arrow_schema(PAIR_SCHEMA)
    declare_in_features(features, declared)
    return features
