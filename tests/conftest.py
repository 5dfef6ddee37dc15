"""What all tests share: one thread each (they run side by side), and a small model with its processor in a folder."""

from __future__ import annotations

import os

for name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
):  # read when torch and numpy are imported
    os.environ.setdefault(name, "1")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a language model that reads scans, as `save_pretrained` of model and processor leave it."""
    from small import language_model, processor

    folder = tmp_path_factory.mktemp("checkpoint")
    language_model().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
