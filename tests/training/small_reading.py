"""The smallest model that reads network pairs, and the atlas of its scans."""

from __future__ import annotations

from fmri_lm_hf import Atlas
from fmri_lm_hf.training.random_questions import ReadingRecipe

ATLAS = Atlas("small", tuple(f"r{k}" for k in range(12)), ("default",) * 4 + ("visual",) * 4 + ("control",) * 4)
RECIPE = ReadingRecipe(
    hidden_size=32, num_layers=2, vocab_size=600, steps=20, batch_size=4, questions=3, n_networks=(4, 5)
)
