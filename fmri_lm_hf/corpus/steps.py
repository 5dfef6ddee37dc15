"""The steps of building a corpus that run in parallel, one chunk of scans at a time, and what runs them.

Each step reads files and writes one file for each chunk, into a folder of its own in the work folder::

    maps/00012.safetensors      sums of the training scans' connectivity
    features/00012.parquet      descriptors of each scan, or why it has none
    texts/00012.parquet         facts and texts of each scan; one row group a config

Results do not depend on who computes them, or how often: matrix products run on one thread, and sums are taken in the
order of the scans.
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

TEXT_SCANS = 50  # whose texts are in memory at a time
GROUP_FILE = "group_connectivity.safetensors"  # mean connectivity of the training scans, in the work folder
FEATURE_SCHEMA = pa.schema([("features", pa.list_(pa.float64())), ("failure", pa.string())])
Result = TypeVar("Result")


@dataclass(frozen=True)
class ChunkTask:
    """A chunk of scans, and what has to be known about it.

    Attributes
    ----------
    number : int
        Of the chunk; names its files.
    chunk : Chunk
        Where the scans are.
    work : str
        The work folder.
    scans : pyarrow.Table
        Of each scan: `scan_id`, `subject_id`, `site`, `t_r`, `split`, and `subject_description`. A table, since the
        tasks of all scans are in memory at once.
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
        """Where the result of a step for this chunk lies."""
        suffix = "safetensors" if step == "maps" else "parquet"
        return Path(self.work) / step / f"{self.number:05d}.{suffix}"

    def read(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """What is known of each scan, and the scan. Matrix products run on one thread while the chunk is read."""
        with threadpool_limits(1):
            yield from zip(self.scans.to_pylist(), read_chunk(self.chunk), strict=True)
        pa.default_memory_pool().release_unused()  # or the allocator keeps what reading the chunk took


# ----- steps -----


def sum_connectivity(task: ChunkTask) -> int:
    """Sum the connectivity of the chunk's training scans; a scan that cannot be used adds nothing."""
    atlas = Atlas.from_json(Path(task.work) / "atlas.json")
    upper = np.triu_indices(atlas.n_rois)
    group = GroupConnectivity(atlas.n_rois)
    for row, scan in task.read():
        if row["split"] == "train":
            prepared, _ = _attempt(partial(_prepare, scan, atlas))
            if prepared is not None:  # else the next step lists it with its reason
                group.add(prepared.connectivity, prepared.usable)
    arrays: dict[str, np.ndarray] = {"total": group.total[upper], "n_known": group.n_known[upper]}
    with atomic(task.file("maps")) as path:
        save_file(arrays, path)
    return len(task)


def read_connectivity(tasks: Sequence[ChunkTask], n_rois: int) -> GroupConnectivity:
    """The connectivity of the training scans of all chunks."""
    upper, group = np.triu_indices(n_rois), GroupConnectivity(n_rois)
    for task in tasks:
        arrays = load_file(task.file("maps"))
        group.total[upper] += arrays["total"]
        group.n_known[upper] += arrays["n_known"]
    # Only the upper triangle was stored; the diagonal is in it, and must not be counted twice.
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
    """Of every scan: its row, its features in the order of the reference, or the reason why it has none."""
    for task in tasks:
        table = read_columns(task.file("features"))
        for row, values, failure in zip(task.scans.to_pylist(), table["features"], table["failure"], strict=True):
            features = values.values.to_numpy(zero_copy_only=False) if values.is_valid else None
            yield row, features, failure.as_py()


def as_features(reference: CohortReference, row: Mapping[str, Any], values: np.ndarray) -> FeatureDict:
    """Features of a scan as `CohortReference.compute` gave them, from their values and the scan's row."""
    features = FeatureDict(zip(reference.feature_names, values.tolist(), strict=True))
    features.acquisition = Acquisition.of(row["site"], row["t_r"])
    features.maps_fingerprint = reference.maps.fingerprint
    return features


def write_texts(task: ChunkTask) -> int:
    """Write facts and texts of the chunk's scans: of `TEXT_SCANS` at a time, a row group for `all` and each family."""
    reference = CohortReference.load(Path(task.work).parent / "reference")
    scans = list(enumerate(read_features([task]), task.chunk.first))
    with atomic(task.file("texts")) as path, pq.ParquetWriter(path, TEXT_SCHEMA) as writer:
        for start in range(0, len(scans), TEXT_SCANS):
            pairs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("all", *reference.families)}
            for scan_index, (row, values, _) in scans[start : start + TEXT_SCANS]:
                if values is not None and row["split"] is not None:
                    features = as_features(reference, row, values)
                    for config, of_scan in _texts_of(task, reference, row, scan_index, features).items():
                        pairs[config] += of_scan
            # One row group for each config, empty ones included: `write_shards` finds them by counting.
            for of_config in pairs.values():
                writer.write_table(pa.Table.from_pylist(of_config, schema=TEXT_SCHEMA), row_group_size=10**6)
            pa.default_memory_pool().release_unused()
    return len(task)


def _texts_of(
    task: ChunkTask,
    reference: CohortReference,
    row: Mapping[str, Any],
    scan_index: int,
    features: FeatureDict,
) -> dict[str, list[dict[str, Any]]]:
    """The rows of a scan in each config: texts of every length and wording, each with the facts that it states."""
    facts = [_rounded(fact) for fact in reference.facts(features)]
    in_json = {id(fact): json.dumps(fact) for fact in facts}  # a fact stands in several texts
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
    """A seed that depends on what is described, not on when."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")


def _rounded(fact: Fact) -> Fact:
    """Six digits say all that a scan's numbers mean; texts round to fewer."""
    return Fact(**{**fact, "value": float(f"{fact['value']:.6g}"), "z": float(f"{fact['z']:.6g}")})  # type: ignore[typeddict-item]


def _attempt(describe: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """What a scan gives, or why it gives nothing: one odd scan does not stop a cohort, a full disk or memory does."""
    try:
        return describe(), None
    except (MemoryError, OSError):
        raise
    except ScanError as error:
        return None, str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}. The scan holds what no descriptor can be computed from."
        return None, reason


def _prepare(scan: Mapping[str, Any], atlas: Atlas) -> PreparedScan:
    if "failure" in scan:
        raise ScanError(scan["failure"])
    if scan["bold"] is None:
        raise ScanError("bold is not numbers of shape (n_timepoints, n_rois). Extract the scan again.")
    if scan["t_r"] is None:
        raise ScanError("t_r is missing; expected the repetition time in seconds.")
    return prepare_row(scan, atlas)


# ----- running many independent tasks: in this process, in several, or on a Dask cluster -----

Task = TypeVar("Task")
RunTasks = Callable[[Callable[[Task], int], Sequence[Task]], Iterator[int]]
"""Takes a function and its tasks, yields what each call returns, in the order in which they finish."""


@contextmanager
def open_workers(workers: int = 1, scheduler: str | None = None) -> Iterator[RunTasks]:
    """A function that runs tasks in parallel, and lets go of its processes at the end.

    Tasks write what they make into files, each in one atomic step, and return a count for the progress bar. A task
    may therefore run twice, or on any machine that sees the same files.

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
    """End this process when its parent ends, however that came: an orphan would wait for work for ever."""

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

    # Nothing but as_completed holds the futures, so that what is done and counted is not computed again when the
    # worker that did it is lost. It collects results itself, which survives such a loss as well.
    results = dask_as_completed(
        client.map(function, tasks, pure=False, retries=RETRIES), loop=client.loop, with_results=True
    )
    for _, count in results:
        yield count
