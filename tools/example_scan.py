"""Make the example scan that comes with the package: simulated, with a fixed seed.

    python tools/example_scan.py [FOLDER]

Writes `example_scan.tsv` (a row for each time point, a column for each of Dosenbach's 160 ROIs) and its BIDS sidecar.
The draw was chosen for its variety: it has network pairs in all five connectivity bins, and neither its strongest nor
its weakest pair is a close call.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fmri_lm_hf import Atlas, bundled
from fmri_lm_hf.simulation.stream import ScanRanges, random_scan

SEED, INDEX = 2010, 1429
RANGES = ScanRanges(n_timepoints=(150, 150), t_r=(2.0, 2.0), motion=(0, 0.05), gain=(0, 0), missing=(0, 0))


def example_signals() -> tuple[Atlas, np.ndarray]:
    """The atlas and the signals (n_timepoints, n_rois), of standard deviation 1 and to two digits."""
    atlas = Atlas.load("dosenbach_2010")
    bold = random_scan(atlas, SEED, INDEX, RANGES)["bold"]
    return atlas, np.round(bold / bold.std(), 2)


def main(folder: Path) -> None:
    atlas, bold = example_signals()
    table = folder / "example_scan.tsv"
    np.savetxt(table, bold, fmt="%.2f", delimiter="\t", header="\t".join(atlas.roi_names), comments="")
    sidecar = {
        "RepetitionTime": RANGES.t_r[0],
        "Atlas": atlas.name,
        "Simulated": True,
        "Description": "Simulated signals of no person, made by tools/example_scan.py of fmri_lm_hf.",
    }
    table.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(bundled.__file__).parent)
