"""Base class of the sources of scans: a `Source` finds the scans of a folder and reads them one by one.

A new source is a dataclass derived from `Source` in a module of its own, with a `name`, a `find` that lists scans by
their file names, and a `read` that reads one of them. `hcp.py` is the shortest example.
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

N_SAMPLED_TABLES = 25  # tables that determine the ROIs of a folder of tables


@dataclass(frozen=True)
class LeftOut:
    """A file or scan that is not read, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class ScanFile:
    """A scan that a source found.

    Attributes
    ----------
    scan_id, subject_id : str
    inputs : tuple of Path
        Files that it is read from, the scan itself first.
    session, site : str, optional
    phenotypes : dict
        Columns from the source itself.
    mean_fd : float, optional
        Mean framewise displacement in mm, if the table of the cohort has it.
    table : np.ndarray, optional
        The signals (n_timepoints, n_rois), if the source has them in memory.
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


class Failure(TypedDict):
    """A scan that could not be used."""

    scan_id: str
    input: str
    reason: str


class InputFingerprint(TypedDict):
    """Name, size and checksum of an input of a scan, to detect changes."""

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
        ROIs to extract or to match. Tables need none: they name their ROIs, or these are numbered.
    site : str, optional
        Site of all scans.
    t_r : dict
        Repetition time in seconds by site, or for all sites under the key `""`, for scans without one.
    match : str
        Only files whose path below `root` matches this pattern, such as `"*task-rest*"`.
    selection : Selection
        Scans to read, by BIDS entities.
    thresholds : Thresholds
        Quality limits.

    Attributes
    ----------
    left_out : list of LeftOut
        Files that `find` saw but did not take.
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
    # Fields that select scans but do not change their content: with other values, a dataset may grow. Every other field
    # enters its record and may not change between runs.
    not_parameters: ClassVar[tuple[str, ...]] = (
        *("root", "atlas", "site", "t_r", "match", "selection", "left_out", "n_subjects"),
    )

    def find(self) -> list[ScanFile]:
        """Find all scans, in a fixed order; add files that are not taken to `left_out`."""
        raise NotImplementedError

    def read(self, file: ScanFile) -> SourceScan:
        """Read a scan; raise `ScanError` if it cannot be used."""
        raise NotImplementedError

    def table_atlas(self, files: Sequence[ScanFile]) -> Atlas:
        """Make an atlas of the ROIs that the tables name, if none is given."""
        return common_atlas([file.inputs[0] for file in files], self.name)

    def entities(self, file: ScanFile) -> dict[str, str]:
        """Return the BIDS entities of a scan, by which it is selected."""
        known = {"sub": file.subject_id.removeprefix("sub-")}
        if file.session:
            known["ses"] = file.session
        return known | (bids_entities(file.inputs[0]) if file.inputs else {})

    def parameters(self) -> dict[str, Any]:
        """Collect the parameters that the content of a scan depends on, for the record; no paths."""
        names = [item.name for item in dataclasses.fields(self) if item.name not in self.not_parameters]
        values = {name: getattr(self, name) for name in names}
        thresholds = dataclasses.asdict(values.pop("thresholds"))
        return {"source": self.name} | values | thresholds

    def read_row(self, file: ScanFile) -> dict[str, Any]:
        """Read the columns of a scan that come from its files, and its `inputs`, `report` and `tsnr`; check limits."""
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
        """Compute name, size and checksum of each input of a scan."""
        # Scans in memory have no file: their content is hashed, so that a new release of a cohort is noticed.
        if file.table is not None:
            content = np.ascontiguousarray(file.table).tobytes()
            digest = hashlib.sha256(content).hexdigest()
            return [{"name": file.scan_id, "bytes": len(content), "sha256": digest}]
        return [
            {"name": self.relative(path), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in file.inputs
        ]

    # Helpers for `find` and `read` of the sources

    @property
    def reads_images(self) -> bool:
        """Whether the atlas extracts ROIs from images, and does not only name columns of tables."""
        return self.atlas is not None and bool(self.atlas.coordinates or self.atlas.labels)

    @property
    def reads_surfaces(self) -> bool:
        """Whether the label image of the atlas is one of surfaces (CIFTI, GIFTI)."""
        image = None if self.atlas is None else self.atlas.labels_img
        return image is not None and is_cifti(image)

    def find_files(self, *suffixes: str) -> Iterator[Path]:
        """Yield the files below the folder with one of these endings that match the pattern, sorted."""
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
            # Links last: if a folder is found twice, its real path gives the names.
            below.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
            for name in sorted(names):
                path = Path(folder, name)
                # Tables of participants end as tables of signals do.
                if not name.lower().endswith(suffixes) or name.startswith((".", "participants.")):
                    continue
                if fnmatch.fnmatch(self.relative(path), self.match):
                    yield path
                else:
                    self.leave_out(path, f"does not match {self.match!r} (--match)")

    def find_inputs(self, *suffixes: str) -> Iterator[tuple[Path, ...]]:
        """Yield the inputs of each scan: a file of `find_files`, or both hemispheres of a surface."""
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
        """Find the scans that match `selection`."""
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
        """Return the path of a file below the folder: records must not contain paths of a machine."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def t_r_of(self, file: ScanFile) -> float | None:
        """Return the repetition time that was given for the site of a scan, if any."""
        return self.t_r.get(file.site or "", self.t_r.get(""))

    def extract(self, scan: Any, t_r: float | None, **options: Any) -> Scan:
        """Read the ROI signals of a scan (a path or an array) with the atlas; `options` as for `read_scan`."""
        return read_scan(scan, self.atlas, t_r, max_masked=self.thresholds.max_masked, **options)


def file_sha256(path: Path) -> str:
    """Compute the checksum of a file of any size."""
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
    """Make an atlas of the ROIs that most tables have (numbered if they have no names).

    A single odd table must not decide: a sample of the tables votes, or all of them if none of the sample is readable.

    Parameters
    ----------
    paths : sequence of Path
    name : str
        Name of the atlas.
    rois_of : callable
        Function from a table to its number of ROIs and their names, if it has any.
    """
    failure: ScanError | None = None
    votes: Counter[tuple[int, tuple[str, ...]]] = Counter()
    # Spread over the folder, which may have the tables of one site after those of another.
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
    # The same names in another order are one atlas, in the order of the first table that has them.
    n_with: Counter[frozenset[str]] = Counter()  # tables with these names, in any order
    for (_, roi_names), count in votes.items():
        n_with[frozenset(roi_names)] += count
    n_rois, roi_names = max(votes, key=lambda vote: n_with[frozenset(vote[1])] if vote[1] else votes[vote])
    return Atlas.from_names(roi_names, name) if roi_names else Atlas.numbered(n_rois, name)
