"""Human Connectome Project folders: cleaned CIFTI series, dense or parcellated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...models.scan_errors import ScanError
from ...models.scan_files import stem
from .source import ScanFile, Source, SourceScan


@dataclass
class HcpSource(Source):
    """`<subject>/MNINonLinear/Results/<run>/<run>_Atlas_*.dtseries.nii`, or `.ptseries.nii`.

    Dense series are read with a CIFTI label atlas, parcellated ones by the names of their parcels. Of several files of
    a run, the most processed one is read: cleaned before uncleaned, aligned by MSMAll before MSMSulc.
    """

    name = "hcp"

    def find(self) -> list[ScanFile]:
        runs: dict[Path, list[Path]] = {}
        for path in self.find_files(".dtseries.nii" if self.reads_surfaces else ".ptseries.nii"):
            if path.parent == self.root:
                raise ScanError(
                    f"{path.name} lies in no subject's folder: expected <subject>/.../<run>/*.nii below "
                    f"{self.root.name}. For other layouts use the source `files`."
                )
            runs.setdefault(path.parent, []).append(path)
        found = []
        for folder, paths in runs.items():
            # Files that lie in the folder of the subject itself are runs of their own, and all are read.
            subject, *below = folder.relative_to(self.root).parts
            taken = [max(paths, key=_processing)] if below else paths
            for path in paths:
                if path not in taken:
                    self.leave_out(path, f"another file of the run is read: {taken[0].name}")
            movement = folder / "Movement_RelativeRMS_mean.txt"
            for path in taken:
                run = folder.name if below else stem(path)
                inputs = (path, movement) if movement.exists() else (path,)
                found.append(ScanFile(f"{subject}_{run}", subject, inputs, session=run))
        return found

    def entities(self, file: ScanFile) -> dict[str, str]:
        """Return the entities of a run: `rfMRI_REST1_LR` has task `rest` and run `1`; its session is the whole name."""
        session = file.session or ""
        known = {"sub": file.subject_id, "ses": session}
        match = re.fullmatch(r"[rt]fMRI_([A-Za-z]+)(\d*)_.+", session)
        return known if match is None else known | {"task": match[1].lower(), "run": match[2] or "1"}

    def read(self, file: ScanFile) -> SourceScan:
        path, *movement = file.inputs
        scan = self.extract(path, self.t_r_of(file))
        return SourceScan(scan, _mean_movement(movement[0]) if movement else None)


def _processing(path: Path) -> tuple[bool, ...]:
    """Sort key of the files of a run by their processing; the largest is read."""
    # In the order of importance; "clean" is also in "rclean", and "vn" marks files with normalised variance.
    name = path.name
    return ("clean" in name, "MSMAll" in name, "_hp2000" in name, "rclean" in name, "vn" not in name)


def _mean_movement(path: Path) -> float:
    """Read the mean relative movement in mm."""
    # HCP reports the RMS displacement of Jenkinson, which is smaller than the FD of Power that fMRIPrep reports: limits
    # for one do not fit the other.
    try:
        return float(path.read_text())
    except ValueError as error:
        raise ScanError(f"{path.name} holds no number: expected the mean relative movement in mm.") from error
