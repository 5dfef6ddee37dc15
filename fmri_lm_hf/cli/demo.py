"""Train a small fMRI language model and judge it on a site that it never saw.

Without --scans, a cohort of two sites is simulated; its weights mean nothing clinically.
Needs no network, no GPU, a few minutes on two cores and less than 4 GB.

  fmri-lm demo --out demo_output
  fmri-lm demo --scans my_scans --atlas atlas.json --labels sex diagnosis --holdout-site B --out OUT

--scans is a scan dataset: a folder of `fmri-lm scans`, of `Dataset.save_to_disk` or of Parquet files, or
one Parquet file, with the columns scan_id, subject_id, site, t_r, bold (n_timepoints, n_rois) and the
labels. Written into --out: results.json (scores and their baselines), report.html (pictures), and
model/ (load it with AutoModelForCausalLM and AutoProcessor).
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="output folder (default: demo_output)"
    )
    add_cohort_arguments(parser)
    parser.add_argument(
        "--input-features",
        nargs="+",
        choices=["signal", "connectivity"],
        default=["connectivity"],
        help="what a scan token sees: its patch of the signal (as published), its connectivity profile, or both "
        "(default: connectivity)",
    )
    parser.add_argument(
        "--read-codes",
        action="store_true",
        help="let the language model read only what the discrete codes say",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the cohort and of the training (default: 0)"
    )


def add_cohort_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say on which scans the stages are trained and judged."""
    parser.add_argument("--scans", type=Path, help="a scan dataset; a cohort is simulated when not given")
    parser.add_argument(
        "--atlas", type=Path, help="atlas JSON of the scans, where the dataset has no atlas.json"
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        default=["sex", "diagnosis"],
        metavar="COLUMN",
        help="columns of classes to ask about (default: sex diagnosis)",
    )
    parser.add_argument(
        "--holdout-site", default="B", metavar="SITE", help="the site to test on (default: B)"
    )


def run(args: argparse.Namespace) -> None:
    from ..demo import run_demo

    options = {
        "tokenizer": ["--tokenizer.input_features", "[" + ", ".join(args.input_features) + "]"],
        "alignment": ["--fmri_embedding_source", "codes" if args.read_codes else "encoder"],
    }
    run_demo(args.out, args.scans, args.atlas, args.labels, args.holdout_site, args.seed, options)
