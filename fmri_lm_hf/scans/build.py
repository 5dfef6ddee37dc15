"""Build a scan dataset from a source of scans, resumably, with a record of every failure: `build_scan_dataset`.

The module `folder` describes the files in the folder of a dataset.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..models.scan_errors import ScanError
from .dataset import SHARD_BYTES, in_groups, scan_features
from .folder import DatasetFolder, Entry
from .quality import write_quality
from .sources.bids import subject_key
from .sources.source import Failure, LeftOut, ScanFile, Source
from .workers import Result, read_all

Phenotypes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class BuildSummary:
    """Result of a run.

    Attributes
    ----------
    n_new, n_before : int
        Scans that this run added, and scans of earlier runs.
    n_shards : int
        Shards in the folder.
    failures : list of Failure
        Dicts with `scan_id`, `input` and `reason` of the scans that could not be used.
    notes : list of str
        Mismatches between scans and participants.
    seconds : float
    left_out : list of LeftOut
        Files that were not read.
    """

    n_new: int
    n_before: int
    n_shards: int
    failures: list[Failure]
    notes: list[str]
    seconds: float
    left_out: list[LeftOut] = field(default_factory=list)


def build_scan_dataset(
    source: Source,
    out: Path,
    *,
    participants: Phenotypes | None = None,
    controlled: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> BuildSummary:
    """Read all scans of a source into a scan dataset folder.

    A second call continues the first: finished scans are not read again, failed ones are retried, new ones are added,
    changed phenotypes are updated. Parameters that differ from those of the finished scans are refused, and so is a
    folder in which another process works.

    Parameters
    ----------
    source : Source
    out : path
        A new folder, or one to continue.
    participants : mapping, optional
        Phenotypes of each subject, from `read_participants`.
    controlled : bool
        Declare that a data-use agreement binds the cohort. A declaration in a file of `out` counts too, even if it was
        written by hand. The record and the rows keep it, and with them everything that is made of them.
    workers : int
        Processes that read scans; the result does not depend on their number.
    scheduler : str, optional
        Address of a Dask scheduler whose workers see the same files; `workers` is then not used.
    shard_bytes : int
        Largest size of the BOLD of one shard.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    BuildSummary
    """
    started = time.monotonic()
    out = Path(out)
    files = find_scans(source, participants)
    with DatasetFolder.hold(out) as folder:
        if source.atlas is None:
            source.atlas = folder.atlas or source.table_atlas(files)
        if participants is None and folder.provenance.get("with_participants"):
            raise ScanError(f"{out} was made with a table of participants: give it again (--participants).")
        # The columns come from the tables, not from the scans that were readable: otherwise a continued run, in which
        # other scans fail, could find other columns than those of the shards before it.
        columns = [file.phenotypes for file in files]
        columns += [_without_site(row) for row in (participants or {}).values()]
        features = scan_features(columns, source.atlas.n_rois, with_coverage=True)
        folder.start(source, features, {"controlled"} if controlled else ())
        done = folder.done(files)
        phenotypes = _phenotypes_by_scan(files, folder, participants)
        folder.update_phenotypes(phenotypes)
        todo = [file for file in files if file.scan_id not in done]
        if todo:
            folder.begin_changes()
        folder.provenance["with_participants"] = participants is not None
        failures: list[Failure] = []
        # A run that was killed may have read scans that are in no shard yet.
        read_before = {file.scan_id: entry for file in todo if (entry := folder.entry(file)) is not None}
        unread = [file for file in todo if file.scan_id not in read_before]
        results = read_all(source, unread, workers, scheduler)
        total = len(done) + len(todo)
        bar = tqdm(todo, initial=len(done), total=total, unit="scan", disable=not progress)
        entries = _entries(source, folder, bar, read_before, results, failures)
        for shard in in_groups(entries, lambda entry: entry["bold_bytes"], shard_bytes):
            folder.add_shard(shard, phenotypes)
        without_scans = sorted(set(participants or ()) - {subject_key(file.subject_id) for file in files})
        write_quality(out, folder.provenance["scans"], failures, source.left_out, without_scans)
        folder.finish(phenotypes, failures)
    return BuildSummary(
        n_new=len(todo) - len(failures),
        n_before=len(done),
        n_shards=folder.n_shards,
        failures=failures,
        notes=_notes(files, participants, without_scans),
        seconds=time.monotonic() - started,
        left_out=list(source.left_out),
    )


def find_scans(source: Source, participants: Phenotypes | None = None) -> list[ScanFile]:
    """Find the scans that a build would read, with their sites and phenotypes."""
    files = source.select()
    if not files:
        message = f"No scans of the kind {source.name!r} in {source.root}: check the folder and the options."
        if source.left_out:
            first = source.left_out[0]
            message += f" {len(source.left_out)} files were left out: {first.name} {first.reason}."
        raise ScanError(message)
    seen: dict[str, ScanFile] = {}
    for file in files:
        other = seen.setdefault(file.scan_id, file)
        if other is not file:
            raise ScanError(
                f"Two files give the same scan {file.scan_id!r}: {_input_name(source, other)} and "
                f"{_input_name(source, file)}. Choose one of them with a pattern (--match)."
            )
    return [_with_phenotypes(file, source, participants) for file in files]


def _entries(
    source: Source,
    folder: DatasetFolder,
    files: Iterable[ScanFile],
    read_before: Mapping[str, Entry],
    results: Iterator[Result],
    failures: list[Failure],
) -> Iterator[Entry]:
    """Yield the records of usable scans in the order of `files`, and add the others to `failures`.

    `results` are those of the scans that are not in `read_before`.
    """
    # A copy of a scan under another id would put one measurement into two splits: the first one stays.
    scan_of = {scan["inputs"][0]["sha256"]: scan["scan_id"] for scan in folder.provenance["scans"] if scan["inputs"]}
    for file in files:
        entry, reason = read_before.get(file.scan_id), ""
        if entry is None:
            row, reason = next(results)
            entry = None if row is None else folder.keep(file, row)
        if entry is not None:
            twin = scan_of.setdefault(entry["inputs"][0]["sha256"], file.scan_id)
            if twin == file.scan_id:
                yield entry
                continue
            folder.drop(file.scan_id)
            reason = f"{file.scan_id} has the same content as {twin}: one of the two is a copy."
        failures.append({"scan_id": file.scan_id, "input": _input_name(source, file), "reason": reason})


def _input_name(source: Source, file: ScanFile) -> str:
    return source.relative(file.inputs[0]) if file.inputs else file.scan_id


def _without_site(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "site"}


def _with_phenotypes(file: ScanFile, source: Source, participants: Phenotypes | None) -> ScanFile:
    """Add site and phenotypes of its subject to a scan."""
    row = (participants or {}).get(subject_key(file.subject_id), {})
    in_table = row.get("site")  # may be a number, and 0 is a site
    site = source.site or file.site or (None if in_table is None else str(in_table)) or "unknown"
    return replace(file, site=site, phenotypes=file.phenotypes | _without_site(row))


def _phenotypes_by_scan(
    files: list[ScanFile], folder: DatasetFolder, participants: Phenotypes | None
) -> dict[str, dict[str, Any]]:
    """Collect site and phenotypes by scan_id: of the scans found now, and of others that are in the dataset."""
    # Scans whose files are no longer in the source stay in the dataset, and still get new phenotypes.
    found = {file.scan_id: file for file in files}
    for scan in folder.provenance["scans"]:
        if scan["scan_id"] not in found:
            bare = ScanFile(scan["scan_id"], scan["subject_id"])
            found[scan["scan_id"]] = _with_phenotypes(bare, folder.source, participants)
    return {scan_id: {"site": file.site, **file.phenotypes} for scan_id, file in found.items()}


def _notes(files: list[ScanFile], participants: Phenotypes | None, without_scans: list[str]) -> list[str]:
    notes = []
    if participants:
        unknown = {file.subject_id for file in files if subject_key(file.subject_id) not in participants}
        if unknown:
            names = ", ".join(sorted(unknown))
            notes.append(f"Not in the participants table, so without phenotypes: {names}.")
    if without_scans:
        more = f" and {len(without_scans) - 10} more" if len(without_scans) > 10 else ""
        notes.append(f"In the participants table, but without scans: {', '.join(without_scans[:10])}{more}.")
    return notes
