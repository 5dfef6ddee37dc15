"""What all sources of scans share: a `Source` finds the scans of a folder and reads them one by one.

A new source is a dataclass derived from `Source`, in a module of its own: a `name`, a `find` that lists the scans by
their file names, and a `read` that turns one of them into a row. `hcp.py` is the shortest one to start from.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np

from ...models.atlas import Atlas
from ...models.image_files import both_hemispheres, is_cifti
from ...models.scan_errors import ScanError
from ...models.scan_files import Scan, read_scan, table_names
from ..denoising import Thresholds
from .bids import Selection, bids_entities

N_SAMPLED_TABLES = 25  # from which the ROIs of a folder of tables are learnt


@dataclass(frozen=True)
class LeftOut:
    """A file or scan that is not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ScanFile:
    """A scan that a source found.

    Attributes
    ----------
    scan_id, subject_id : str
    inputs : tuple of Path
        Files it is read from, the scan itself first.
    session, site : str, optional
    phenotypes : dict
        Columns that the source itself knows.
    mean_fd : float, optional
        Mean framewise displacement in mm, where the cohort's table gives it.
    table : np.ndarray, optional
        The signals (n_timepoints, n_rois), where the source holds them in memory.
    """

    scan_id: str
    subject_id: str
    inputs: tuple[Path, ...] = ()
    session: str | None = None
    site: str | None = None
    phenotypes: dict[str, Any] = field(default_factory=dict)
    mean_fd: float | None = None
    table: np.ndarray | None = None


@dataclass(frozen=True)
class SourceScan:
    """A scan as a source read it.

    Attributes
    ----------
    scan : Scan
    mean_fd : float, optional
        Mean framewise displacement in mm.
    tsnr : float, optional
        Median temporal signal-to-noise ratio of the ROIs, before confounds were regressed out.
    """

    scan: Scan
    mean_fd: float | None = None
    tsnr: float | None = None


class InputFingerprint(TypedDict):
    """What says whether an input of a scan has changed."""

    name: str
    bytes: int
    sha256: str


@dataclass
class Source:
    """Scans of one kind in a folder.

    Parameters
    ----------
    root : Path
        The folder.
    atlas : Atlas, optional
        How to read the scans; taken from the scans themselves where they are tables.
    site : str, optional
        Site of all scans.
    t_r : dict
        Repetition time in seconds by site, or for all sites under the key `""`, where the scans do not hold it.
    match : str
        Only files whose path below `root` matches this pattern, such as `"*task-rest*"`.
    selection : Selection
        Scans to read, by their BIDS entities.
    thresholds : Thresholds
        Limits of quality.

    Attributes
    ----------
    left_out : list of LeftOut
        Files that `find` came across and did not take.
    """

    root: Path
    atlas: Atlas | None = None
    site: str | None = None
    t_r: dict[str, float] = field(default_factory=dict)
    match: str = "*"
    selection: Selection = field(default_factory=Selection)
    thresholds: Thresholds = field(default_factory=Thresholds)
    left_out: list[LeftOut] = field(default_factory=list)

    name: ClassVar[str]
    # Fields that say which scans are taken, not what becomes of them: a dataset may grow with others.
    not_parameters: ClassVar[tuple[str, ...]] = (
        *("root", "atlas", "site", "t_r", "match", "selection", "left_out", "n_subjects"),
    )

    def find(self) -> list[ScanFile]:
        """All scans, in a fixed order; files that are not taken go to `left_out`."""
        raise NotImplementedError

    def read(self, file: ScanFile) -> SourceScan:
        """Read a scan; raise `ScanError` if it cannot be used."""
        raise NotImplementedError

    def table_atlas(self, files: Sequence[ScanFile]) -> Atlas:
        """The atlas that the tables themselves name, where none is given."""
        return common_atlas([file.inputs[0] for file in files], self.name)

    def entities(self, file: ScanFile) -> dict[str, str]:
        """BIDS entities of a scan, by which it is selected."""
        known = {"sub": file.subject_id.removeprefix("sub-")}
        if file.session:
            known["ses"] = file.session
        return known | (bids_entities(file.inputs[0]) if file.inputs else {})

    def parameters(self) -> dict[str, Any]:
        """Parameters that the content of a scan depends on, for the record; no paths."""
        names = [item.name for item in dataclasses.fields(self) if item.name not in self.not_parameters]
        values = {name: getattr(self, name) for name in names}
        thresholds = dataclasses.asdict(values.pop("thresholds"))
        return {"source": self.name} | values | thresholds

    def read_row(self, file: ScanFile) -> dict[str, Any]:
        """Columns of a scan that come from its files, and its `inputs`, `report` and `tsnr`, if it is good enough."""
        found = self.read(file)
        mean_fd = None if found.mean_fd is None or not np.isfinite(found.mean_fd) else found.mean_fd
        label = file.inputs[0].name if file.inputs else file.scan_id
        scan = self.thresholds.apply(found.scan, mean_fd, label)
        return {
            "scan_id": file.scan_id,
            "subject_id": file.subject_id,
            "session": file.session,
            "t_r": scan.t_r,
            "n_timepoints": len(scan.bold),
            "bold": scan.bold.astype(np.float32, copy=False),
            "roi_mask": scan.roi_mask,
            "mean_fd": mean_fd,
            "sample_mask": scan.sample_mask,
            "coverage": scan.coverage,
            "inputs": self.fingerprints(file),
            "report": list(scan.report),
            "tsnr": found.tsnr,
        }

    def fingerprints(self, file: ScanFile) -> list[InputFingerprint]:
        """Name, size and checksum of each input of a scan."""
        if file.table is not None:
            content = np.ascontiguousarray(file.table).tobytes()
            digest = hashlib.sha256(content).hexdigest()
            return [{"name": file.scan_id, "bytes": len(content), "sha256": digest}]
        return [
            {"name": self.relative(path), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in file.inputs
        ]

    # The rest serves `find` and `read` of the sources.

    @property
    def reads_images(self) -> bool:
        """Whether the atlas extracts its ROIs from images, and not from tables alone."""
        return self.atlas is not None and bool(self.atlas.coordinates or self.atlas.labels)

    @property
    def reads_surfaces(self) -> bool:
        """Whether these images are surfaces (CIFTI, GIFTI)."""
        image = None if self.atlas is None else self.atlas.labels_img
        return image is not None and is_cifti(image)

    def find_files(self, *suffixes: str) -> Iterator[Path]:
        """Files below the folder with one of these endings, sorted, that match the pattern."""
        if not self.root.is_dir():
            raise ScanError(f"The folder {self.root} does not exist: give the folder with the scans.")
        seen = set()
        for folder, below, names in os.walk(self.root, followlinks=True):
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:  # a link back to a folder above, or to one already read
                below.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            below[:] = [name for name in below if not name.startswith(".")]
            # Links last: of a folder that is found twice, the real path gives the names.
            below.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
            for name in sorted(names):
                path = Path(folder, name)
                if not name.lower().endswith(suffixes) or name.startswith((".", "participants.")):
                    continue
                if fnmatch.fnmatch(self.relative(path), self.match):
                    yield path
                else:
                    self.leave_out(path, f"does not match {self.match!r} (--match)")

    def find_inputs(self, *suffixes: str) -> Iterator[tuple[Path, ...]]:
        """Files as `find_files` gives them, the two hemispheres of a surface together."""
        for path in self.find_files(*suffixes):
            if not path.name.lower().endswith(".gii"):
                yield (path,)
                continue
            try:
                _, left, right = both_hemispheres(path)
            except ScanError as error:
                self.leave_out(path, str(error))
                continue
            if path == left:
                yield (left, right) if right.exists() else (left,)
            elif not left.exists():
                self.leave_out(path, f"is a right hemisphere without its left one, {left.name}")

    def select(self) -> list[ScanFile]:
        """The scans that `find` lists and `selection` asks for."""
        self.left_out.clear()
        selected = []
        for file in self.find():
            reason = self.selection.reason(self.entities(file))
            if reason is None:
                selected.append(file)
            else:
                self.leave_out(file.inputs[0] if file.inputs else file.scan_id, reason)
        return selected

    def leave_out(self, path: Path | str, reason: str) -> None:
        """Record a file that is not taken."""
        self.left_out.append(LeftOut(self.relative(path) if isinstance(path, Path) else path, reason))

    def relative(self, path: Path) -> str:
        """Path of a file below the folder, without the folder: records name no place on the machine."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def t_r_of(self, file: ScanFile) -> float | None:
        """The repetition time given for the site of a scan, if any."""
        return self.t_r.get(file.site or "", self.t_r.get(""))

    def extract(self, scan: Any, t_r: float | None, **options: Any) -> Scan:
        """ROI signals of a scan (a path or an array) with the atlas; `options` as of `read_scan`."""
        return read_scan(scan, self.atlas, t_r, max_masked=self.thresholds.max_masked, **options)


def file_sha256(path: Path) -> str:
    """Checksum of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def common_atlas(
    paths: Sequence[Path],
    name: str,
    rois_of: Callable[[Path], tuple[int, list[str] | None]] = table_names,
) -> Atlas:
    """The atlas that most of several tables agree on (numbered where they have no names).

    One stray table must not decide: a sample of the tables votes, and all of them if none of the sample is readable.

    Parameters
    ----------
    paths : sequence of Path
    name : str
        Of the atlas.
    rois_of : callable
        Number of ROIs of a table, and their names if it has any.
    """
    failure: ScanError | None = None
    votes: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for sample in (paths[:: max(1, len(paths) // N_SAMPLED_TABLES)], paths):
        for path in sample:
            try:
                n_rois, names = rois_of(path)
                votes[n_rois, tuple(names or ())] += 1
            except ScanError as error:
                failure = failure or error
        if votes:
            break
    if not votes:
        raise ScanError(f"No table could be read to learn the ROIs from: {failure or 'there are none'}") from failure
    # The same names in another order are one atlas; the first table that has them gives the order.
    sets: Counter[frozenset[str]] = Counter()
    for (_, named), count in votes.items():
        sets[frozenset(named)] += count
    n_rois, named = max(votes, key=lambda vote: sets[frozenset(vote[1])] if vote[1] else votes[vote])
    return Atlas.from_names(named, name) if named else Atlas.numbered(n_rois, name)
