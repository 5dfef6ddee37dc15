"""Train a stage from a recipe.

  fmri-lm train tokenizer training/recipes/tokenizer.yaml
  fmri-lm train alignment training/recipes/alignment.yaml
  fmri-lm train instruction training/recipes/instruction.yaml
  fmri-lm train reading reading --output_dir my_model

RECIPE is a YAML file, or the name of a recipe of the package (tiny/tokenizer, cpu/tokenizer, demo/tokenizer).
Options after it override it, such as `--learning_rate 1e-4` or `--tokenizer.hidden_size 256`. `fmri-lm train` lists
the stages, `fmri-lm train STAGE --help` the options of a stage. On several GPUs: `accelerate launch -m
fmri_lm_hf.training.tokenizer RECIPE`.
"""

from __future__ import annotations

import argparse
import importlib

from ..deprecation import warn_renamed

STAGES = {
    "tokenizer": "stage 1: turn scans into tokens; needs scans",
    "alignment": "stage 2: describe scans; needs scans, a corpus, a tokenizer and a language model",
    "instruction": "stage 3: answer questions about scans; needs scans with labels and the model of stage 2",
    "reading": "read network pairs; needs no data, since scans are drawn at random",
    "understanding": "understand questions; needs no scans, but questions and what they mean",
}
RENAMED = {"reader": "reading"}  # old names of stages -> new names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm train`."""
    parser.add_argument("stage", metavar="STAGE", nargs="?", choices=[*STAGES, *RENAMED], help=", ".join(STAGES))
    parser.add_argument("words", metavar="RECIPE [--option value ...]", nargs=argparse.REMAINDER, help="see above")


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm train`; without a stage, list the stages."""
    if args.stage is None:
        print("Give a stage: fmri-lm train STAGE [RECIPE] [--option value ...]\n")
        for stage, summary in STAGES.items():
            print(f"  {stage:13} {summary}")
        print("\n`fmri-lm train STAGE --help` shows the options of a stage.")
        return 2
    stage = RENAMED.get(args.stage, args.stage)
    if stage != args.stage:
        warn_renamed(f"fmri-lm train {args.stage}", f"fmri-lm train {stage}")
    importlib.import_module(f"..training.{stage}", __package__).main(args.words)
    return 0
