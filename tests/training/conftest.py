"""The tiny inputs, and the stages trained on them with the tiny recipes: once for all tests."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from scripts import TRAINING, run
from small_reading import ATLAS, RECIPE

from fmri_lm_hf.training import reading
from fmri_lm_hf.training.random_questions import ReadingBatches
from fmri_lm_hf.training.reading import new_model


@pytest.fixture(scope="session", autouse=True)
def importable():
    """`make_tiny_inputs` is a script in the folder of the recipes."""
    sys.path.insert(0, str(TRAINING))
    yield
    sys.path.remove(str(TRAINING))


@pytest.fixture(scope="session", autouse=True)
def texts_made_once():
    """Texts for a vocabulary are the same in every run of the stage `reading`, and take seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "reading_texts", lru_cache(reading.reading_texts))
        yield


@pytest.fixture(scope="session")
def made(importable, tmp_path_factory) -> Path:
    """A folder with `tiny`, the inputs of the tiny recipes."""
    import datasets
    from make_tiny_inputs import make

    folder = tmp_path_factory.mktemp("training")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    make(folder / "tiny")
    return folder


@pytest.fixture
def tiny(made, monkeypatch) -> Path:
    """`tiny`, beside which the stages run: recipes name their inputs relative to the working folder."""
    monkeypatch.chdir(made)
    return made / "tiny"


@pytest.fixture(scope="session")
def trained(made) -> Path:
    """`tiny` with the stages in it."""
    before = Path.cwd()
    os.chdir(made)
    try:
        for stage in ("reading", "tokenizer", "alignment", "instruction"):
            run(stage, f"tiny/{stage}")
    finally:
        os.chdir(before)
    return made / "tiny"


@pytest.fixture(scope="module")
def small_model():
    return new_model(RECIPE, ATLAS, n_timepoints=80)


@pytest.fixture(scope="module")
def batches(small_model):
    return ReadingBatches(small_model[1].tokenizer, RECIPE)
