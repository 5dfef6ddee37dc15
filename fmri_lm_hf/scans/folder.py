"""The folder of a scan dataset in the making: one process at a time, resumable, complete or marked as unfinished.

What a run leaves in its folder::

    data/train-00000.parquet, ...   shards, each complete
    atlas.json                      the ROIs
    provenance.json                 parameters, versions, whether the dataset is complete, and for each scan its shard
                                    and the checksums of its inputs
    failures.json                   scans that could not be used, with the reason
    exclusions.tsv, quality.html    what was not kept and why; how good the scans are
    .work/                          scans that are read but not yet in a shard (gone when the run is complete)
    .lock                           held by the process that works here (gone when it has ended)
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
from typing import Any

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
from .sources.source import ScanFile, Source
from .workers import identities, sha256

# Columns that come from the files of a scan; the others, its site and phenotypes, may change without it.
READ_COLUMNS = (
    *("scan_id", "subject_id", "session", "t_r", "n_timepoints", "bold", "roi_mask", "mean_fd"),
    *("sample_mask", "coverage"),
)
# What the record holds, in this order: a run that was stopped and continued leaves the same bytes as another.
RECORDED = (
    "complete",
    "parameters",
    "versions",
    "with_participants",
    "phenotypes_sha256",
    "n_shards",
    "scans",
)
UNRECORDED = {LOCK_FILE, WORK_FOLDER, "atlas.json", "data"}  # what a run may leave before its first record
TEMPORARY = re.compile(r"\.?.+\.\d+\.tmp")


class DatasetFolder:
    """A folder that is held by this process; use `hold`.

    Attributes
    ----------
    provenance : dict
        The record of the dataset.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.work = out, out / WORK_FOLDER
        self.record = out / "provenance.json"
        if not self.record.exists():
            found = sorted(path.name for path in out.iterdir() if not TEMPORARY.fullmatch(path.name))
            shards = list((out / "data").glob("*")) if "data" in found else []
            if set(found) - UNRECORDED or any(not TEMPORARY.fullmatch(path.name) for path in shards):
                raise ScanError(f"The folder {out} holds something else: give a new folder.")
        for folder in (out, out / "data", self.work):
            for path in folder.glob("*") if folder.is_dir() else ():
                if TEMPORARY.fullmatch(
                    path.name
                ):  # of a process that was killed: nobody else is at work here
                    path.unlink(missing_ok=True)
        self.provenance: dict[str, Any] = read_provenance(out) or {}
        self.provenance.setdefault("scans", [])
        self.provenance.setdefault("n_shards", 0)
        self._check_shards()

    @classmethod
    @contextlib.contextmanager
    def hold(cls, out: Path) -> Iterator[DatasetFolder]:
        """Hold a folder for this process alone; it is made if need be, and removed if nothing came into it."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(exclusive(out))
            except BlockingIOError as error:
                raise ScanError(str(error)) from error
            yield cls(out)

    @property
    def n_shards(self) -> int:
        return self.provenance["n_shards"]

    @property
    def atlas(self) -> Atlas | None:
        """The atlas of the scans that are there."""
        if not self.provenance["scans"] or not (self.out / "atlas.json").exists():
            return None
        return Atlas.from_json(self.out / "atlas.json")

    def _check_shards(self) -> None:
        names = [shard_name(number) for number in range(self.n_shards)]
        for name in names:
            try:
                pq.read_metadata(self.out / name)
            except (OSError, pa.ArrowException) as error:
                raise ScanError(
                    f"The shard {name} of {self.out} is missing, empty or truncated: put it back, or make a "
                    "new dataset."
                ) from error
        for path in (self.out / "data").glob("*.parquet"):
            if path.relative_to(self.out).as_posix() not in names:
                path.unlink()  # written by a run that was killed before it could record it

    def start(self, source: Source, features: datasets.Features, declared: Iterable[str] = ()) -> None:
        """Begin or continue a run; refuses other parameters than those of the scans that are there.

        The rows carry what is `declared` about the cohort now, and what files of the folder declare already.
        """
        assert source.atlas is not None
        declare_in_features(features, {*declared, *declared_in_folder(self.out)})
        self.features, self.source = features, source
        parameters = source.parameters() | {
            "atlas": source.atlas.name,
            "atlas_sha256": _sha256_of_json(source.atlas.to_dict()),
        }
        parameters = json.loads(json.dumps(parameters))
        before = self.provenance.get("parameters", {})
        names = [name for name in before | parameters if before.get(name) != parameters.get(name)]
        if self.provenance["scans"] and names:
            changes = "; ".join(
                f"{name} was {before.get(name)!r}, now {parameters.get(name)!r}" for name in names
            )
            raise ScanError(
                f"{self.out} was made with other parameters ({changes}): give the same ones to continue it, or another "
                "folder for a new dataset."
            )
        if not self.provenance["scans"]:  # nothing that other parameters could contradict
            if names:
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
        """Ids of the scans that are in shards; refuses inputs that were changed since, and another TR."""
        recorded = {scan["scan_id"]: scan for scan in self.provenance["scans"]}
        for file in files:
            scan = recorded.get(file.scan_id)
            if scan is None:
                continue
            if not self._same_inputs(file, scan, self.out / scan["shard"]):
                raise ScanError(
                    f"An input of {file.scan_id} was changed after it was read into {self.out}: make a new dataset."
                )
            t_r = self.source.t_r_of(file)
            if t_r is not None and abs(t_r - scan["t_r"]) > 1e-6:
                raise ScanError(
                    f"{file.scan_id} is in {self.out} with TR {scan['t_r']:g} s, but {t_r:g} s is given for it now: "
                    "give the same, or make a new dataset."
                )
        return set(recorded)

    def entry(self, file: ScanFile) -> dict[str, Any] | None:
        """The record of a scan that is read but in no shard yet; None if there is none, or a damaged one."""
        path = self.work / (_file_name(file.scan_id) + ".json")
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            pq.read_metadata(_beside(path))
            return entry if self._same_inputs(file, entry, path) else None
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None

    def keep(self, file: ScanFile, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a scan that was read until its shard is full."""
        entry = {
            "scan_id": file.scan_id,
            "subject_id": file.subject_id,
            "t_r": row["t_r"],
            "tsnr": row.pop("tsnr", None),
            "inputs": row.pop("inputs"),
            "report": row.pop("report"),
            "bold_bytes": row["bold"].nbytes,
        }
        table = rows_table([row], datasets.Features({name: self.features[name] for name in READ_COLUMNS}))
        path = self.work / f"{_file_name(file.scan_id)}.json"
        write_parquet([table], _beside(path), table.schema)
        write_json(entry, path)  # last: it says that the scan is there
        return entry

    def drop(self, file: ScanFile) -> None:
        """Forget a scan that was read."""
        path = self.work / f"{_file_name(file.scan_id)}.json"
        path.unlink(missing_ok=True)
        _beside(path).unlink(missing_ok=True)

    def add_shard(
        self, entries: Sequence[dict[str, Any]], phenotypes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Move scans from the work folder into a new shard, with their phenotypes."""
        name = shard_name(self.n_shards)
        paths = [self.work / f"{_file_name(entry['scan_id'])}.json" for entry in entries]
        sizes = [entry["bold_bytes"] for entry in entries]
        groups = in_groups(zip(paths, sizes, strict=True), lambda item: item[1], ROW_GROUP_BYTES)
        schema = self.features.arrow_schema
        tables = (pa.concat_tables(pq.read_table(_beside(path)) for path, _ in group) for group in groups)
        write_parquet((self._with_phenotypes(table, phenotypes) for table in tables), self.out / name, schema)
        for entry in entries:
            record = {key: value for key, value in entry.items() if key != "bold_bytes"}
            self.provenance["scans"].append(record | {"shard": name})
        self.provenance["n_shards"] += 1
        self._save()
        for path in paths:
            path.unlink()
            _beside(path).unlink()

    def update_phenotypes(self, phenotypes: Mapping[str, Mapping[str, Any]]) -> bool:
        """Bring sites and phenotypes of the scans in shards up to date, without reading their files again.

        Parameters
        ----------
        phenotypes : mapping
            `site` and phenotypes by scan_id, of every scan that is there.

        Returns
        -------
        bool
            Whether anything had changed.
        """
        if (
            self.provenance.get("phenotypes_sha256") == self._sha256(phenotypes)
            or not self.provenance["scans"]
        ):
            return False
        self.begin_changes()
        # A run that is killed here leaves shards of both kinds: the next one does all of them again.
        self.provenance["phenotypes_sha256"] = None
        self._save()
        for number in range(self.n_shards):
            path = self.out / shard_name(number)
            state = path.stat()
            with pq.ParquetFile(path) as shard:
                groups = (
                    self._with_phenotypes(shard.read_row_group(group), phenotypes)
                    for group in range(shard.num_row_groups)
                )
                write_parquet(
                    groups, path, self.features.arrow_schema, times=(state.st_atime_ns, state.st_mtime_ns)
                )
        return True

    def finish(self, phenotypes: Mapping[str, Mapping[str, Any]], failures: list[dict[str, str]]) -> None:
        """Mark the dataset as complete."""
        write_json(failures, self.out / "failures.json")
        now = self.provenance | {"phenotypes_sha256": self._sha256(phenotypes), "complete": True}
        now |= dict.fromkeys(declared_in_features(self.features), True)
        shutil.rmtree(self.work, ignore_errors=True)
        if now != read_provenance(self.out):
            self.provenance = now
            self._save()

    def _sha256(self, phenotypes: Mapping[str, Mapping[str, Any]]) -> str:
        """Of the columns, of what is declared in them, and of the sites and phenotypes of the scans in shards."""
        columns = {name: str(feature) for name, feature in self.features.items()}
        declared = sorted(declared_in_features(self.features))
        rows = {scan["scan_id"]: phenotypes[scan["scan_id"]] for scan in self.provenance["scans"]}
        return _sha256_of_json([columns, rows, *([declared] if declared else [])])

    def _save(self) -> None:
        record = {key: self.provenance.get(key) for key in RECORDED}
        # a declaration never gets lost, whoever wrote it here
        record |= {name: self.provenance[name] for name in DECLARATIONS if self.provenance.get(name)}
        write_json(record, self.record)

    def _with_phenotypes(self, table: pa.Table, phenotypes: Mapping[str, Mapping[str, Any]]) -> pa.Table:
        values = [phenotypes[scan_id] for scan_id in table["scan_id"].to_pylist()]
        table = table.combine_chunks()
        columns = [
            table[field.name].cast(field.type)
            if field.name in READ_COLUMNS
            else arrow_column(field, [row.get(field.name) for row in values], self.features)
            for field in self.features.arrow_schema
        ]
        return pa.Table.from_arrays(columns, schema=self.features.arrow_schema)

    def _same_inputs(self, file: ScanFile, entry: Mapping[str, Any], made: Path) -> bool:
        """Whether the inputs of a scan are those it was read from; files older than the result are not hashed."""
        if file.table is not None:
            return entry["inputs"] == identities(file, self.source)
        if len(file.inputs) != len(entry["inputs"]):
            return False
        for path, before in zip(file.inputs, entry["inputs"], strict=True):
            state = path.stat()
            if self.source.relative(path) != before["name"] or state.st_size != before["bytes"]:
                return False
            if state.st_mtime >= made.stat().st_mtime and sha256(path) != before["sha256"]:
                return False
        return True


def _file_name(scan_id: str) -> str:
    """A file name for a scan, however long its id is."""
    if len(scan_id.encode()) <= 180:
        return scan_id
    return f"{scan_id[:80]}-{hashlib.sha256(scan_id.encode()).hexdigest()[:16]}"


def _beside(record: Path) -> Path:
    """The table of a scan whose record this is."""
    return record.with_name(record.name.removesuffix(".json") + ".parquet")


def _sha256_of_json(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else os.fspath(value)
