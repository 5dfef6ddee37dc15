"""From a source of scans to a scan dataset: `build_scan_dataset` is resumable and lists every failure.

The files that a run leaves in its folder are described in `folder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..models.scan_errors import ScanError
from .dataset import SHARD_BYTES, in_groups, scan_features
from .folder import DatasetFolder, Entry
from .quality import write_quality
from .sources.bids import subject_key
from .sources.source import LeftOut, ScanFile, Source
from .workers import Result, read_all

Phenotypes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class BuildSummary:
    """What a run did.

    Attributes
    ----------
    n_new, n_before : int
        Scans that this run added, and those that were there before.
    n_shards : int
        Shards in the folder.
    failures : list of dict
        `scan_id`, `input` and `reason` of the scans that could not be used.
    notes : list of str
        Mismatches between scans and participants.
    seconds : float
    left_out : list of LeftOut
        Files that no scan was taken from.
    """

    n_new: int
    n_before: int
    n_shards: int
    failures: list[dict[str, str]]
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

    Calling it again continues where it stopped: scans that are done are not read again, failed ones are tried again,
    new ones are added, changed phenotypes are updated. It refuses parameters that differ from those of the scans that
    are there, and a folder in which another process is at work.

    Parameters
    ----------
    source : Source
    out : path
        The folder to make or to continue.
    participants : mapping, optional
        Phenotypes of each subject, as `read_participants` gives them.
    controlled : bool
        Declare the cohort as controlled: a data-use agreement binds it. A declaration in a file of `out`, also one
        made by hand, counts too. It stays in the record and in the rows, so that objects made of them carry it.
    workers : int
        Processes that read scans; the result does not depend on it.
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
        # Columns depend on the tables alone, not on which scans can be read: a run that is continued has the same.
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
        failures: list[dict[str, str]] = []
        read = partial(read_all, source, workers=workers, scheduler=scheduler)
        n_all = len(done) + len(todo)
        show = partial(tqdm, initial=len(done), total=n_all, unit="scan", disable=not progress)
        entries = _read_entries(source, folder, todo, failures, read, show)
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
    """The scans that a build would read, with their sites and phenotypes."""
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
                f"Two files are taken for the same scan {file.scan_id!r}: {_input_name(source, other)} and "
                f"{_input_name(source, file)}. Choose between them with a pattern (--match)."
            )
    return [_with_phenotypes(file, source, participants) for file in files]


def _read_entries(
    source: Source,
    folder: DatasetFolder,
    files: list[ScanFile],
    failures: list[dict[str, str]],
    read: Callable[[list[ScanFile]], Iterator[Result]],
    show: Callable[[list[ScanFile]], Iterable[ScanFile]],
) -> Iterator[Entry]:
    """Records for the shards, in order: of scans that a run before has read, and of those read now.

    Scans that cannot be used are added to `failures`.
    """
    scan_of = {scan["inputs"][0]["sha256"]: scan["scan_id"] for scan in folder.provenance["scans"] if scan["inputs"]}
    read_before = {file.scan_id: entry for file in files if (entry := folder.entry(file)) is not None}
    results = read([file for file in files if file.scan_id not in read_before])
    for file in show(files):
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
    """A scan with its site and its subject's phenotypes."""
    row = (participants or {}).get(subject_key(file.subject_id), {})
    in_table = row.get("site")
    site = source.site or file.site or (None if in_table is None else str(in_table)) or "unknown"
    return replace(file, site=site, phenotypes=file.phenotypes | _without_site(row))


def _phenotypes_by_scan(
    files: list[ScanFile], folder: DatasetFolder, participants: Phenotypes | None
) -> dict[str, dict[str, Any]]:
    """Site and phenotypes by scan_id: of the scans found now, and of those that only the dataset still has."""
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
