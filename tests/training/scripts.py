"""Runs the stages in this process, as `fmri-lm train STAGE WORDS` would."""

from __future__ import annotations

import importlib
from pathlib import Path

TRAINING = Path(__file__).parents[2] / "training"


def run(stage: str, *words: str) -> None:
    """Run a stage with words of the command line, the first of which may be a recipe."""
    importlib.import_module(f"fmri_lm_hf.training.{stage}").main(list(words))
