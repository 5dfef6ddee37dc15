"""Runs the training scripts in this process, as the command line would."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

TRAINING = Path(__file__).parents[2] / "training"


def run(script: str, *words: str) -> None:
    """Run `python training/SCRIPT WORDS`; a word that ends in `_tiny.yaml` is one of the recipes."""
    argv = sys.argv
    recipes = TRAINING / "recipes"
    sys.argv = [script, *(str(recipes / word) if word.endswith("_tiny.yaml") else word for word in words)]
    try:
        runpy.run_path(str(TRAINING / script), run_name="__main__")
    finally:
        sys.argv = argv
