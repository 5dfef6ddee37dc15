"""With a text tokenizer at hand, a converted model comes with its processor and works in both pipelines."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast, pipeline

from fmri_lm_hf.conversion import convert_upstream

WORDS = [
    "<unk>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "<",
    "fmri",
    ">",
    "</",
    "</think>",
    "user",
]
WORDS += [
    "assistant",
    "###",
    "Question",
    "Answer",
    ":",
    "What",
    "is",
    "the",
    "sex",
    "?",
    "Male",
    "Female",
    ".",
]


@pytest.fixture(scope="module", params=["gpt2", "qwen3_lora"])
def chat_model(request, golden, tmp_path_factory):
    """A checkpoint that was converted with the folder of its language model: (golden, folder, is a chat model)."""
    source, folder = golden[request.param], tmp_path_factory.mktemp(request.param)
    is_chat = request.param == "qwen3_lora"
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>" if is_chat else "<|endoftext|>", unk_token="<unk>"
    )
    if is_chat:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<think>", "</think>"]})
        tokenizer.chat_template = "{{ '<|im_start|>' }}{% if enable_thinking %}<think>{% endif %}"
    tokenizer.save_pretrained(folder / "lm")
    (folder / "lm" / "config.json").write_text(json.dumps(source.meta["lm_config"]))
    options = source.options | {"text_config": folder / "lm"}
    options.pop("delimiter_ids", None)
    convert_upstream(source.folder / "checkpoint.pt", folder / "out", **options)
    return source, folder / "out", is_chat


def test_processor_writes_the_published_prompt(chat_model):
    _, folder, is_chat = chat_model
    processor = AutoProcessor.from_pretrained(folder)
    question = [{"type": "fmri"}, {"type": "text", "text": "What is the sex?"}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "Male"}]
    (prompt, _), (answer, _) = processor.split_chat(messages)
    if is_chat:
        assert prompt == (
            "<fmri><|im_start|>user\n### Question: What is the sex?\n### Answer:<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
        assert answer == " Male<|im_end|>"
    else:
        assert prompt == "<fmri>### Question: What is the sex?\n### Answer:"
        assert answer == " Male<|endoftext|>"
    ids = processor.tokenize(prompt)
    # the delimiters are what the text tokenizer makes of the literal tags
    start, end = ([5, 6, 7], [8, 6, 7]) if is_chat else ([], [])
    assert ids[: len(start) + 12 + len(end)] == [*start, *[processor.fmri_token_id] * 12, *end]
    assert ids.count(processor.fmri_token_id) == 12
    assert processor.fmri_token_id == len(WORDS)
    for file in folder.iterdir():
        assert os.fsencode(folder.parent) not in file.read_bytes(), file.name


def test_pipelines_answer(chat_model):
    _, folder, _ = chat_model
    scans = [np.random.default_rng(i).normal(size=(60, 12)).astype(np.float32) for i in range(2)]
    classify = pipeline("fmri-zero-shot-classification", model=str(folder))
    options = {"candidate_labels": ["Male", "Female"], "question": "What is the sex?", "t_r": 2.0, "force": True}
    answers = classify(scans, **options)
    assert len(answers) == 2
    assert [sum(item["score"] for item in answer) for answer in answers] == pytest.approx([1, 1])
    alone = classify(scans[1], **options)
    assert [item["label"] for item in alone] == [item["label"] for item in answers[1]]
    assert alone[0]["score"] == pytest.approx(answers[1][0]["score"], abs=1e-5)
    describe = pipeline("fmri-to-text", model=str(folder))
    (text,) = describe(scans[0], text="What is the sex?", t_r=2.0, max_new_tokens=3)
    assert isinstance(text["generated_text"], str)


@torch.no_grad()
def test_processor_and_model_agree_on_a_batch_of_different_lengths(chat_model):
    _, folder, _ = chat_model
    processor = AutoProcessor.from_pretrained(folder)
    model = pipeline("fmri-to-text", model=str(folder)).model
    scans = [np.random.default_rng(i).normal(size=(60, 12)).astype(np.float32) for i in range(2)]
    texts = ["<fmri> What is the sex ?", "<fmri> What"]
    batch = model(**processor(text=texts, fmri=scans, t_r=2.0)).logits
    for i, (text, scan) in enumerate(zip(texts, scans, strict=True)):
        alone = model(**processor(text=text, fmri=scan, t_r=2.0)).logits[0]
        torch.testing.assert_close(batch[i, -len(alone) :], alone, rtol=0, atol=1e-5)
