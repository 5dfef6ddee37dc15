from __future__ import annotations

import datasets
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def dataset_cache(tmp_path_factory, monkeypatch):
    """What `datasets` converts on loading goes to a folder of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
