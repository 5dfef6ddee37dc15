"""The question encoder in numpy reads as the one in torch does."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from fmri_lm_hf.questions.classes import CLASSES, MAX_LENGTH, NONE, PAIRINGS, PLACEHOLDERS
from fmri_lm_hf.questions.encoder import QuestionEncoder, QuestionReader
from fmri_lm_hf.questions.numpy_reader import NumpyQuestionReader

TEXTS = ["how strong is [n1] with [n2] ?", "hub", "", "how strong is " * MAX_LENGTH]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "strong", "is", "with", "?", "hub", *PLACEHOLDERS]
    tokenizer = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    fast.add_special_tokens({"additional_special_tokens": list(PLACEHOLDERS)})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.5,
    )
    path = tmp_path_factory.mktemp("encoder") / "made"
    QuestionReader(QuestionEncoder(config), fast).save(path)
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
