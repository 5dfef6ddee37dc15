"""From a source of scans to a scan dataset: resumable, with every failure listed.

What a run leaves in its folder::

    data/train-00000.parquet, ...   shards, each complete
    atlas.json                      the ROIs
    provenance.json                 parameters, versions, and for each scan its shard and the checksums of its inputs
    failures.json                   scans that could not be used, with the reason
    .work/                          scans that are read but not yet in a shard (gone when the run is complete)
"""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from fmri_lm_hf.files import write_json
from fmri_lm_hf.models.scan_images import ScanError

from .dataset import (
    ROW_GROUP_BYTES,
    SHARD_BYTES,
    in_groups,
    package_versions,
    rows_table,
    scan_features,
    shard_name,
    write_parquet,
)
from .participants import subject_key
from .sources.source import ScanFile, Source

__all__ = ["BuildSummary", "build_scan_dataset"]


@dataclass(frozen=True)
class BuildSummary:
    """What a run did.

    Attributes
    ----------
    n_new, n_before : int
        Scans added by this run, and those that were done before it.
    n_shards : int
        Shards in the folder.
    failures : list of dict
        `scan_id`, `input` and `reason` of the scans that could not be used.
    notes : list of str
        What was noticed about the scans as a whole.
    seconds : float
    """

    n_new: int
    n_before: int
    n_shards: int
    failures: list[dict[str, str]]
    notes: list[str]
    seconds: float


def build_scan_dataset(
    source: Source,
    out: Path,
    *,
    participants: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int = 1,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> BuildSummary:
    """Read all scans of a source into a scan dataset folder.

    Calling it again continues where it stopped: scans that are done are not read again, failed ones are tried anew,
    new ones are added. Other parameters than those of the folder are refused.

    Parameters
    ----------
    source : Source
    out : path
        The folder to make or to continue.
    participants : mapping, optional
        Phenotypes of each subject, as `read_participants` gives them.
    workers : int
        Processes that read scans; the result does not depend on it.
    shard_bytes : int
        Largest size of the BOLD of one shard.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    BuildSummary
    """
    started = time.monotonic()
    files = source.find()
    if not files:
        raise ScanError(
            f"No scans of the kind {source.name!r} in {source.root}: check the folder and the options."
        )
    _refuse_repeated_ids(files, source)
    if source.atlas is None:
        source.atlas = source.table_atlas(files)
    files = [_with_phenotypes(file, source, participants) for file in files]
    folder = _Folder(Path(out), source, _features(files, source, participants), participants)
    done = folder.done(files)
    todo = [file for file in files if file.scan_id not in done]
    failures = []

    def entries() -> Iterator[dict[str, Any]]:
        """What goes into the shards, in order: scans that an earlier run has read, and those read now."""
        unread = [file for file in todo if folder.entry(file) is None]
        results = _read_all(source, unread, workers)
        ordered = tqdm(todo, initial=len(done), total=len(files), unit="scan", disable=not progress)
        for file in ordered:
            entry = folder.entry(file)
            if entry is None:
                row, reason = next(results)
                if row is None:
                    name = _relative(file.inputs[0], source.root) if file.inputs else file.scan_id
                    failures.append({"scan_id": file.scan_id, "input": name, "reason": reason})
                    continue
                entry = folder.keep(file, row)
            yield entry

    for shard in in_groups(entries(), lambda entry: entry["bold_bytes"], shard_bytes):
        folder.add_shard(shard)
    folder.finish(failures)
    notes = []
    unknown = sorted(
        {file.subject_id for file in files if subject_key(file.subject_id) not in (participants or {})}
    )
    if participants and unknown:
        notes.append(f"Not in the participants table, so without phenotypes: {', '.join(unknown)}.")
    return BuildSummary(
        n_new=len(todo) - len(failures),
        n_before=len(done),
        n_shards=folder.n_shards,
        failures=failures,
        notes=notes,
        seconds=time.monotonic() - started,
    )


class _Folder:
    """The folder of a dataset in the making."""

    def __init__(
        self,
        out: Path,
        source: Source,
        features: datasets.Features,
        participants: Mapping[str, Mapping[str, Any]] | None,
    ) -> None:
        assert source.atlas is not None
        self.out, self.root, self.features = out, source.root, features
        self.work = out / ".work"
        parameters = source.parameters() | {
            "atlas": source.atlas.name,
            "atlas_sha256": _sha256_of_json(source.atlas.to_dict()),
            "participants_sha256": None if participants is None else _sha256_of_json(participants),
            "columns": {name: str(feature) for name, feature in features.items()},
        }
        parameters = json.loads(json.dumps(parameters))
        self.provenance = {
            "parameters": parameters,
            "versions": package_versions(),
            "n_shards": 0,
            "scans": [],
        }
        recorded = out / "provenance.json"
        if recorded.exists():
            self.provenance = json.loads(recorded.read_text(encoding="utf-8"))
            self._refuse_other_parameters(parameters)
        elif out.exists() and any(out.iterdir()):
            raise ScanError(f"The folder {out} holds something else: give a new folder.")
        self.work.mkdir(parents=True, exist_ok=True)
        source.atlas.to_json(out / "atlas.json")
        write_json(self.provenance, recorded)

    def _refuse_other_parameters(self, parameters: dict[str, Any]) -> None:
        before = self.provenance["parameters"]
        names = [name for name in before | parameters if before.get(name) != parameters.get(name)]
        if names:
            changes = "; ".join(
                f"{name} was {before.get(name)!r}, now {parameters.get(name)!r}" for name in names
            )
            raise ScanError(
                f"{self.out} was made with other parameters ({changes}): give the same ones to continue it, or another "
                "folder for a new dataset."
            )

    @property
    def n_shards(self) -> int:
        return self.provenance["n_shards"]

    def done(self, files: Sequence[ScanFile]) -> set[str]:
        """Ids of the scans that are in shards; refuses inputs that were changed since."""
        recorded = {scan["scan_id"]: scan for scan in self.provenance["scans"]}
        for file in files:
            scan = recorded.get(file.scan_id)
            if scan is not None and not _same_inputs(file, scan, self.out / scan["shard"], self.root):
                raise ScanError(
                    f"An input of {file.scan_id} was changed after it was read into {self.out}: make a new dataset."
                )
        return set(recorded)

    def entry(self, file: ScanFile) -> dict[str, Any] | None:
        """The record of a scan that is read but in no shard yet."""
        path = self.work / f"{file.scan_id}.json"
        if not path.exists():
            return None
        entry = json.loads(path.read_text(encoding="utf-8"))
        return entry if _same_inputs(file, entry, path, self.root) else None

    def keep(self, file: ScanFile, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a scan that was read until its shard is full."""
        entry = {
            "scan_id": file.scan_id,
            "inputs": row.pop("inputs"),
            "report": row.pop("report"),
            "bold_bytes": row["bold"].nbytes,
        }
        table = rows_table([row], self.features)
        write_parquet([table], self.work / f"{file.scan_id}.parquet", table.schema)
        write_json(entry, self.work / f"{file.scan_id}.json")  # last: it says that the scan is there
        return entry

    def add_shard(self, entries: Sequence[dict[str, Any]]) -> None:
        """Move scans from the work folder into a new shard."""
        name = shard_name(self.n_shards)
        schema = self.features.arrow_schema
        groups = in_groups(entries, lambda entry: entry["bold_bytes"], ROW_GROUP_BYTES)
        tables = (
            pa.concat_tables(
                pq.read_table(self.work / f"{entry['scan_id']}.parquet", schema=schema) for entry in group
            )
            for group in groups
        )
        write_parquet((table.combine_chunks() for table in tables), self.out / name, schema)
        for entry in entries:
            record = {key: value for key, value in entry.items() if key != "bold_bytes"}
            self.provenance["scans"].append(record | {"shard": name})
        self.provenance["n_shards"] += 1
        write_json(self.provenance, self.out / "provenance.json")
        for entry in entries:
            (self.work / f"{entry['scan_id']}.json").unlink()
            (self.work / f"{entry['scan_id']}.parquet").unlink()

    def finish(self, failures: list[dict[str, str]]) -> None:
        write_json(failures, self.out / "failures.json")
        shutil.rmtree(self.work)


Result = tuple[dict[str, Any] | None, str]  # the row of a scan, or None and the reason


def _read_one(source: Source, file: ScanFile) -> Result:
    try:
        row = source.read(file)
    except ScanError as error:
        return None, str(error)
    known = {
        "scan_id": file.scan_id,
        "subject_id": file.subject_id,
        "session": file.session,
        "site": file.site,
    }
    if file.table is not None:
        content = np.ascontiguousarray(file.table)
        inputs = [_identity(file.scan_id, content.nbytes, hashlib.sha256(content.tobytes()).hexdigest())]
    else:
        inputs = [
            _identity(_relative(path, source.root), path.stat().st_size, _sha256(path))
            for path in file.inputs
        ]
    return known | file.phenotypes | row | {"inputs": inputs}, ""


_worker_source: Source | None = None  # of a worker process: sent once, as its atlas may hold a large image


def _start_worker(source: Source) -> None:
    global _worker_source
    _worker_source = source


def _read_in_worker(file: ScanFile) -> Result:
    assert _worker_source is not None
    return _read_one(_worker_source, file)


def _read_all(source: Source, files: Sequence[ScanFile], workers: int) -> Iterator[Result]:
    """Results in the order of `files`, from this process or from several."""
    if workers <= 1 or len(files) < 2:
        for file in files:
            yield _read_one(source, file)
        return
    # A plain fork would copy threads of numpy and Arrow in mid-air; a fork server imports this once for all workers.
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([__name__])
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (source,)) as pool:
        # Only so many in flight: results must not pile up faster than they are written.
        in_flight: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
        try:
            for file in files:
                in_flight.append(pool.submit(_read_in_worker, file))
                if len(in_flight) >= 4 * workers:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ChildProcessError(
                "A worker process was killed, most likely for lack of memory: run the same command again to continue, "
                "with fewer workers."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _refuse_repeated_ids(files: Sequence[ScanFile], source: Source) -> None:
    seen: dict[str, ScanFile] = {}
    for file in files:
        other = seen.setdefault(file.scan_id, file)
        if other is not file:
            names = [
                str(_relative(f.inputs[0], source.root)) if f.inputs else f.scan_id for f in (other, file)
            ]
            raise ScanError(
                f"Two files are taken for the same scan {file.scan_id!r}: {names[0]} and {names[1]}. "
                "Choose between them with a pattern (--match)."
            )


def _with_phenotypes(
    file: ScanFile, source: Source, participants: Mapping[str, Mapping[str, Any]] | None
) -> ScanFile:
    """A scan with its site and its subject's phenotypes."""
    row = dict((participants or {}).get(subject_key(file.subject_id), {}))
    site = row.pop("site", None)
    site = source.site or file.site or (None if site is None else str(site)) or "unknown"
    return replace(file, site=site, phenotypes=file.phenotypes | row)


def _features(
    files: Sequence[ScanFile], source: Source, participants: Mapping[str, Mapping[str, Any]] | None
) -> datasets.Features:
    """Columns of the dataset: they depend on the tables, not on which scans can be read."""
    assert source.atlas is not None
    known = [
        {name: value for name, value in row.items() if name != "site"}
        for row in (participants or {}).values()
    ]
    features = scan_features([file.phenotypes for file in files] + known, source.atlas.n_rois)
    if source.has_sample_mask:
        features["sample_mask"] = datasets.List(datasets.Value("bool"))
    return features


def _same_inputs(file: ScanFile, entry: Mapping[str, Any], made: Path, root: Path) -> bool:
    """Whether the inputs of a scan are still those it was read from; files older than the result are not hashed."""
    if file.table is not None:
        content = np.ascontiguousarray(file.table)
        return entry["inputs"][0]["sha256"] == hashlib.sha256(content.tobytes()).hexdigest()
    if len(file.inputs) != len(entry["inputs"]):
        return False
    for path, before in zip(file.inputs, entry["inputs"], strict=True):
        state = path.stat()
        if _relative(path, root) != before["name"] or state.st_size != before["bytes"]:
            return False
        if state.st_mtime >= made.stat().st_mtime and _sha256(path) != before["sha256"]:
            return False
    return True


def _identity(name: str, n_bytes: int, sha256: str) -> dict[str, Any]:
    return {"name": name, "bytes": n_bytes, "sha256": sha256}


def _relative(path: Path, root: Path) -> str:
    """Name of an input below the folder of its source; nothing of where that folder lies."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_of_json(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
