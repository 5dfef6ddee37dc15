"""Human Connectome Project folders: cleaned CIFTI series, dense or parcellated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.scan_errors import ScanError
from ...models.scan_files import read_scan, stem
from .source import ScanFile, Source


@dataclass
class HcpSource(Source):
    """`<subject>/MNINonLinear/Results/<run>/<run>_Atlas_*.dtseries.nii`, or `.ptseries.nii`.

    Dense series are read with a CIFTI label atlas, parcellated ones by the names of their parcels. Of several files of
    a run, the most processed one is taken: cleaned before uncleaned, aligned by MSMAll before MSMSulc.
    """

    name = "hcp"

    def find(self) -> list[ScanFile]:
        runs: dict[Path, list[Path]] = {}
        for path in self.files(".dtseries.nii" if self.reads_surfaces else ".ptseries.nii"):
            if len(path.relative_to(self.root).parts) < 2:
                raise ScanError(
                    f"{path.name} lies in no subject's folder: expected <subject>/.../<run>/*.nii below "
                    f"{self.root.name}. For other layouts use the source `files`."
                )
            runs.setdefault(path.parent, []).append(path)
        found = []
        for folder, paths in runs.items():
            parts = paths[0].relative_to(self.root).parts
            chosen = max(paths, key=_processing)
            taken = [chosen] if len(parts) > 2 else paths
            for path in paths:
                if path not in taken:
                    self.leave(path, f"another file of the run is taken: {chosen.name}")
            movement = folder / "Movement_RelativeRMS_mean.txt"
            for path in taken:
                run = folder.name if len(parts) > 2 else stem(path)
                inputs = (path, movement) if movement.exists() else (path,)
                found.append(ScanFile(f"{parts[0]}_{run}", parts[0], inputs, session=run))
        return found

    def entities(self, file: ScanFile) -> dict[str, str]:
        """A run is called `rfMRI_REST1_LR`: its task is that, REST1 or REST; the subject's folder is its label."""
        session = file.session or ""
        match = re.fullmatch(r"[rt]fMRI_([A-Za-z]+)(\d*)_.+", session)
        known = {"sub": file.subject_id, "ses": session}
        return known if match is None else known | {"task": match[1].lower(), "run": match[2] or "1"}

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        scan = read_scan(path, self.atlas, self.t_r_of(file), max_masked=self.thresholds.max_masked)
        return self.row(scan, path.name, _mean_movement(file.inputs[1]) if len(file.inputs) > 1 else None)


def _processing(path: Path) -> tuple[bool, ...]:
    """Sorts files of a run: the largest is the most processed one."""
    name = path.name
    return ("clean" in name, "MSMAll" in name, "_hp2000" in name, "rclean" in name, "vn" not in name)


def _mean_movement(path: Path) -> float:
    """Mean relative movement in mm; HCP's measure is the RMS displacement of Jenkinson, not Power's FD."""
    try:
        return float(path.read_text())
    except ValueError as error:
        raise ScanError(f"{path.name} holds no number: expected the mean relative movement in mm.") from error
