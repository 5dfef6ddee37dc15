"""What the sources of scans have in common: `Source` finds scans in a folder and reads them one by one."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...models.atlas import Atlas
from ...models.image_files import both_hemispheres, is_cifti
from ...models.scan_errors import ScanError
from ...models.scan_files import Scan, table_names
from .bids import Selection, Thresholds, bids_entities

N_SAMPLED = 25  # tables that are asked for their ROIs


@dataclass(frozen=True)
class LeftOut:
    """A file or participant that no scan was taken from, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ScanFile:
    """One scan that a source found.

    Attributes
    ----------
    scan_id, subject_id : str
    inputs : tuple of Path
        The files it is read from, the scan itself first.
    session, site : str, optional
    phenotypes : dict
        Columns that the source itself knows.
    mean_fd : float, optional
        Mean framewise displacement in mm, where the source has it in a table.
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
        TR in seconds of a site, or of all under the key `""`, where the scans do not say it.
    match : str
        Only files whose path below `root` matches this pattern, such as `"*task-rest*"`.
    selection : Selection
        Which scans are wanted, by their BIDS entities.
    thresholds : Thresholds
        Which scans and ROIs are good enough.

    Attributes
    ----------
    left_out : list of LeftOut
        What `find` came across and did not take.
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
        "root",
        "atlas",
        "site",
        "t_r",
        "match",
        "selection",
        "left_out",
        "n_subjects",
    )

    @property
    def reads_images(self) -> bool:
        """Whether the atlas takes its ROIs from images, and not from tables alone."""
        return self.atlas is not None and bool(self.atlas.coordinates or self.atlas.labels)

    @property
    def reads_surfaces(self) -> bool:
        """Whether these images are surfaces (CIFTI, GIFTI)."""
        return (
            self.atlas is not None and self.atlas.labels_img is not None and is_cifti(self.atlas.labels_img)
        )

    def find(self) -> list[ScanFile]:
        """All scans, in a fixed order; what is not taken goes to `left_out`."""
        raise NotImplementedError

    def wanted(self) -> list[ScanFile]:
        """The scans that are found and selected."""
        self.left_out.clear()
        taken = []
        for file in self.find():
            reason = self.selection.reason(self.entities(file))
            if reason is None:
                taken.append(file)
            else:
                self.leave(file.inputs[0] if file.inputs else file.scan_id, reason)
        return taken

    def entities(self, file: ScanFile) -> dict[str, str]:
        """BIDS entities of a scan, which it is selected by."""
        known = {"sub": file.subject_id.removeprefix("sub-")} | (
            {"ses": file.session} if file.session else {}
        )
        return known | (bids_entities(file.inputs[0]) if file.inputs else {})

    def leave(self, path: Path | str, reason: str) -> None:
        """List a file that is not taken."""
        self.left_out.append(LeftOut(self.relative(path) if isinstance(path, Path) else path, reason))

    def relative(self, path: Path) -> str:
        """Name of a file below the folder; nothing of where that lies."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def read(self, file: ScanFile) -> dict[str, Any]:
        """Columns of the row of a scan that come from its files, and `report` (sentences)."""
        raise NotImplementedError

    def row(
        self, scan: Scan, label: str, mean_fd: float | None = None, tsnr: float | None = None
    ) -> dict[str, Any]:
        """Columns of the row of a scan that was read, if it is good enough."""
        if mean_fd is not None and not np.isfinite(mean_fd):
            mean_fd = None
        scan = self.thresholds.apply(scan, mean_fd, label)
        return {
            "t_r": scan.t_r,
            "n_timepoints": len(scan.bold),
            "bold": scan.bold.astype(np.float32, copy=False),
            "roi_mask": scan.roi_mask,
            "mean_fd": mean_fd,
            "sample_mask": scan.sample_mask,
            "coverage": scan.coverage,
            "report": list(scan.report),
            "tsnr": tsnr,
        }

    def table_atlas(self, files: Sequence[ScanFile]) -> Atlas:
        """The atlas that the tables themselves name."""
        return common_atlas([file.inputs[0] for file in files], self.name)

    def parameters(self) -> dict[str, Any]:
        """What decides about the content of a scan, for the record; no paths."""
        fields = [item.name for item in dataclasses.fields(self) if item.name not in self.not_parameters]
        values = {name: getattr(self, name) for name in fields}
        thresholds = dataclasses.asdict(values.pop("thresholds"))
        return {"source": self.name} | values | thresholds

    def t_r_of(self, file: ScanFile) -> float | None:
        """The TR given for the site of a scan, if any."""
        return self.t_r.get(file.site or "", self.t_r.get(""))

    def files(self, *suffixes: str) -> Iterator[Path]:
        """Files below the folder with one of these endings, sorted, that match the pattern."""
        if not self.root.is_dir():
            raise ScanError(f"The folder {self.root} does not exist: give the folder with the scans.")
        seen = set()
        for folder, below, names in os.walk(self.root, followlinks=True):
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:  # a link that leads back
                below.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            below[:] = sorted(
                (name for name in below if not name.startswith(".")),
                key=lambda name: (os.path.islink(os.path.join(folder, name)), name),
            )
            for name in sorted(names):
                path = Path(folder, name)
                if not name.lower().endswith(suffixes) or name.startswith((".", "participants.")):
                    continue
                if fnmatch.fnmatch(self.relative(path), self.match):
                    yield path
                else:
                    self.leave(path, f"does not match {self.match!r} (--match)")

    def scans(self, *suffixes: str) -> Iterator[tuple[Path, ...]]:
        """The files of each scan as `files` finds them; the two hemispheres of a surface are one scan."""
        for path in self.files(*suffixes):
            if not path.name.lower().endswith(".gii"):
                yield (path,)
                continue
            try:
                _, left, right = both_hemispheres(path)
            except ScanError as error:
                self.leave(path, str(error))
                continue
            if path == left:
                yield (left, right) if right.exists() else (left,)
            elif not left.exists():
                self.leave(path, f"is a right hemisphere without its left one, {left.name}")


def common_atlas(paths: Sequence[Path], name: str) -> Atlas:
    """The atlas that most of several tables agree on (numbered where they have no names).

    One stray table does not decide: of many, a sample is asked.
    """
    failure: ScanError | None = None
    votes: Counter[tuple[int, tuple[str, ...] | None]] = Counter()
    sets: Counter[frozenset[str]] = Counter()
    step = max(1, len(paths) // N_SAMPLED)
    for sample in (paths[::step], paths):
        for path in sample:
            try:
                n_rois, names = table_names(path)
            except ScanError as error:
                failure = failure or error
                continue
            votes[n_rois, None if names is None else tuple(names)] += 1
            sets[frozenset(names or ())] += names is not None
        if votes:
            break
    if not votes:
        raise ScanError(
            f"No table could be read to learn the ROIs from: {failure or 'there are none'}"
        ) from failure
    # The same names in another order are one atlas; the first table that has them gives the order.
    weight = {layout: sets[frozenset(layout[1])] if layout[1] else count for layout, count in votes.items()}
    n_rois, named = max(votes, key=lambda layout: weight[layout])
    return Atlas.numbered(n_rois, name) if named is None else Atlas.from_names(named, name)
