"""A language model that understands questions: what is saved, what is refused, and that it stays as it is itself."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from small_encoder import tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from fmri_lm_hf.questions.classes import CLASSES, MAX_LENGTH, NONE, PAIRINGS, Reading
from fmri_lm_hf.questions.encoder import padded
from fmri_lm_hf.questions.language_model import (
    AFTER,
    BEFORE,
    JointReader,
    LanguageModelReader,
    QuestionLanguageModel,
    load_packaged,
    prompt,
)
from fmri_lm_hf.questions.numpy_reader import question_reader

TEXTS = ["how strong is [n1] with [n2] ?", "hub ?", "is"]


def llama(hidden_size=16, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=hidden_size,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def trained(model, seed=1):
    """Move adapters and classifiers away from where they start, by what half precision can hold."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.2 * torch.randn(weight.shape, generator=generator)
                weight.copy_(weight.bfloat16().float())
    return model


@pytest.fixture(scope="module")
def reader():
    return LanguageModelReader(trained(QuestionLanguageModel(llama(), rank=4)), tokenizer())


@pytest.fixture(scope="module")
def folder(reader, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "deeper" / "made"
    reader.save(path)
    return path


def differences(one, other):
    return [
        abs(a[name] - b[name])
        for first, second in zip(one, other, strict=True)
        for a, b in ((first.first, second.first), (first.second, second.second))
        for name in a
    ]


# ----- the language model -----


def test_without_the_adapters_it_is_the_same_to_the_bit():
    language_model = llama()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    before = language_model(input_ids=ids).logits
    weights = {name: weight.clone() for name, weight in language_model.state_dict().items()}
    model = trained(QuestionLanguageModel(language_model))
    assert not torch.equal(language_model(input_ids=ids).logits, before)
    with model.body.disable_adapter():
        assert torch.equal(language_model(input_ids=ids).logits, before)
    after = {name.replace(".base_layer", ""): weight for name, weight in language_model.state_dict().items()}
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())


def test_adapters_and_classifiers_alone_are_trained():
    model = QuestionLanguageModel(llama(), rank=4)
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all("lora_" in name or name.startswith("classify.") for name in learning)
    # two layers of seven matrices, each with two adapters
    assert sum("lora_" in name for name in learning) == 2 * 7 * 2
    rows, mask = padded([prompt(tokenizer(), text) for text in TEXTS])
    labels = torch.tensor([[0, len(CLASSES), -100, -100]] * len(TEXTS))
    model(rows, mask, labels).loss.backward()
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.body.parameters())


def test_the_adapters_begin_without_an_effect():
    language_model = llama()
    ids = torch.tensor([[5, 6, 7]])
    before = language_model(input_ids=ids).logits
    QuestionLanguageModel(language_model)
    assert torch.equal(language_model(input_ids=ids).logits, before)


# ----- reading -----


def test_it_reads_a_question_between_two_texts():
    made = tokenizer()
    before, after = (made(text, add_special_tokens=False)["input_ids"] for text in (BEFORE, AFTER))
    hub, how = made.convert_tokens_to_ids(["hub", "how"])
    assert prompt(made, "hub") == [*before, hub, *after]
    long = prompt(made, " ".join(["hub", *["is"] * MAX_LENGTH, "how"]))
    assert len(long) == len(before) + MAX_LENGTH + len(after)
    assert (long[len(before)], long[-len(after) - 1]) == (hub, how)


def test_a_question_is_read_alike_beside_longer_ones(reader):
    together = reader.read(TEXTS)
    alone = [reader.read([text])[0] for text in TEXTS]
    assert max(differences(alone, together)) < 1e-5
    assert max(differences(together[:1], together[1:2])) > 1e-3
    assert sum(together[0].second.values()) == pytest.approx(1)
    assert tuple(together[0].second) == (*CLASSES, NONE)


# ----- saving -----


def test_a_saved_reader_reads_alike(reader, folder):
    loaded = LanguageModelReader.load(folder, llama(), tokenizer())
    assert max(differences(loaded.read(TEXTS), reader.read(TEXTS))) < 1e-6
    other = LanguageModelReader.load(folder, llama(seed=3), tokenizer())
    assert max(differences(other.read(TEXTS), reader.read(TEXTS))) > 1e-3  # the adapters are nothing by themselves


def test_weights_that_half_precision_cannot_hold_are_rounded(folder, tmp_path):
    model = trained(QuestionLanguageModel(llama(), rank=4))
    with torch.no_grad():
        for weight in model.classify.parameters():
            weight *= 1.001
    given = LanguageModelReader(model, tokenizer())
    given.save(tmp_path / "rounded")
    loaded = LanguageModelReader.load(tmp_path / "rounded", llama(), tokenizer())
    assert 0 < max(differences(loaded.read(TEXTS), given.read(TEXTS))) < 0.02


def test_the_language_model_is_not_saved(folder, reader):
    assert sorted(file.name for file in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]
    saved = load_file(folder / "adapter.safetensors")
    learning = sum(weight.numel() for weight in reader.model.parameters() if weight.requires_grad)
    assert sum(weight.numel() for weight in saved.values()) == learning
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    assert json.loads((folder / "adapter.json").read_text(encoding="utf-8"))["rank"] == 4


def test_a_language_model_of_another_width_is_refused(folder):
    message = "in made are for a language model of width 16, found one of width 24: give the language model that"
    with pytest.raises(ValueError, match=message):
        LanguageModelReader.load(folder, llama(hidden_size=24), tokenizer())


def test_other_classes_are_refused(folder, tmp_path):
    (tmp_path / "adapter.json").write_text(json.dumps({"rank": 4, "classes": ["level"]}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"knows 1 classes .* the {len(CLASSES)} of this version: train it again"):
        LanguageModelReader.load(tmp_path, llama(), tokenizer())


# ----- by name -----


def test_a_name_that_no_package_has_is_refused():
    with pytest.raises(ValueError, match="No package has the language model 'tiny': use smollm2"):
        load_packaged("tiny")
    with pytest.raises(ValueError, match="What understands questions is 'bundled' or 'smollm2', found 'tiny'"):
        question_reader("tiny")


def test_two_readers_are_mixed_by_weight():
    class Certain:
        def __init__(self, name):
            self.name = name

        def read(self, texts):
            pairings = dict.fromkeys(PAIRINGS, 0.0) | {"0123": 1.0}
            first = dict.fromkeys(CLASSES, 0.0) | {self.name: 1.0}
            second = dict.fromkeys((*CLASSES, NONE), 0.0) | {NONE: 1.0}
            return [Reading(first, second, (pairings, pairings)) for _ in texts]

    (found,) = JointReader(Certain("level"), Certain("within"), 0.25).read(["a question"])
    assert (found.first["level"], found.first["within"], found.second[NONE]) == (0.25, 0.75, 1.0)
    assert found.pairings[0]["0123"] == 1.0
