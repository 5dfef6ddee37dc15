"""Measure time and memory of extracting ROI signals from an image, compared with nilearn.

    python benchmarks/extraction.py

An image of 91 x 109 x 91 voxels and 200 volumes (16-bit, with a scale factor) is written, then read with a label atlas
of 400 ROIs from `.nii` and `.nii.gz`, and with 160 spheres, each in a new process for its peak memory. The table has
the ratio of processor times, which other programs disturb less, and the largest difference of the signals in their SD.
The goals, for the label atlas on `.nii`, are 0.6 s and 1.0 GB. Results go to benchmarks/results/extraction.json.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import multiprocessing
import platform
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import scipy
from timing import median_seconds

from fmri_lm_hf.files import write_json

SHAPE, N_TIMES, N_ROIS = (91, 109, 91), 200, 400
SPHERES = "dosenbach_2010"  # 160 of 5 mm
CASES = (("labels", "nii"), ("labels", "nii.gz"), ("spheres", "nii"))
GOAL_SECONDS, GOAL_MB = 0.6, 1000


def write_image(folder: Path) -> None:
    """Write an image of a brain of 400 regions, each with a signal, and noise in every voxel."""
    rng = np.random.default_rng(0)
    affine = np.diag([-2.0, 2, 2, 1])
    affine[:3, 3] = 90, -126, -72
    voxels = np.argwhere(np.ones(SHAPE, dtype=bool))
    brain = voxels[(((voxels - [45, 54, 45]) / [34, 42, 34]) ** 2).sum(axis=1) < 1]
    seeds = brain[rng.choice(len(brain), N_ROIS, replace=False)]
    where = tuple(brain.T)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[where] = scipy.spatial.cKDTree(seeds).query(brain)[1] + 1
    nibabel.Nifti1Image(labels, affine).to_filename(folder / "labels.nii.gz")
    rows = "".join(f"{value}\troi_{value}\n" for value in range(1, N_ROIS + 1))
    (folder / "labels.tsv").write_text("index\tname\n" + rows)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*SHAPE, N_TIMES))
    header.set_zooms((2, 2, 2, 0.8))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, 4)
    header.set_slope_inter(0.5, 10)
    header["magic"], header["vox_offset"] = b"n+1", 352
    # volume by volume, with a header by hand: nibabel would hold the whole image in memory
    with (folder / "bold.nii").open("wb") as file:
        header.write_to(file)
        file.write(bytes(352 - file.tell()))
        for _ in range(N_TIMES):
            signals = 10 * rng.standard_normal(N_ROIS + 1, dtype=np.float32)
            volume = np.zeros(SHAPE, dtype=np.int16)
            volume[where] = 8000 + signals[labels[where]] + 20 * rng.standard_normal(len(brain))
            file.write(volume.tobytes(order="F"))
    with (folder / "bold.nii").open("rb") as whole, gzip.open(folder / "bold.nii.gz", "wb", 1) as packed:
        shutil.copyfileobj(whole, packed)


def with_package(kind: str, folder: Path) -> Callable[[Path], np.ndarray]:
    from fmri_lm_hf.models.atlas import Atlas
    from fmri_lm_hf.models.scan_images import extract

    tables = folder / "labels.nii.gz", folder / "labels.tsv"
    atlas = Atlas.from_labels_img(*tables) if kind == "labels" else Atlas.load(SPHERES)
    return lambda path: extract(atlas, path).signals


def with_nilearn(kind: str, folder: Path) -> Callable[[Path], np.ndarray]:
    from nilearn.maskers import NiftiLabelsMasker, NiftiSpheresMasker

    from fmri_lm_hf.models.atlas import DEFAULT_RADIUS_MM, Atlas

    if kind == "labels":
        masker = NiftiLabelsMasker(str(folder / "labels.nii.gz"), standardize=None, resampling_target=None)
    else:
        centres = Atlas.load(SPHERES).coordinates
        masker = NiftiSpheresMasker(centres, radius=DEFAULT_RADIUS_MM, allow_overlap=True, standardize=None)
    return lambda path: masker.fit_transform(str(path))


def measure(
    make_reader: Callable[[str, Path], Callable[[Path], np.ndarray]],
    kind: str,
    folder: Path,
    extension: str,
    repeats: int,
) -> tuple[dict[str, float], np.ndarray]:
    """Measure median times of the clock and of the processor and peak memory; also return the signals."""
    read = make_reader(kind, folder)
    signals = np.empty(0)

    def take() -> None:
        nonlocal signals
        signals = read(folder / f"bold.{extension}")

    clock, processor = median_seconds(take, repeats, warm_up=False)
    figures = {
        "seconds": round(clock, 3),
        "processor_seconds": round(processor, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
    return figures, signals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "extraction.json")
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # memory of this process would count in the peaks of the others
            pool.apply(write_image, (folder,))
        for kind, extension in CASES:
            job = functools.partial(measure, kind=kind, folder=folder, extension=extension, repeats=args.repeats)
            results = []
            for make_reader in (with_package, with_nilearn):
                with context.Pool(1) as pool:
                    results.append(pool.apply(job, (make_reader,)))
            (ours, found), (nilearn, expected) = results
            observed = np.isfinite(found).all(axis=0) & (expected.std(axis=0) > 0)
            difference = np.abs(found - expected)[:, observed] / expected[:, observed].std(axis=0)
            rows[f"{kind}, {extension}"] = row = {
                **ours,
                "nilearn": nilearn,
                "ratio": round(nilearn["processor_seconds"] / ours["processor_seconds"], 1),
                "largest_difference_in_sd": float(f"{difference.max():.1e}"),
            }
            print(
                f"{kind:8s}{extension:7s}{row['seconds']:7.2f} s (processor {row['processor_seconds']:.2f} s) "
                f"{row['peak_mb']:5.0f} MB   nilearn {nilearn['seconds']:.2f} s (processor "
                f"{nilearn['processor_seconds']:.2f} s) {nilearn['peak_mb']:5.0f} MB   {row['ratio']:.1f} times "
                f"faster, difference {row['largest_difference_in_sd']:.0e} SD",
                flush=True,
            )
    goal = rows["labels, nii"]
    met = goal["processor_seconds"] <= GOAL_SECONDS and goal["peak_mb"] <= GOAL_MB
    record = {
        "command": f"python benchmarks/extraction.py --repeats {args.repeats}",
        "shape": [*SHAPE, N_TIMES],
        "goal_seconds": GOAL_SECONDS,
        "goal_peak_mb": GOAL_MB,
        "goal_met": met,
        "median": rows,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    write_json(record, args.out)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
