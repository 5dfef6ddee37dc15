"""The processor: placeholders, delimiters, padding, chats and their labels, storage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hub import tiny
from small import N_TOKENS, language_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoFeatureExtractor, AutoProcessor, PreTrainedTokenizerFast

from fmri_lm_hf import FmriFeatureExtractor, FmriLMProcessor

QUESTION = {"type": "text", "text": "What is the sex?"}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_tokenizer(like_gpt2: bool = False, **options) -> PreTrainedTokenizerFast:
    """A byte-level BPE; like GPT-2's it has an end token alone, else a chat template too."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"] if like_gpt2 else ["<pad>", "<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["What is the sex? female male Answer: both"] * 3, trainer)
    if like_gpt2:
        return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", **options)
    options = {"padding_side": "left", "chat_template": CHAT_TEMPLATE} | options
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        **options,
    )


def processor(like_gpt2: bool = False, **options) -> FmriLMProcessor:
    return FmriLMProcessor(tiny.feature_extractor(), byte_tokenizer(like_gpt2), **({"patch_size": 8} | options))


def chat(n_scans: int, answer: str = "female", with_data: bool = False) -> list[dict]:
    blocks = [{"type": "fmri"} | ({"fmri": tiny.scan(i)} if with_data else {}) for i in range(n_scans)]
    return [{"role": "user", "content": [*blocks, QUESTION]}, {"role": "assistant", "content": answer}]


# --- texts with scans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiters", [{}, {"fmri_start_ids": [5, 6], "fmri_end_ids": [7]}], ids=str)
def test_each_placeholder_becomes_the_tokens_of_a_scan(delimiters):
    process = processor(**delimiters)
    text = process.tokenizer("What", add_special_tokens=False)["input_ids"]
    start, end = delimiters.get("fmri_start_ids", []), delimiters.get("fmri_end_ids", [])
    scan = [*start, *[process.fmri_token_id] * N_TOKENS, *end]
    assert process.n_tokens == N_TOKENS
    assert process.tokenize("<fmri>What<fmri>") == [*scan, *text, *scan]
    inputs = process(text="<fmri>What<fmri>", fmri=[tiny.scan(0), tiny.scan(1)], t_r=2.0)
    assert inputs["input_ids"].tolist() == [[*scan, *text, *scan]]
    assert sorted(inputs) == sorted(process.model_input_names)
    for name, value in tiny.feature_extractor()([tiny.scan(0), tiny.scan(1)], t_r=2.0).items():
        assert torch.equal(inputs[name], value), name


def test_a_scan_without_patch_size_is_one_patch():
    assert processor(patch_size=None).n_tokens == tiny.N_ROIS


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_the_side_of_the_tokenizer(side):
    process = processor()
    process.tokenizer.padding_side = side
    texts = ["<fmri>What is the sex?", "<fmri>What", "What is"]
    batch = process(text=texts, fmri=[tiny.scan(0), tiny.scan(1)], t_r=2.0)
    for i, text in enumerate(texts):
        ids = process.tokenize(text)
        n = len(ids)
        kept = slice(-n, None) if side == "left" else slice(0, n)
        assert batch["input_ids"][i, kept].tolist() == ids
        assert batch["attention_mask"][i, kept].all()
        assert batch["attention_mask"][i].sum() == n
        assert (batch["input_ids"][i] == process.tokenizer.pad_token_id).sum() == batch["input_ids"].shape[1] - n
    assert process(text=texts[1], padding="max_length", max_length=40, fmri=tiny.scan(), t_r=2.0)[
        "input_ids"
    ].shape == (1, 40)


def test_scans_or_text_alone():
    process = processor()
    assert sorted(process(fmri=tiny.scan(), t_r=2.0)) == ["input_values", "padding_mask", "roi_mask"]
    assert sorted(process(text=["What", "What is"])) == ["attention_mask", "input_ids"]
    assert isinstance(process(fmri=tiny.scan(), t_r=2.0, return_tensors="np")["input_values"], np.ndarray)


def test_a_tokenizer_like_that_of_gpt2_pads_with_its_end_token():
    process = processor(like_gpt2=True)
    batch = process(text=["What is", "What"])
    assert batch["attention_mask"].sum(1).tolist() == [
        len(process.tokenize("What is")),
        len(process.tokenize("What")),
    ]
    assert process.tokenizer.pad_token == "<|endoftext|>"


def test_the_model_takes_what_the_processor_gives():
    process = tiny.processor()
    inputs = process(text=["<fmri>What is", "<fmri>What"], fmri=[tiny.scan(0), tiny.scan(1)], t_r=2.0)
    output = language_model()(**inputs, labels=inputs["input_ids"])
    assert output.logits.shape == (2, N_TOKENS + 2, 32)


# --- chats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_scans", [0, 1, 2])
@pytest.mark.parametrize("like_gpt2", [False, True])
def test_labels_are_exactly_the_words_of_the_assistant(n_scans, like_gpt2):
    process = processor(like_gpt2, fmri_start_ids=[9], fmri_end_ids=[9])
    messages = [
        *chat(n_scans),
        {"role": "user", "content": "What is female?"},
        {"role": "assistant", "content": [{"type": "text", "text": "both"}]},
    ]
    encoded = process.encode_chat(messages)
    ids, labels = np.array(encoded["input_ids"]), np.array(encoded["labels"])
    scored = labels != -100
    assert (ids[scored] == labels[scored]).all()
    assert (ids == process.fmri_token_id).sum() == n_scans * N_TOKENS
    said = process.tokenizer.decode(labels[scored].tolist())
    expected = " female<|endoftext|>\n both<|endoftext|>\n" if like_gpt2 else "female<|end|>both<|end|>"
    assert said == expected
    # all of it, put together, is what the template writes
    rendered = process.render_chat(messages)
    written = process.tokenizer.decode(ids[(ids != process.fmri_token_id) & (ids != 9)].tolist())
    assert written == rendered.replace("<fmri>", "")


def test_prompts_of_training_and_of_use_are_the_same():
    process = processor()
    encoded = process.encode_chat(chat(1))
    prompt = process.apply_chat_template(chat(1, with_data=True)[:1], True, tokenize=True, t_r=2.0)
    n = prompt["input_ids"].shape[1]
    assert prompt["input_ids"][0].tolist() == encoded["input_ids"][:n]
    assert set(encoded["labels"][:n]) == {-100}
    assert -100 not in encoded["labels"][n:]


def test_chats_single_and_in_batches():
    process = processor()
    one, other = chat(1, with_data=True), chat(2, "male", with_data=True)
    assert process.apply_chat_template(one) == "<|user|><fmri>What is the sex?<|end|><|assistant|>female<|end|>"
    assert process.apply_chat_template(one[:1], add_generation_prompt=True).endswith("<|end|><|assistant|>")
    assert process.apply_chat_template([one, other])[1].count("<fmri>") == 2
    options = {"tokenize": True, "t_r": 2.0, "return_dict": True}
    batch = process.apply_chat_template([one, other], **options)
    singles = [process.apply_chat_template(each, **options) for each in (one, other)]
    assert torch.equal(batch["input_values"], torch.cat([each["input_values"] for each in singles]))
    for i, single in enumerate(singles):
        n = single["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][i, -n:], single["input_ids"][0])
    assert batch["attention_mask"].sum(1).tolist() == [each["input_ids"].shape[1] for each in singles]


def test_default_template_without_end_token():
    words = Tokenizer(models.WordLevel({"yes": 0, "?": 1, "Answer": 2, ":": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    process = FmriLMProcessor(tiny.feature_extractor(), PreTrainedTokenizerFast(tokenizer_object=words))
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]
    assert process.split_chat(messages) == [("?\nAnswer:", False), (" yes\n", True)]


def test_answers_are_decoded_without_placeholders_and_special_tokens():
    process = processor()
    ids = process.tokenize("<fmri> female <|end|>")
    assert process.decode_answer(torch.tensor([ids])) == "female"


# --- keywords of transformers -----------------------------------------------------------------------------------

THINKING_TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool['function']['name'] }}{% endfor %}"
    "{% for document in documents or [] %}{{ document['title'] }}{% endfor %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{% if enable_thinking is false %}{{ 'no' }}{% endif %}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "sex", "description": "?", "parameters": {"type": "object"}}}
TURN = [*chat(0), {"role": "user", "content": "What is female?"}]


@pytest.mark.parametrize(
    "messages, options",
    [
        (TURN, {"add_generation_prompt": True, "enable_thinking": False}),
        (TURN, {"add_generation_prompt": True, "enable_thinking": True}),
        (TURN, {"add_generation_prompt": True, "a_variable_that_the_template_has_not": 1}),
        (chat(0), {"continue_final_message": True}),
        (chat(0), {"tools": [TOOL], "documents": [{"title": "both", "text": "male"}]}),
        (chat(0), {"chat_template": CHAT_TEMPLATE}),
        (chat(0), {"return_assistant_tokens_mask": True}),
        (chat(0), {"sanitize_control_tokens": True}),
        ([chat(0), TURN], {"padding": True, "return_assistant_tokens_mask": True}),
        ([chat(0), TURN], {"return_dict": False, "padding": True}),
        ([{"role": "user", "content": "What <|end|> is"}], {"sanitize_control_tokens": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_chat_without_scans_is_read_as_the_tokenizer_reads_it(messages, options, side):
    process = processor(chat_template=THINKING_TEMPLATE)
    process.tokenizer.chat_template, process.tokenizer.padding_side = THINKING_TEMPLATE, side
    plain = [
        [
            each | {"content": "".join(block["text"] for block in each["content"])}
            if isinstance(each["content"], list)
            else each
            for each in one
        ]
        for one in (messages if isinstance(messages[0], list) else [messages])
    ]
    expected = process.tokenizer.apply_chat_template(plain, return_tensors="pt", **options)
    found = process.apply_chat_template(messages, tokenize=True, **options)
    if options.get("return_dict") is False:
        expected, found = {"input_ids": expected}, {"input_ids": found}
    assert set(found) == set(expected) - {"token_type_ids"}
    for name, values in found.items():
        assert values.tolist() == torch.as_tensor(expected[name]).tolist(), name
    if set(options) <= {
        "add_generation_prompt",
        "enable_thinking",
        "continue_final_message",
        "tools",
        "documents",
    }:
        text = process.tokenizer.apply_chat_template(plain[0], tokenize=False, **options)
        assert process.apply_chat_template(messages, **options) == text


@pytest.mark.parametrize("n_scans", [0, 1, 2])
@pytest.mark.parametrize("delimiters", [{}, {"fmri_start_ids": [5, 6], "fmri_end_ids": [7]}], ids=str)
@pytest.mark.parametrize("like_gpt2", [False, True])
def test_the_mask_of_the_assistant_lies_on_its_words_behind_scans(n_scans, delimiters, like_gpt2):
    template = {} if like_gpt2 else {"chat_template": THINKING_TEMPLATE}
    process = processor(like_gpt2, **template, **delimiters)
    conversations = [
        [*chat(n_scans, with_data=True), *chat(1, "both", with_data=True)],
        chat(n_scans, "male", with_data=True),
    ]
    inputs = process.apply_chat_template(conversations, tokenize=True, return_assistant_tokens_mask=True, t_r=2.0)
    mask = inputs["assistant_masks"].bool()
    assert mask.shape == inputs["input_ids"].shape
    said = [process.tokenizer.decode(ids[row].tolist()) for ids, row in zip(inputs["input_ids"], mask)]
    end = "<|endoftext|>" if like_gpt2 else "<|end|>"
    assert [text.replace(" ", "") for text in said] == [f"female{end}both{end}", f"male{end}"]


def test_messages_that_only_call_tools_have_no_content():
    calls = "{% for message in messages %}{{ message['content'] or message['tool_calls'][0]['name'] }}{% endfor %}"
    process = processor(chat_template=calls)
    messages = [*chat(0)[:1], {"role": "assistant", "content": None, "tool_calls": [{"name": "sex"}]}]
    assert process.apply_chat_template(messages) == "What is the sex?sex"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sanitize_control_tokens": True}, "leave it out of chats with scans"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "not compatible"),
        ({"continue_final_message": True, "return_assistant_tokens_mask": True}, "not compatible"),
        ({"return_assistant_tokens_mask": True, "tokenize": False}, "requires"),
    ],
)
def test_keywords_that_exclude_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        processor().apply_chat_template(chat(1, with_data=True), **{"tokenize": True, **options})


# --- storage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("like_gpt2", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path, like_gpt2):
    process = processor(like_gpt2, fmri_start_ids=[5, 6], fmri_end_ids=[7])
    language_model().config.save_pretrained(tmp_path)
    process.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, FmriLMProcessor)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), FmriFeatureExtractor)
    assert loaded.chat_template == process.chat_template
    assert loaded.fmri_token_id == process.fmri_token_id
    assert len(loaded.tokenizer) == len(process.tokenizer)
    texts, data = ["<fmri>What is", "What<fmri><fmri>"], [tiny.scan(i) for i in range(3)]
    expected = process(text=texts, fmri=data, t_r=1.0)
    assert {name: value.tolist() for name, value in loaded(text=texts, fmri=data, t_r=1.0).items()} == {
        name: value.tolist() for name, value in expected.items()
    }
    assert loaded.encode_chat(chat(2)) == process.encode_chat(chat(2))


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, "Nothing to process: give `text`, `fmri` or both"),
        (
            {"text": "<fmri><fmri>", "fmri": tiny.scan()},
            r"Found 2 `<fmri>` in the text but received 1 scan\(s\)",
        ),
        ({"text": "What", "fmri": tiny.scan()}, r"Found 0 `<fmri>` in the text but received 1 scan\(s\)"),
        ({"text": ["<fmri>", "What"]}, r"Found 1 `<fmri>` in the text but received 0 scan\(s\)"),
        ({"text": "What", "truncation": True}, "not truncated, which could cut a scan. Shorten the text"),
    ],
)
def test_texts_and_scans_that_do_not_fit(inputs, message):
    with pytest.raises(ValueError, match=message):
        processor()(**inputs, t_r=2.0)


def test_options_that_do_not_exist():
    with pytest.raises(TypeError, match="padding_sid"):
        processor()(text="What", padding_sid="left")
    with pytest.raises(TypeError, match="padding_sid"):
        processor().apply_chat_template(chat(0), tokenize=True, processor_kwargs={"padding_sid": "left"})
    with pytest.raises(TypeError, match=r"`tokenize` is False: \['padding'\]"):
        processor().apply_chat_template(chat(0), padding=True)


@pytest.mark.parametrize(
    "parts", [{}, {"tokenizer": byte_tokenizer()}, {"feature_extractor": tiny.feature_extractor()}]
)
def test_a_processor_needs_both_parts(parts):
    with pytest.raises(ValueError, match="needs both a `feature_extractor` and a `tokenizer`"):
        FmriLMProcessor(**parts)


def test_chats_that_do_not_fit():
    process = processor()
    with pytest.raises(ValueError, match="must have type 'text' or 'fmri', found 'image'"):
        process.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=True)
    with pytest.raises(ValueError, match="holds no scan: write"):
        process.apply_chat_template(chat(1), tokenize=True)
    with pytest.raises(ValueError, match="holds no message of the role 'assistant'"):
        process.encode_chat(chat(1)[:1])


def test_a_template_that_rewrites_earlier_turns():
    counting = "{{ messages | length }}" + CHAT_TEMPLATE
    with pytest.raises(ValueError, match=r"rewrites earlier turns .* Use one question and one answer"):
        processor(chat_template=counting).encode_chat(chat(1))
