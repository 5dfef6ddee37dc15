"""The reader that comes with the package: its answers follow the scan that it is shown."""

from __future__ import annotations

import pytest

import fmri_lm_hf
from fmri_lm_hf.bundled import WEIGHTS
from fmri_lm_hf.evaluation.truth import bin_truth, comparison_truth, description_truth
from fmri_lm_hf.simulation.stream import RandomScans, random_atlas

UNSEEN = 2_000_003  # a seed that no training uses


@pytest.fixture(scope="module")
def reader():
    return fmri_lm_hf.load_reader()


def judged(truth, reader, n_scans=8):
    """What a kind of truth says of a reader on scans of its atlas."""
    model, processor = reader
    stream = RandomScans(processor.feature_extractor.atlas, UNSEEN)
    return truth(model, processor, dict(processor(fmri=[stream[k] for k in range(n_scans)])))


def test_levels_are_those_of_the_scan_and_not_of_another(reader):
    scores = judged(bin_truth, reader)
    assert scores["exact"] > 0.93
    assert scores["exact"] > scores["other_scan"] + 0.5
    assert scores["within_one"] > 0.98


def test_descriptions_are_of_the_scan_and_not_of_another(reader):
    scores = judged(description_truth, reader, 12)
    assert scores["precision"] > 0.9
    assert scores["precision"] > scores["other_scan_precision"] + 0.4


def test_an_atlas_that_training_never_drew_is_read():
    scores = judged(bin_truth, fmri_lm_hf.load_reader(random_atlas(UNSEEN, 1, (6, 6))))
    assert scores["exact"] > 0.9
    assert scores["exact"] > scores["other_scan"] + 0.4


def test_two_scans_of_one_prompt_are_compared(reader):
    scores = judged(comparison_truth, reader)
    assert scores["clear"] > 0.85
    assert scores["exact"] > scores["other_scans"] + 0.2


def test_an_atlas_is_found_by_its_name(reader):
    model, processor = fmri_lm_hf.load_reader("dosenbach_2010")
    assert processor.feature_extractor.atlas == reader[1].feature_extractor.atlas
    assert model.config.network_name_ids == reader[0].config.network_name_ids


def test_weights_are_small_and_have_their_card_and_record():
    names = {path.name for path in WEIGHTS.iterdir()}
    assert {"README.md", "training_info.json", "model.safetensors"} <= names
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 8e6
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert "simulated scans only" in card
    assert '"simulated": true' in (WEIGHTS / "training_info.json").read_text(encoding="utf-8")
