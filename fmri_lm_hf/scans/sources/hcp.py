"""Human Connectome Project folders: cleaned CIFTI series, dense or parcellated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmri_lm_hf.models.scan_images import ScanError, is_cifti
from fmri_lm_hf.models.scan_reading import read_scan, stem

from .source import ScanFile, Source, row_of

__all__ = ["HcpSource"]


@dataclass
class HcpSource(Source):
    """`<subject>/MNINonLinear/Results/<run>/<run>_Atlas_*.dtseries.nii`, or `.ptseries.nii`.

    Dense series are read with a CIFTI label atlas, parcellated ones by the names of their parcels.
    """

    name = "hcp"

    def find(self) -> list[ScanFile]:
        dense = (
            self.atlas is not None and self.atlas.labels_img is not None and is_cifti(self.atlas.labels_img)
        )
        found = []
        for path in self.files(".dtseries.nii" if dense else ".ptseries.nii"):
            parts = path.relative_to(self.root).parts
            if len(parts) < 2:
                raise ScanError(
                    f"{path.name} lies in no subject's folder: expected <subject>/.../<run>/*.nii below "
                    f"{self.root.name}. For other layouts use the source `files`."
                )
            subject, run = parts[0], path.parent.name if len(parts) > 2 else stem(path)
            movement = path.with_name("Movement_RelativeRMS_mean.txt")
            inputs = (path, movement) if movement.exists() else (path,)
            found.append(ScanFile(f"{subject}_{run}", subject, inputs, session=run))
        return found

    def read(self, file: ScanFile) -> dict[str, Any]:
        scan = read_scan(file.inputs[0], self.atlas, self.t_r_of(file), max_masked=self.max_masked)
        return row_of(scan, _mean_movement(file.inputs[1]) if len(file.inputs) > 1 else None)


def _mean_movement(path: Path) -> float:
    """Mean relative movement in mm; HCP's measure is the RMS displacement of Jenkinson, not Power's FD."""
    try:
        return float(path.read_text())
    except ValueError as error:
        raise ScanError(f"{path.name} holds no number: expected the mean relative movement in mm.") from error
