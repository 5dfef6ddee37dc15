"""A seeded fuzzer of scans and atlases: damaged files and odd objects, each read, each outcome judged.

A bad input has to end in a `ScanError` or in a scan that is what it claims to be. Where a format carries checksums
(`.nii.gz`, `.npz`, compressed `.mat`), a damaged file may not give other signals than the whole one.

Ten thousand inputs, which take some minutes::

    python tests/scans/bad_inputs.py --size 10000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas
import torch
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis, ParcelsAxis, SeriesAxis
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable
from scipy.io import savemat

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.image_files import image_data
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.models.scan_files import Scan, read_scan
from fmri_lm_hf.scans import read_mat, read_participants
from fmri_lm_hf.simulation import write_nifti

N_ROIS, N_TIMES = 4, 24
NAMES = tuple("abcd")
SPHERES = Atlas(
    "four",
    NAMES,
    ("x", "x", "y", "y"),
    coordinates=((-40, 0, 0), (40, 0, 0), (0, 40, 20), (0, -60, 20)),
    radius_mm=10,
)
TABLES = Atlas("four", NAMES, ("x", "x", "y", "y"))


@dataclass
class Whole:
    """A file in order, its bytes, and how it is read; `a` in its name becomes `bad` where it is damaged."""

    name: str
    content: bytes
    read: Callable[[Path], Any]
    has_checksum: bool = False
    signals: np.ndarray | None = None


def whole_files(folder: Path, rng: np.random.Generator) -> list[Whole]:
    """One file of each format."""
    bold = rng.normal(size=(N_TIMES, N_ROIS)).astype(np.float32)
    cortex = BrainModelAxis.from_mask(np.ones(12, bool), name="cortex_left")
    series = SeriesAxis(0, 0.8, N_TIMES)
    keys = np.repeat([1, 2, 3, 4], 3)
    names = {i: (name, (1, 1, 1, 1)) for i, name in enumerate(["???", *NAMES])}
    labels = Cifti2Image(keys[None].astype(np.float32), (LabelAxis(["map"], [names]), cortex))
    dense_atlas = Atlas.from_labels_img(labels, name="dense")
    parcels = ParcelsAxis(
        list(NAMES),
        [np.empty((0, 3), int)] * 4,
        [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.flatnonzero(keys == key)} for key in (1, 2, 3, 4)],
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 12},
    )
    for name in ("a.nii", "a.nii.gz"):
        write_nifti(bold, SPHERES, folder / name, 0.8, 10, noise=0.5)
    Cifti2Image(np.repeat(bold, 3, axis=1), (series, cortex)).to_filename(folder / "a.dtseries.nii")
    Cifti2Image(bold, (series, parcels)).to_filename(folder / "a.ptseries.nii")
    for name in ("a.L.func.gii", "a.R.func.gii", "bad.R.func.gii"):  # of the damaged one, the other is whole
        rows = [GiftiDataArray(np.repeat(row, 3), "NIFTI_INTENT_TIME_SERIES") for row in bold]
        rows[0].meta["TimeStep"] = "800"
        nibabel.save(GiftiImage(darrays=rows), folder / name)
    labels.to_filename(folder / "a.dlabel.nii")
    table = GiftiLabelTable()
    for key, (name, _) in names.items():
        table.labels.append(GiftiLabel(key, 1, 1, 1, 1))
        table.labels[-1].label = name
    for name in ("a.L.label.gii", "a.R.label.gii", "bad.R.label.gii"):
        half = GiftiDataArray(keys.astype(np.int32), "NIFTI_INTENT_LABEL", encoding="GIFTI_ENCODING_ASCII")
        nibabel.save(GiftiImage(darrays=[half], labeltable=table), folder / name)
    blocks = nibabel.Nifti1Image(keys.reshape(3, 2, 2).astype(np.int16), np.eye(4))
    nibabel.save(blocks, folder / "a.labels.nii.gz")
    rows = "".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES, 1))
    (folder / "a.label_table.tsv").write_text("index\tname\n" + rows)
    np.save(folder / "a.npy", bold)
    np.savez_compressed(folder / "a.npz", bold=bold, t_r=0.8, roi_names=np.array(NAMES))
    frame = pandas.DataFrame(bold, columns=list(NAMES))
    frame.to_csv(folder / "a.tsv", sep="\t", index=False)
    frame.to_csv(folder / "a.csv", index=False)
    savemat(folder / "a.mat", {"tc": bold.T.astype(float)})
    savemat(folder / "b.mat", {"tc": bold.T.astype(float)}, do_compression=True)
    pandas.DataFrame({"participant_id": ["sub-1", "2"], "age": [3.0, None]}).to_csv(
        folder / "a.participants.tsv", sep="\t", index=False
    )

    def of(atlas: Atlas) -> Callable[[Path], Any]:
        return lambda path: read_scan(path, atlas, None if path.name.endswith((".nii", ".nii.gz", ".gii")) else 0.8)

    readers: dict[str, tuple[Callable[[Path], Any], bool]] = {
        "a.nii": (of(SPHERES), False),
        "a.nii.gz": (of(SPHERES), True),
        "a.dtseries.nii": (of(dense_atlas), False),
        "a.ptseries.nii": (of(TABLES), False),
        "a.L.func.gii": (of(dense_atlas), False),
        "a.npy": (of(TABLES), False),
        "a.npz": (of(TABLES), True),
        "a.tsv": (of(TABLES), False),
        "a.csv": (of(TABLES), False),
        "a.mat": (lambda path: read_scan(read_mat(path), TABLES, 0.8), False),
        "b.mat": (lambda path: read_scan(read_mat(path), TABLES, 0.8), True),
        "a.participants.tsv": (read_participants, False),
        "a.dlabel.nii": (Atlas.from_labels_img, False),
        "a.L.label.gii": (Atlas.from_labels_img, False),
        "a.labels.nii.gz": (lambda path: Atlas.from_labels_img(path, folder / "a.label_table.tsv"), True),
        "a.label_table.tsv": (lambda path: Atlas.from_labels_img(blocks, path), False),
    }
    files = []
    for name, (read, has_checksum) in readers.items():
        path = folder / name
        found = read(path)
        signals = values_of(found)
        files.append(Whole(name, path.read_bytes(), read, has_checksum, signals))
    return files


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """A file as disks, networks and editors leave it."""
    damaged = bytearray(content)
    near = int(rng.integers(1, min(len(damaged), 700)))  # headers are what readers trip over
    place = int(rng.integers(0, near if rng.random() < 0.6 else len(damaged)))
    kind = rng.integers(7)
    if kind == 0:
        return bytes(damaged[:place])
    if kind == 1:
        for _ in range(int(rng.integers(1, 6))):
            at = min(place + int(rng.integers(40)), len(damaged) - 1)
            damaged[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        damaged[place : place + int(rng.integers(1, 64))] = bytes(int(rng.integers(1, 64)))
    elif kind == 3:
        damaged[place:place] = rng.bytes(int(rng.integers(1, 16)))
    elif kind == 4:
        del damaged[place : place + int(rng.integers(1, 32))]
    elif kind == 5:
        odd = [
            b"nan",
            b"inf",
            b"-",
            b"\t",
            b"\n",
            b",",
            b'"',
            b"\xff\xfe",
            b"1e999",
            b"n/a",
            b"\0",
            b"<x>",
            b"0x1p3",
        ]
        damaged[place : place + int(rng.integers(0, 6))] = odd[int(rng.integers(len(odd)))]
    else:
        damaged[place : place + 4] = rng.bytes(4)
    return bytes(damaged)


def odd_object(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """A scan as a Python object, and arguments beside it, of which something is odd."""
    bold = rng.normal(size=(N_TIMES, N_ROIS)).astype(np.float32)
    ragged: list[Any] = [[1.0, 2.0], [3.0]]
    image = nibabel.Nifti1Image(np.ones((3, 3, 3, 4), np.float32), np.diag([0.001, 1, 1, 1]))
    scans: list[Any] = [
        bold,
        bold.tolist(),
        bold.astype(complex),
        bold.astype("datetime64[s]"),
        bold.astype(object),
        bold.astype(str),
        bold > 0,
        bold[:, :2],
        bold.T,
        bold[:1],
        bold[0],
        bold[None],
        bold * np.nan,
        bold * 0,
        bold * 1e38,
        np.ma.masked_less(bold, 0),
        np.empty((0, 4)),
        np.zeros(3, dtype=[("a", "f4")]),
        pandas.DataFrame(bold, columns=list("dcba")),
        pandas.DataFrame(bold).astype({0: str}),
        pandas.DataFrame(bold).reset_index(),
        pandas.DataFrame(),
        pandas.Series(bold[0]),
        torch.from_numpy(bold),
        torch.from_numpy(bold).bfloat16(),
        torch.from_numpy(bold).to_sparse(),
        torch.from_numpy(bold).requires_grad_(),
        torch.empty(0, 4, device="meta"),
        ragged,
        None,
        1.5,
        "no/such/file.npy",
        "x" * 5000,
        "a\0b.npy",
        Path("."),
        b"bytes",
        object(),
        {},
        {1: 2},
        {"bold": None},
        {"bold": bold, "t_r": "2.0"},
        {"bold": bold, "t_r": [2.0]},
        {"bold": bold, "roi_mask": "yes"},
        {"bold": bold, "roi_mask": [1, 0, 2, 1]},
        {"bold": bold, "roi_mask": [False] * 4},
        {"bold": bold, "sample_mask": [False] * N_TIMES},
        {"bold": bold, "sample_mask": rng.random(N_TIMES) > 0.5},
        {"bold": bold, "roi_names": ["a", "b", "c", "c"]},
        {"bold": bold, "roi_names": 5},
        {"bold": bold, "roi_names": [b"a", b"b", b"c", b"d"]},
        {"bold": {"bold": bold}},
        image,
        nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)),
        nibabel.Nifti1Image(np.ones((3, 3, 3, 2), np.complex64), np.eye(4)),
        nibabel.Nifti1Image(np.full((5, 5, 5, 9), np.nan, np.float32), np.diag([20, 20, 20, 1])),
        range(4),
        {1, 2},
        [object()] * 3,
        np.array([[10**400, 1]], dtype=object),
    ]
    t_rs: list[Any] = [
        None,
        2.0,
        0.8,
        0,
        -1,
        np.nan,
        np.inf,
        "2",
        [2.0],
        np.array(2.0),
        2000,
        True,
        torch.tensor(2.0),
    ]
    t_rs += [1j, {}, object()]
    names: list[Any] = [
        None,
        None,
        None,
        list(NAMES),
        list("dcba"),
        ["a"],
        7,
        "abcd",
        [None] * 4,
        np.array(NAMES),
    ]
    scan = scans[int(rng.integers(len(scans)))]
    if isinstance(scan, np.ndarray) and scan.ndim == 2 and scan.dtype == np.float32 and rng.random() < 0.7:
        scan = scan.copy()
        with np.errstate(over="ignore"):
            for _ in range(int(rng.integers(1, 4))):
                what = [np.nan, np.inf, 0.0, 1e38][int(rng.integers(4))]
                row, column = (
                    int(rng.integers(len(scan))) if len(scan) else 0,
                    int(rng.integers(scan.shape[1])),
                )
                where = [np.s_[row:], np.s_[row : row + 2], np.s_[:, column], np.s_[row : row + 1, column]]
                scan[where[int(rng.integers(4))]] = what
    arguments = {
        "atlas": [TABLES, SPHERES, None][int(rng.integers(3))],
        "t_r": t_rs[int(rng.integers(len(t_rs)))] if rng.random() < 0.6 else 2.0,
        "roi_names": names[int(rng.integers(len(names)))],
    }
    return scan, arguments


def values_of(found: Any) -> np.ndarray | None:
    """The signals of a scan, the labels of an atlas."""
    if isinstance(found, Atlas):
        return image_data(found.labels_img)
    return found.bold if isinstance(found, Scan) else None


def fault(found: Any, whole: np.ndarray | None = None) -> str | None:
    """What is wrong with a scan or an atlas that was read; None if nothing is."""
    if whole is not None and not np.array_equal(values_of(found), whole):
        return "other values than the whole file has, unnoticed"
    if not isinstance(found, Scan):
        return None
    n_times, n_rois = found.bold.shape
    if found.bold.dtype != np.float32 or not np.isfinite(found.bold).all():
        return "bold is not finite float32"
    if not (np.isreal(found.t_r) and 0.05 <= found.t_r <= 20):
        return f"TR {found.t_r}"
    if found.roi_mask.shape != (n_rois,) or found.sample_mask.shape != (n_times,):
        return "masks of another shape"
    if not found.roi_mask.any() or found.sample_mask.sum() < 2 or found.bold[:, ~found.roi_mask].any():
        return "masks that do not fit"
    return None


def run(size: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Read `size` bad inputs.

    Returns
    -------
    outcomes : Counter
        How many of each kind were refused or read.
    faults : list of str
        Every raw exception and every wrong scan, with what made it.
    """
    rng = np.random.default_rng(seed)
    wholes = whole_files(folder, rng)
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(size):
        is_object = rng.random() < 0.25
        whole = None if is_object else wholes[int(rng.integers(len(wholes)))]
        kind = "object" if whole is None else whole.name.partition(".")[2]
        description = f"input {number} of seed {seed}, {kind}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if whole is None:
                    scan, arguments = odd_object(rng)
                    description += f": {type(scan).__name__} with t_r={arguments['t_r']!r:.20}"
                    found, signals = read_scan(scan, **arguments), None
                else:
                    path = folder / f"bad.{kind}"
                    path.write_bytes(damage(whole.content, rng))
                    sidecar = path.with_name("bad.json")
                    sidecar.unlink(missing_ok=True)
                    if rng.random() < 0.1:
                        text = json.dumps({"RepetitionTime": [0.8, "0.8", None, [], 1e9][int(rng.integers(5))]})
                        sidecar.write_bytes(damage(text.encode(), rng))
                    found = whole.read(path)
                    signals = whole.signals if whole.has_checksum else None
        except ScanError:
            outcomes[f"{kind}: refused"] += 1
        except Exception as error:
            faults.append(f"{description}: {type(error).__name__}: {error}")
        else:
            outcomes[f"{kind}: read"] += 1
            wrong = fault(found, signals)
            if wrong is not None:
                faults.append(f"{description}: {wrong}")
    return outcomes, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, faults = run(arguments.size, arguments.seed, Path(folder))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6d} {outcome}")
    print(f"{len(faults):6d} raw exceptions or wrong scans")
    for each in faults[:50]:
        print(f"  {each}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
