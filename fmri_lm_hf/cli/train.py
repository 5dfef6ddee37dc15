"""Train one of the stages from a recipe.

  fmri-lm train tokenizer training/recipes/tokenizer.yaml          scans -> tokens (stage 1)
  fmri-lm train alignment training/recipes/alignment.yaml          a language model reads the tokens (stage 2)
  fmri-lm train instruction training/recipes/instruction.yaml      it answers questions about scans (stage 3)
  fmri-lm train reader reader --output_dir reader                  a reader of network pairs, from random scans alone

RECIPE is a YAML file, or the name of one that comes with the package (tiny/tokenizer, cpu/tokenizer, demo/tokenizer).
Arguments behind it overrule it, such as `--learning_rate 1e-4` or `--tokenizer.hidden_size 256`; `fmri-lm train STAGE
--help` lists them all. On several GPUs: `accelerate launch -m fmri_lm_hf.training.tokenizer RECIPE`.
"""

from __future__ import annotations

import argparse
import importlib

STAGES = ("tokenizer", "alignment", "instruction", "reader")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm train`."""
    parser.add_argument("stage", metavar="STAGE", choices=STAGES, help=", ".join(STAGES))
    parser.add_argument(
        "words", metavar="RECIPE [--argument value ...]", nargs=argparse.REMAINDER, help="see above"
    )


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm train`."""
    stage = importlib.import_module(f"..training.{args.stage}", __package__)
    stage.main(args.words)
