"""Train a small fMRI language model in three stages, and evaluate it on a site that training never saw.

Without --scans, a cohort of two sites is simulated; its model has no clinical meaning. Needs no network, no GPU, a few
minutes on two cores and less than 4 GB of memory.

--scans is a scan dataset (`fmri-lm scans`, `Dataset.save_to_disk` or Parquet files) with the columns scan_id,
subject_id, site, t_r, bold (n_timepoints, n_rois) and the labels. Written into --out: results.json (scores next to
baselines and controls), report.html, and model/ (load it with AutoModelForCausalLM and AutoProcessor, or ask it with
`fmri-lm ask SCAN QUESTION --model OUT/model`).

examples:
  fmri-lm demo --out demo_output
  fmri-lm demo --scans my_scans --atlas atlas.json --labels sex diagnosis --holdout-site B --out my_demo
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="output folder (default: demo_output)")
    add_cohort_arguments(parser)
    parser.add_argument(
        "--input-features",
        nargs="+",
        choices=["signal", "connectivity"],
        default=["connectivity"],
        help="input of a scan token: its patch of the signal (as published), its ROI's connectivity profile, or both "
        "(default: connectivity)",
    )
    parser.add_argument("--read-codes", action="store_true", help="embed scans by their discrete codes alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cohort and of the training (default: 0)")


def add_cohort_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose scans, labels and the test site."""
    parser.add_argument("--scans", type=Path, help="scan dataset (default: a simulated cohort)")
    parser.add_argument("--atlas", type=Path, help="atlas JSON, for a dataset without atlas.json")
    parser.add_argument(
        "--labels",
        nargs="+",
        default=["sex", "diagnosis"],
        metavar="COLUMN",
        help="label columns to ask about (default: sex diagnosis)",
    )
    parser.add_argument(
        "--holdout-site", default="B", metavar="SITE", help="site whose scans are the test set (default: B)"
    )


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm demo`."""
    from ..demo import run_demo

    options = {
        "tokenizer": ["--tokenizer.input_features", "[" + ", ".join(args.input_features) + "]"],
        "alignment": ["--fmri_embedding_source", "codes" if args.read_codes else "encoder"],
    }
    run_demo(args.out, args.scans, args.atlas, args.labels, args.holdout_site, args.seed, options)
