"""Ask what a part of the method is worth: the demo's stages with one thing changed at a time, on one unseen site.

  fmri-lm study data --out study_data                       # 100, 200, 400, 800 training scans
  fmri-lm study lora --seeds 0 1 2 --out study_lora
  fmri-lm study lora --scans my_scans --labels sex --holdout-site B --out study_lora_mine
  fmri-lm study my_study.yaml --out my_study

The studies of the package: pairs (with and without pairs of scans and texts), families (each family of descriptors
left out), lora (adapters against all weights), data (number of training scans), quantizer, input_features, robustness
(the same scans measured worse), languages (questions in French and German). One of your own is a YAML file:

  about: Does a wider tokenizer help?
  variants:
    as it is: {}
    wider: {tokenizer: {tokenizer.hidden_size: 256}}

Each variant takes what the demo takes, a few minutes on two cores. One that is done is not run again, so a study that
was stopped goes on. Into --out go study.json, report.html, and a folder for each variant.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fmri_lm_hf.cli.demo import add_cohort_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm study`."""
    parser.add_argument("study", metavar="STUDY", help="name of a study of the package, or a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    add_cohort_arguments(parser)
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="SEED",
        help="each variant is run once for each (default: 0)",
    )


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm study`."""
    from experiments.ablation import load_study, run_study, study_table

    study = load_study(args.study)
    found = run_study(study, args.out, args.scans, args.atlas, args.labels, args.holdout_site, args.seeds)
    print(f"\n{study.about}\n{study_table(found)}\nPictures: {args.out / 'report.html'}")
    if found["simulated"]:
        print("Trained and judged on simulated scans: a study of the method, not of brains.")
