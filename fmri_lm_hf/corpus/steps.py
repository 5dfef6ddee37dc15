"""Steps of a corpus build that run in parallel over chunks of scans, and the workers that run them.

Each step reads files and writes one file for each chunk, into its own folder in the work folder::

    maps/00012.safetensors      sums of the training scans' connectivity
    features/00012.parquet      descriptors of each scan, or why it has none
    texts/00012.parquet         facts and texts of each scan; one row group a config

Results do not depend on the number of workers or on retries: matrix products run on one thread, and sums are taken in
the order of the scans.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from ..descriptors import Acquisition, FeatureDict, features_of
from ..descriptors.column_check import ColumnCheck
from ..descriptors.connectivity import GroupConnectivity
from ..descriptors.prepared import PreparedScan, prepare_row
from ..files import atomic
from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from ..scans.workers import RETRIES, open_cluster
from .chunks import TEXT_SCHEMA, Chunk, read_chunk, read_columns
from .facts import Fact
from .prose import SUBJECT_TEXT_COLUMN, select_facts, write_text
from .reference import CohortReference

TEXT_SCANS = 50  # scans whose texts are in memory at the same time
GROUP_FILE = "group_connectivity.safetensors"  # mean connectivity of the training scans, in the work folder
FEATURE_SCHEMA = pa.schema([("features", pa.list_(pa.float64())), ("failure", pa.string())])
Result = TypeVar("Result")


@dataclass(frozen=True)
class ChunkTask:
    """A chunk of scans with their metadata and the options of their texts.

    Attributes
    ----------
    number : int
        Number of the chunk, which names its files.
    chunk : Chunk
        Location of the scans.
    work : str
        The work folder.
    scans : pyarrow.Table
        A row for each scan: `scan_id`, `subject_id`, `site`, `t_r`, `split` and `subject_description`. A table,
        which is smaller than Python objects: the tasks of all scans are in memory together.
    options : mapping
        `lengths`, `wordings`, `seed`, `described_columns`.
    """

    number: int
    chunk: Chunk
    work: str
    scans: pa.Table
    options: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.chunk)

    def file(self, step: str) -> Path:
        """Return the path of the result of a step."""
        suffix = "safetensors" if step == "maps" else "parquet"
        return Path(self.work) / step / f"{self.number:05d}.{suffix}"

    def read(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Iterate over (metadata, scan). While a chunk is read, matrix products run on one thread."""
        with threadpool_limits(1):
            yield from zip(self.scans.to_pylist(), read_chunk(self.chunk), strict=True)
        pa.default_memory_pool().release_unused()  # or the allocator keeps the memory of the chunk


# ----- steps -----


def sum_connectivity(task: ChunkTask) -> int:
    """Sum the connectivity of the chunk's training scans; a scan that cannot be used adds nothing."""
    atlas = Atlas.from_json(Path(task.work) / "atlas.json")
    upper = np.triu_indices(atlas.n_rois)
    group = GroupConnectivity(atlas.n_rois)
    for row, scan in task.read():
        if row["split"] == "train":
            prepared, _ = _attempt(partial(_prepare, scan, atlas))
            if prepared is not None:  # else `compute_descriptors` lists the scan with the reason
                group.add(prepared.connectivity, prepared.usable)
    arrays: dict[str, np.ndarray] = {"total": group.total[upper], "n_known": group.n_known[upper]}
    with atomic(task.file("maps")) as path:
        save_file(arrays, path)
    return len(task)


def read_connectivity(tasks: Sequence[ChunkTask], n_rois: int) -> GroupConnectivity:
    """Add up the connectivity of the training scans of all chunks."""
    upper, group = np.triu_indices(n_rois), GroupConnectivity(n_rois)
    for task in tasks:
        arrays = load_file(task.file("maps"))
        group.total[upper] += arrays["total"]
        group.n_known[upper] += arrays["n_known"]
    # Stored is the upper triangle with the diagonal, which must not be counted twice.
    for square in (group.total, group.n_known):
        square += np.triu(square, 1).T
    return group


def compute_descriptors(task: ChunkTask) -> int:
    """Compute the descriptors of the chunk's scans; a scan that cannot be used gets the reason instead."""
    reference = CohortReference.load(Path(task.work) / "maps_reference")
    columns = ColumnCheck(load_file(Path(task.work) / GROUP_FILE)["mean"], reference.atlas)

    def describe(scan: Mapping[str, Any], site: str | None) -> FeatureDict:
        prepared = _prepare(scan, reference.atlas)
        problem = columns.problem(prepared.connectivity, prepared.usable)
        if problem is not None:
            raise ScanError(problem)
        return features_of(prepared, reference.feature_table, reference.maps, site)

    rows: list[dict[str, Any]] = []
    for row, scan in task.read():
        features, failure = _attempt(partial(describe, scan, row["site"]))
        values = None if features is None else list(features.values())
        rows.append({"features": values, "failure": failure})
    with atomic(task.file("features")) as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=FEATURE_SCHEMA), path)
    return len(task)


def read_features(
    tasks: Sequence[ChunkTask],
) -> Iterator[tuple[Mapping[str, Any], np.ndarray | None, str | None]]:
    """Iterate over (metadata, features, failure) of all scans; features are in the order of the reference, or None."""
    for task in tasks:
        table = read_columns(task.file("features"))
        for row, values, failure in zip(task.scans.to_pylist(), table["features"], table["failure"], strict=True):
            features = values.values.to_numpy(zero_copy_only=False) if values.is_valid else None
            yield row, features, failure.as_py()


def as_features(reference: CohortReference, row: Mapping[str, Any], values: np.ndarray) -> FeatureDict:
    """Restore the features that `CohortReference.compute` returned, from their values and the scan's metadata."""
    features = FeatureDict(zip(reference.feature_names, values.tolist(), strict=True))
    features.acquisition = Acquisition.of(row["site"], row["t_r"])
    features.maps_fingerprint = reference.maps.fingerprint
    return features


def write_texts(task: ChunkTask) -> int:
    """Write facts and texts of the chunk's scans; every `TEXT_SCANS` scans, a row group for `all` and each family."""
    reference = CohortReference.load(Path(task.work).parent / "reference")
    # `scan_index` counts all scans of the dataset, also those that cannot be used
    scans = list(enumerate(read_features([task]), task.chunk.first))
    with atomic(task.file("texts")) as path, pq.ParquetWriter(path, TEXT_SCHEMA) as writer:
        for start in range(0, len(scans), TEXT_SCANS):
            pairs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("all", *reference.families)}
            for scan_index, (row, values, _) in scans[start : start + TEXT_SCANS]:
                if values is not None and row["split"] is not None:
                    features = as_features(reference, row, values)
                    for config, rows in _texts_of(task, reference, row, scan_index, features).items():
                        pairs[config] += rows
            # One row group for each config, empty ones included: `write_shards` finds them by counting.
            for rows in pairs.values():
                writer.write_table(pa.Table.from_pylist(rows, schema=TEXT_SCHEMA), row_group_size=10**6)
            pa.default_memory_pool().release_unused()
    return len(task)


def _texts_of(
    task: ChunkTask,
    reference: CohortReference,
    row: Mapping[str, Any],
    scan_index: int,
    features: FeatureDict,
) -> dict[str, list[dict[str, Any]]]:
    """Make the rows of a scan for each config: texts of every length and wording, with the facts that they state."""
    facts = [_rounded(fact) for fact in reference.facts(features)]
    in_json = {id(fact): json.dumps(fact) for fact in facts}  # several texts state the same fact
    shared = {
        "scan_id": row["scan_id"],
        "subject_id": row["subject_id"],
        "site": row["site"],
        "scan_index": scan_index,
        "acquisition_in_training": reference.knows(features.acquisition),
        SUBJECT_TEXT_COLUMN: row[SUBJECT_TEXT_COLUMN],
        "described_columns": task.options["described_columns"],
        "split": row["split"],
    }
    texts: dict[str, list[dict[str, Any]]] = {}
    for config in ("all", *reference.families):
        texts[config] = []
        chosen = [fact for fact in facts if config in ("all", fact["family"])]
        for length in task.options["lengths"] if chosen else ():
            paragraphs = select_facts(chosen, length)
            stated = ", ".join(in_json[id(fact)] for paragraph in paragraphs for fact in paragraph)
            for wording in range(task.options["wordings"]):
                seed = text_seed(task.options["seed"], row["scan_id"], config, wording)
                text = write_text(paragraphs, length, seed)
                texts[config].append(shared | {"length": length, "text": text, "facts": f"[{stated}]"})
    return texts


def text_seed(*parts: Any) -> int:
    """Derive a seed from what is described, so that the order of the work does not matter."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")


def _rounded(fact: Fact) -> Fact:
    """Round value and z to six digits, more than any text shows: the last bits differ between machines."""
    return Fact(**{**fact, "value": float(f"{fact['value']:.6g}"), "z": float(f"{fact['z']:.6g}")})  # type: ignore[typeddict-item]


def _attempt(describe: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """Return (result, None) or (None, reason): an odd scan must not stop a build, a full disk or memory must."""
    # A broken disk would otherwise turn all remaining scans into failures of a corpus that looks complete.
    try:
        return describe(), None
    except (MemoryError, OSError):
        raise
    except ScanError as error:
        return None, str(error)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}. No descriptors can be computed from the values of this scan."


def _prepare(scan: Mapping[str, Any], atlas: Atlas) -> PreparedScan:
    if "failure" in scan:
        raise ScanError(scan["failure"])
    if scan["bold"] is None:
        raise ScanError("bold is not a matrix of numbers (n_timepoints, n_rois). Extract the scan again.")
    if scan["t_r"] is None:
        raise ScanError("t_r is missing; expected the repetition time in seconds.")
    return prepare_row(scan, atlas)


# ----- workers: this process, several processes, or a Dask cluster -----

Task = TypeVar("Task")
RunTasks = Callable[[Callable[[Task], int], Sequence[Task]], Iterator[int]]
"""Runs a function on tasks and yields the results, in the order in which they finish."""


@contextmanager
def open_workers(workers: int = 1, scheduler: str | None = None) -> Iterator[RunTasks]:
    """Provide a function that runs tasks in parallel; its processes end with the context.

    Tasks write their results into files, each in one atomic step, and return a count for the progress bar. So a task
    may run twice, and on any machine that sees the same files.

    Parameters
    ----------
    workers : int, default=1
        Processes on this machine; with 1 the tasks run in this one.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://node:8786``, whose workers see the same files.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} found, expected at least 1.")
    if scheduler is not None:
        with open_cluster(scheduler) as client:
            yield partial(_run_on_cluster, client)
    elif workers == 1:
        yield map
    else:
        with ProcessPoolExecutor(workers, initializer=_end_with, initargs=(os.getpid(),)) as pool:
            yield partial(_run_in_processes, pool)


def _end_with(parent: int) -> None:
    """End this process when its parent ends, even if that was killed: an orphan would wait for work forever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_in_processes(
    pool: ProcessPoolExecutor, function: Callable[[Any], int], tasks: Sequence[Any]
) -> Iterator[int]:
    futures = [pool.submit(function, task) for task in tasks]
    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "A worker process ended unexpectedly, perhaps because memory ran out. Run the same command again, with "
            "fewer workers: it continues where it stopped."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _run_on_cluster(client: Any, function: Callable[[Any], int], tasks: Sequence[Any]) -> Iterator[int]:
    from distributed import as_completed as dask_as_completed

    # Only `as_completed` holds the futures, so tasks that are done and counted do not run again when their worker is
    # lost. With `with_results` it fetches results itself, which survives such a loss, too.
    results = dask_as_completed(
        client.map(function, tasks, pure=False, retries=RETRIES), loop=client.loop, with_results=True
    )
    for _, count in results:
        yield count
