"""The question encoder in numpy reads as the one in torch does."""

from __future__ import annotations

import json

import pytest
from small_encoder import encoder, tokenizer

from fmri_lm_hf.questions.classes import CLASSES, MAX_LENGTH, NONE, PAIRINGS
from fmri_lm_hf.questions.encoder import QuestionReader
from fmri_lm_hf.questions.numpy_reader import NumpyQuestionReader

TEXTS = ["how strong is [n1] with [n2] ?", "hub", "", "how strong is " * MAX_LENGTH]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    fast = tokenizer()
    path = tmp_path_factory.mktemp("encoder") / "made"
    QuestionReader(encoder(len(fast)), fast).save(path)
    return path


def test_the_readings_are_those_of_torch(folder):
    expected = QuestionReader.load(folder).read(TEXTS)
    found = NumpyQuestionReader.load(folder).read(TEXTS)
    for one, other in zip(found, expected, strict=True):
        assert one.first == pytest.approx(other.first, abs=1e-5)
        assert one.second == pytest.approx(other.second, abs=1e-5)
        for pairing, same in zip(one.pairings, other.pairings, strict=True):
            assert pairing == pytest.approx(same, abs=1e-5)
    assert found[0].first != pytest.approx(found[1].first, abs=1e-2)


def test_every_class_has_a_probability(folder):
    (reading,) = NumpyQuestionReader.load(folder).read(["hub"])
    assert tuple(reading.first) == CLASSES
    assert tuple(reading.second) == (*CLASSES, NONE)
    assert tuple(reading.pairings[0]) == PAIRINGS
    assert sum(reading.first.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("reader", [NumpyQuestionReader, QuestionReader])
def test_an_encoder_of_other_classes_is_refused(folder, reader, tmp_path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"classes": ["level"]}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"knows 1 classes .* the {len(CLASSES)} .*fmri-lm train understanding"):
        reader.load(tmp_path)


def test_an_activation_that_it_does_not_compute_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}), encoding="utf-8")
    with pytest.raises(ValueError, match="has the activation 'relu', expected 'gelu'"):
        NumpyQuestionReader.load(tmp_path)
