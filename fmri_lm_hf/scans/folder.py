"""The folder of a scan dataset that is being built: one process at a time, resumable, never half-valid.

Files in the folder::

    data/train-00000.parquet, ...   shards, each complete
    atlas.json                      the ROIs
    provenance.json                 parameters, versions, whether the dataset is complete, and for each scan its shard
                                    and the checksums of its inputs
    failures.json                   scans that could not be used, with the reason
    exclusions.tsv, quality.html    excluded scans and files, with the reason; the quality of the scans
    .work/                          scans that were read but are in no shard yet (removed at the end)
    .lock                           lock of the process that works here (removed at its end)

A run may be killed at any moment. Each file is therefore complete or absent, and a fixed order of writing keeps the
folder valid: the table of a scan before its record, a shard before the record that lists it, that record before the
tables of the shard are removed. The next run removes, or makes again, whatever no record lists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..declarations import DECLARATIONS, declare_in_features, declared_in_features, declared_in_folder
from ..files import LOCK_FILE, exclusive, write_json
from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from .dataset import (
    ROW_GROUP_BYTES,
    WORK_FOLDER,
    arrow_column,
    in_groups,
    package_versions,
    read_provenance,
    rows_table,
    shard_name,
    write_parquet,
)
from .sources.source import Failure, InputFingerprint, ScanFile, Source, file_sha256

# Columns that come from the files of a scan; the others, its site and phenotypes, may change without it.
READ_COLUMNS = (
    *("scan_id", "subject_id", "session", "t_r", "n_timepoints", "bold", "roi_mask", "mean_fd"),
    *("sample_mask", "coverage"),
)
# Keys of the record, in a fixed order: an interrupted and continued run leaves the same bytes as an uninterrupted one.
RECORD_KEYS = ("complete", "parameters", "versions", "with_participants", "phenotypes_sha256", "n_shards", "scans")
UNRECORDED = {LOCK_FILE, WORK_FOLDER, "atlas.json", "data"}  # what a run may leave before its first record
TEMPORARY = re.compile(r"\.?.+\.\d+\.tmp")
Phenotypes = Mapping[str, Mapping[str, Any]]  # site and phenotypes by scan_id


class Entry(TypedDict):
    """Record of a scan that was read."""

    scan_id: str
    subject_id: str
    t_r: float
    tsnr: float | None
    inputs: list[InputFingerprint]
    report: list[str]
    bold_bytes: int


class DatasetFolder:
    """A folder that this process has locked; open it with `hold`.

    Attributes
    ----------
    provenance : dict
        The record of the dataset.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.work = out, out / WORK_FOLDER
        if not (out / "provenance.json").exists():
            # Nothing is removed from a folder that is not ours: a mistyped --out may be a home folder.
            paths = [*out.iterdir(), *(out / "data").glob("*")]
            others = sorted({path.name for path in paths if not TEMPORARY.fullmatch(path.name)} - UNRECORDED)
            if others:
                raise ScanError(f"The folder {out} holds other files ({', '.join(others[:3])}): give a new folder.")
        for folder in (out, out / "data", self.work):
            for path in folder.glob("*"):
                if TEMPORARY.fullmatch(path.name):  # of a process that was killed: nobody else works here
                    path.unlink(missing_ok=True)
        self.provenance: dict[str, Any] = {"scans": [], "n_shards": 0} | (read_provenance(out) or {})
        self._check_shards()

    @classmethod
    @contextlib.contextmanager
    def hold(cls, out: Path) -> Iterator[DatasetFolder]:
        """Lock a folder for this process; it is created if needed, and removed if nothing was written into it."""
        # Only taking the lock may fail with BlockingIOError here: one of the block inside has to pass as it is.
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(exclusive(out))
            except BlockingIOError as error:
                raise ScanError(str(error)) from error
            yield cls(out)

    @property
    def n_shards(self) -> int:
        return self.provenance["n_shards"]

    @property
    def atlas(self) -> Atlas | None:
        """Atlas of the scans in the dataset; None without scans."""
        path = self.out / "atlas.json"
        return Atlas.from_json(path) if self.provenance["scans"] and path.exists() else None

    def _check_shards(self) -> None:
        names = [shard_name(number) for number in range(self.n_shards)]
        for name in names:
            try:
                pq.read_metadata(self.out / name)
            except (OSError, pa.ArrowException) as error:
                raise ScanError(
                    f"The shard {name} of {self.out} is missing, empty or truncated: restore it, or make a new dataset."
                ) from error
        for path in (self.out / "data").glob("*.parquet"):
            if path.relative_to(self.out).as_posix() not in names:
                path.unlink()  # written by a run that was killed before it could record it

    def start(self, source: Source, features: datasets.Features, declared: Iterable[str] = ()) -> None:
        """Begin or continue a run; refuse parameters that differ from those of the scans in the dataset.

        The rows carry the names in `declared`, and the declarations of files in the folder.
        """
        assert source.atlas is not None
        declare_in_features(features, {*declared, *declared_in_folder(self.out)})
        self.features, self.source = features, source
        atlas = {"atlas": source.atlas.name, "atlas_sha256": _sha256_of_json(source.atlas.to_dict())}
        # Through JSON, as the recorded ones were: a tuple would differ from the list that it comes back as.
        parameters = json.loads(json.dumps(source.parameters() | atlas))
        before = self.provenance.get("parameters", {})
        names = [name for name in before | parameters if before.get(name) != parameters.get(name)]
        if self.provenance["scans"] and names:
            changes = "; ".join(f"{name} was {before.get(name)!r}, now {parameters.get(name)!r}" for name in names)
            raise ScanError(
                f"{self.out} was made with other parameters ({changes}): give the same ones to continue it, or another "
                "folder for a new dataset."
            )
        if not self.provenance["scans"]:
            if names:  # scans in the work folder were read with other parameters
                shutil.rmtree(self.work, ignore_errors=True)
            self.provenance |= {"parameters": parameters, "versions": package_versions()}
            source.atlas.to_json(self.out / "atlas.json")

    def begin_changes(self) -> None:
        """Mark the dataset as unfinished."""
        self.work.mkdir(exist_ok=True)
        if self.provenance.get("complete") is not False:
            self.provenance["complete"] = False
            self._save()

    def done(self, files: Sequence[ScanFile]) -> set[str]:
        """Return the ids of the scans in shards; refuse inputs that were changed since, and another TR."""
        recorded = {scan["scan_id"]: scan for scan in self.provenance["scans"]}
        for file in files:
            scan = recorded.get(file.scan_id)
            if scan is None:
                continue
            if not self._same_inputs(file, scan["inputs"], self.out / scan["shard"]):
                raise ScanError(
                    f"An input of {file.scan_id} was changed after it was read into {self.out}: make a new dataset."
                )
            t_r = self.source.t_r_of(file)
            if t_r is not None and abs(t_r - scan["t_r"]) > 1e-6:
                raise ScanError(
                    f"{file.scan_id} is in {self.out} with TR {scan['t_r']:g} s, but TR {t_r:g} s was given: give the "
                    "same, or make a new dataset."
                )
        return set(recorded)

    # Scans that were read but are in no shard yet

    def entry(self, file: ScanFile) -> Entry | None:
        """Return the record of a scan in the work folder; None if it is missing or damaged."""
        record, table = self._work_files(file.scan_id)
        try:
            entry = json.loads(record.read_text(encoding="utf-8"))
            pq.read_metadata(table)
            return entry if self._same_inputs(file, entry["inputs"], record) else None
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None

    def keep(self, file: ScanFile, row: dict[str, Any]) -> Entry:
        """Write a scan into the work folder, where it stays until its shard is full."""
        entry: Entry = {
            "scan_id": file.scan_id,
            "subject_id": file.subject_id,
            "t_r": row["t_r"],
            "tsnr": row.pop("tsnr", None),
            "inputs": row.pop("inputs"),
            "report": row.pop("report"),
            "bold_bytes": row["bold"].nbytes,
        }
        record, path = self._work_files(file.scan_id)
        table = rows_table([row], datasets.Features({name: self.features[name] for name in READ_COLUMNS}))
        write_parquet([table], path, table.schema)
        write_json(entry, record)  # last, since a record without its table would be an error
        return entry

    def drop(self, scan_id: str) -> None:
        """Remove a scan from the work folder."""
        for path in self._work_files(scan_id):
            path.unlink(missing_ok=True)

    def _work_files(self, scan_id: str) -> tuple[Path, Path]:
        """Return the paths of record and table of a scan in the work folder."""
        name = scan_id
        # File systems allow 255 bytes in a name, and `atomic` adds its own part to it.
        if len(name.encode()) > 180:
            name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self.work / f"{name}.json", self.work / f"{name}.parquet"

    # Shards

    def add_shard(self, entries: Sequence[Entry], phenotypes: Phenotypes) -> None:
        """Move scans from the work folder into a new shard, with their phenotypes."""
        name = shard_name(self.n_shards)
        tables = (
            pa.concat_tables(pq.read_table(self._work_files(entry["scan_id"])[1]) for entry in group)
            for group in in_groups(entries, lambda entry: entry["bold_bytes"], ROW_GROUP_BYTES)
        )
        row_groups = (self._with_phenotypes(table, phenotypes) for table in tables)
        write_parquet(row_groups, self.out / name, self.features.arrow_schema)
        # The order matters if the process is killed: the shard, then the record, then the removal of the tables.
        for entry in entries:
            record = {key: value for key, value in entry.items() if key != "bold_bytes"}
            self.provenance["scans"].append(record | {"shard": name})
        self.provenance["n_shards"] += 1
        self._save()
        for entry in entries:
            self.drop(entry["scan_id"])

    def update_phenotypes(self, phenotypes: Phenotypes) -> None:
        """Update sites and phenotypes of the scans in shards, without reading the files of the scans again."""
        is_current = self.provenance.get("phenotypes_sha256") == self._sha256(phenotypes)
        if is_current or not self.provenance["scans"]:
            return
        self.begin_changes()
        # A run that is killed below leaves old and new shards: without the hash, the next run rewrites all of them.
        self.provenance["phenotypes_sha256"] = None
        self._save()
        for number in range(self.n_shards):
            path = self.out / shard_name(number)
            state = path.stat()
            with pq.ParquetFile(path) as shard:
                tables = (shard.read_row_group(group) for group in range(shard.num_row_groups))
                row_groups = (self._with_phenotypes(table, phenotypes) for table in tables)
                # The shard keeps its times, with which `_same_inputs` compares those of the inputs.
                times = (state.st_atime_ns, state.st_mtime_ns)
                write_parquet(row_groups, path, self.features.arrow_schema, times)

    def finish(self, phenotypes: Phenotypes, failures: list[Failure]) -> None:
        """Mark the dataset as complete."""
        write_json(failures, self.out / "failures.json")
        finished = self.provenance | {"phenotypes_sha256": self._sha256(phenotypes), "complete": True}
        finished |= dict.fromkeys(declared_in_features(self.features), True)
        shutil.rmtree(self.work, ignore_errors=True)
        # A run without news leaves the record untouched, and with it its modification time.
        if finished != read_provenance(self.out):
            self.provenance = finished
            self._save()

    def _sha256(self, phenotypes: Phenotypes) -> str:
        """Hash the columns, their declarations, and sites and phenotypes of the scans in shards."""
        columns = {name: str(feature) for name, feature in self.features.items()}
        declared = sorted(declared_in_features(self.features))
        rows = {scan["scan_id"]: phenotypes[scan["scan_id"]] for scan in self.provenance["scans"]}
        return _sha256_of_json([columns, rows, *([declared] if declared else [])])

    def _save(self) -> None:
        record = {key: self.provenance.get(key) for key in RECORD_KEYS}
        # A declaration is kept even if somebody wrote it into the record by hand.
        record |= {name: self.provenance[name] for name in DECLARATIONS if self.provenance.get(name)}
        write_json(record, self.out / "provenance.json")

    def _with_phenotypes(self, table: pa.Table, phenotypes: Phenotypes) -> pa.Table:
        values = [phenotypes[scan_id] for scan_id in table["scan_id"].to_pylist()]
        table = table.combine_chunks()
        columns = [
            table[field.name].cast(field.type)
            if field.name in READ_COLUMNS
            else arrow_column(field, [row.get(field.name) for row in values], self.features)
            for field in self.features.arrow_schema
        ]
        return pa.Table.from_arrays(columns, schema=self.features.arrow_schema)

    def _same_inputs(self, file: ScanFile, recorded: Sequence[InputFingerprint], made: Path) -> bool:
        """Tell whether the inputs of a scan are unchanged."""
        if file.table is not None:
            return recorded == self.source.fingerprints(file)
        if len(file.inputs) != len(recorded):
            return False
        for path, before in zip(file.inputs, recorded, strict=True):
            state = path.stat()
            if self.source.relative(path) != before["name"] or state.st_size != before["bytes"]:
                return False
            # Hashing terabytes again would take hours: only files that are newer than the result are hashed.
            if state.st_mtime >= made.stat().st_mtime and file_sha256(path) != before["sha256"]:
                return False
        return True


def _sha256_of_json(record: Any) -> str:
    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else os.fspath(value)

    return hashlib.sha256(json.dumps(record, sort_keys=True, default=plain).encode()).hexdigest()
