"""From a source of scans to a scan dataset: resumable, with every failure listed.

What a run leaves in its folder is described in `folder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from tqdm.auto import tqdm

from ..models.scan_errors import ScanError
from .dataset import SHARD_BYTES, in_groups, scan_features
from .folder import DatasetFolder
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
        Scans added by this run, and those that were done before it.
    n_shards : int
        Shards in the folder.
    failures : list of dict
        `scan_id`, `input` and `reason` of the scans that could not be used.
    notes : list of str
        What was noticed about the scans as a whole.
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

    Calling it again continues where it stopped: scans that are done are not read again, failed ones are tried anew,
    new ones are added, changed phenotypes are brought in. Other parameters than those of the scans that are there are
    refused, and so is a folder in which another process is at work.

    Parameters
    ----------
    source : Source
    out : path
        The folder to make or to continue.
    participants : mapping, optional
        Phenotypes of each subject, as `read_participants` gives them.
    controlled : bool
        Declare the cohort as controlled: a data-use agreement binds it. What files in `out` declare, also by hand,
        counts too; a declaration stays, in the record and in the rows, so that objects made of them carry it.
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
        folder.start(source, _features(files, source, participants), {"controlled"} if controlled else ())
        done = folder.done(files)
        phenotypes = _phenotypes_of(files, folder, participants)
        folder.update_phenotypes(phenotypes)
        todo = [file for file in files if file.scan_id not in done]
        failures: list[dict[str, str]] = []
        if todo:
            folder.begin_changes()
        folder.provenance["with_participants"] = participants is not None
        read = partial(read_all, source, workers=workers, scheduler=scheduler)
        entries = _entries(source, folder, todo, len(done), failures, read, progress)
        for shard in in_groups(entries, lambda entry: entry["bold_bytes"], shard_bytes):
            folder.add_shard(shard, phenotypes)
        subjects = {subject_key(file.subject_id) for file in files}
        without_scans = sorted(set(participants or ()) - subjects)
        write_quality(out, folder.provenance["scans"], failures, source.left_out, without_scans)
        folder.finish(phenotypes, failures)
        n_shards = folder.n_shards
    return BuildSummary(
        n_new=len(todo) - len(failures),
        n_before=len(done),
        n_shards=n_shards,
        failures=failures,
        notes=_notes(files, participants, without_scans),
        seconds=time.monotonic() - started,
        left_out=list(source.left_out),
    )


def find_scans(source: Source, participants: Phenotypes | None = None) -> list[ScanFile]:
    """The scans that a build would read, with their sites and phenotypes."""
    files = source.wanted()
    if not files:
        rest = (
            f" {len(source.left_out)} files were left out: {source.left_out[0].name} "
            if source.left_out
            else ""
        )
        raise ScanError(
            f"No scans of the kind {source.name!r} in {source.root}: check the folder and the options."
            + (f"{rest}{source.left_out[0].reason}." if source.left_out else "")
        )
    _refuse_repeated_ids(files, source)
    return [_with_phenotypes(file, source, participants) for file in files]


def _entries(
    source: Source,
    folder: DatasetFolder,
    todo: list[ScanFile],
    n_done: int,
    failures: list[dict[str, str]],
    read: Callable[[list[ScanFile]], Iterator[Result]],
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """What goes into the shards, in order: scans that an earlier run has read, and those read now."""
    known = {
        scan["inputs"][0]["sha256"]: scan["scan_id"] for scan in folder.provenance["scans"] if scan["inputs"]
    }
    read_before = {file.scan_id: entry for file in todo if (entry := folder.entry(file)) is not None}
    results = read([file for file in todo if file.scan_id not in read_before])

    def fail(file: ScanFile, reason: str) -> None:
        name = source.relative(file.inputs[0]) if file.inputs else file.scan_id
        failures.append({"scan_id": file.scan_id, "input": name, "reason": reason})

    for file in tqdm(todo, initial=n_done, total=n_done + len(todo), unit="scan", disable=not progress):
        entry = read_before.get(file.scan_id)
        if entry is None:
            row, reason = next(results)
            if row is None:
                fail(file, reason)
                continue
            entry = folder.keep(file, row)
        content = entry["inputs"][0]["sha256"]
        twin = known.setdefault(content, file.scan_id)
        if twin != file.scan_id:
            folder.drop(file)
            fail(file, f"{file.scan_id} has the same content as {twin}: one of the two is a copy.")
            continue
        yield entry


def _refuse_repeated_ids(files: list[ScanFile], source: Source) -> None:
    seen: dict[str, ScanFile] = {}
    for file in files:
        other = seen.setdefault(file.scan_id, file)
        if other is not file:
            names = [source.relative(f.inputs[0]) if f.inputs else f.scan_id for f in (other, file)]
            raise ScanError(
                f"Two files are taken for the same scan {file.scan_id!r}: {names[0]} and {names[1]}. "
                "Choose between them with a pattern (--match)."
            )


def _with_phenotypes(file: ScanFile, source: Source, participants: Phenotypes | None) -> ScanFile:
    """A scan with its site and its subject's phenotypes."""
    row = dict((participants or {}).get(subject_key(file.subject_id), {}))
    site = row.pop("site", None)
    site = source.site or file.site or (None if site is None else str(site)) or "unknown"
    return replace(file, site=site, phenotypes=file.phenotypes | row)


def _phenotypes_of(
    files: list[ScanFile], folder: DatasetFolder, participants: Phenotypes | None
) -> dict[str, dict[str, Any]]:
    """Site and phenotypes by scan_id: of the scans found now, and of those that only the dataset still has."""
    found = {file.scan_id: file for file in files}
    for scan in folder.provenance["scans"]:
        if scan["scan_id"] not in found:
            bare = ScanFile(scan["scan_id"], scan["subject_id"])
            found[scan["scan_id"]] = _with_phenotypes(bare, folder.source, participants)
    return {scan_id: {"site": file.site, **file.phenotypes} for scan_id, file in found.items()}


def _features(files: list[ScanFile], source: Source, participants: Phenotypes | None) -> datasets.Features:
    """Columns of the dataset: they depend on the tables, not on which scans can be read."""
    assert source.atlas is not None
    known = [
        {name: value for name, value in row.items() if name != "site"}
        for row in (participants or {}).values()
    ]
    return scan_features([file.phenotypes for file in files] + known, source.atlas.n_rois, with_coverage=True)


def _notes(files: list[ScanFile], participants: Phenotypes | None, without_scans: list[str]) -> list[str]:
    notes = []
    unknown = sorted(
        {file.subject_id for file in files if subject_key(file.subject_id) not in (participants or {})}
    )
    if participants and unknown:
        notes.append(f"Not in the participants table, so without phenotypes: {', '.join(unknown)}.")
    if without_scans:
        shown = ", ".join(without_scans[:10]) + (
            f" and {len(without_scans) - 10} more" if len(without_scans) > 10 else ""
        )
        notes.append(f"In the participants table, but without scans: {shown}.")
    return notes
