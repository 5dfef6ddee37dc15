"""The shards of a corpus: the texts of all chunks of scans, brought together by config and split."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..declarations import declare_in_features
from ..files import write_json
from .subjects import SUBJECT_TEXT_COLUMN

__all__ = ["TEXT_SCHEMA", "WORK_FOLDER", "AssemblyTask", "assemble", "published_features"]

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
WORK_FOLDER = ".build"  # in the folder of the corpus, until it is complete
SHARD_BYTES = 300_000_000  # of a shard before compression
ROW_GROUP_BYTES = 2_000_000  # streaming fetches a row group at a time


@dataclass(frozen=True)
class AssemblyTask:
    """One config of the corpus, to be brought together from the texts of all chunks.

    Attributes
    ----------
    config : str
        `all` or a family.
    position, n_configs : int
        Its row groups in each file of texts: the one at `position`, and every `n_configs`th after it.
    texts : tuple of str
        Those files, in the order of the chunks.
    out : str
        The folder of the corpus.
    declared : tuple of str
        What is declared about the cohort, which the rows carry.
    """

    config: str
    position: int
    n_configs: int
    texts: tuple[str, ...]
    out: str
    declared: tuple[str, ...] = ()

    @property
    def done(self) -> Path:
        """Written when all shards are, with the number of rows in each split."""
        return Path(self.out) / WORK_FOLDER / "assembled" / f"{self.config}.json"


def assemble(task: AssemblyTask) -> int:
    """Write a config's shards, `data/<config>/<split>-00000.parquet` and so on, from the texts of all chunks."""
    folder = Path(task.out) / "data" / task.config
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut short
    folder.mkdir(parents=True)
    shards: dict[str, _ShardWriter] = {}
    features = published_features(task.declared)
    for file in task.texts:
        with pq.ParquetFile(file) as content:
            for group in range(task.position, content.num_row_groups, task.n_configs):
                table = content.read_row_group(group, use_threads=False)
                for split in table["split"].unique().to_pylist():
                    rows = table.filter(pc.equal(table["split"], split)).drop_columns(["split"])
                    shards.setdefault(split, _ShardWriter(folder, split, features)).add(rows)
    for shard in shards.values():
        shard.close()
    counts = {split: shard.n_rows for split, shard in sorted(shards.items())}
    write_json(counts, task.done)
    return 1


class _ShardWriter:
    """Writes a split as Parquet files of at most about `SHARD_BYTES` before compression, in even row groups."""

    def __init__(self, folder: Path, split: str, features: datasets.Features) -> None:
        self.folder, self.split, self.schema = folder, split, features.arrow_schema
        self.n_rows = self._shard = self._shard_bytes = self._waiting_bytes = 0
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self.n_rows += len(rows)
        # Not `nbytes`, which counts buffers of no content: equal rows have to end up in equal files.
        self._waiting_bytes += sum(pc.sum(pc.binary_length(rows[name])).as_py() for name in ("text", "facts"))
        if self._waiting_bytes > ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting = []
        if self._writer is not None and self._shard_bytes + self._waiting_bytes > SHARD_BYTES:
            self._end_shard()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path("tmp"), self.schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema), row_group_size=len(table))
        self._shard_bytes += self._waiting_bytes
        self._waiting_bytes = 0
        pa.default_memory_pool().release_unused()  # or the pool keeps what large row groups needed, and grows

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
    """The columns of a corpus and their types, which carry what is declared about the cohort."""
    features = datasets.Features.from_arrow_schema(PAIR_SCHEMA)
    declare_in_features(features, declared)
    return features
