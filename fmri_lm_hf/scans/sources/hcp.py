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
    a run, the most processed one is taken: cleaned before uncleaned, aligned by MSMAll before MSMSulc.
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
            subject, *below = folder.relative_to(self.root).parts
            taken = [max(paths, key=_processing)] if below else paths
            for path in paths:
                if path not in taken:
                    self.leave_out(path, f"another file of the run is taken: {taken[0].name}")
            movement = folder / "Movement_RelativeRMS_mean.txt"
            for path in taken:
                run = folder.name if below else stem(path)
                inputs = (path, movement) if movement.exists() else (path,)
                found.append(ScanFile(f"{subject}_{run}", subject, inputs, session=run))
        return found

    def entities(self, file: ScanFile) -> dict[str, str]:
        """Of a run such as `rfMRI_REST1_LR`: task `rest`, run `1`; the session is the whole name."""
        session = file.session or ""
        known = {"sub": file.subject_id, "ses": session}
        match = re.fullmatch(r"[rt]fMRI_([A-Za-z]+)(\d*)_.+", session)
        return known if match is None else known | {"task": match[1].lower(), "run": match[2] or "1"}

    def read(self, file: ScanFile) -> SourceScan:
        path, *movement = file.inputs
        scan = self.extract(path, self.t_r_of(file))
        return SourceScan(scan, _mean_movement(movement[0]) if movement else None)


def _processing(path: Path) -> tuple[bool, ...]:
    """How far a file of a run is processed: the largest is taken."""
    name = path.name
    return ("clean" in name, "MSMAll" in name, "_hp2000" in name, "rclean" in name, "vn" not in name)


def _mean_movement(path: Path) -> float:
    """Mean relative movement in mm; HCP's measure is the RMS displacement of Jenkinson, not Power's FD."""
    try:
        return float(path.read_text())
    except ValueError as error:
        raise ScanError(f"{path.name} holds no number: expected the mean relative movement in mm.") from error
