"""The language model that reads scans: what sees what, positions, generation, bad input."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from backbones import READING, VOCAB_SIZE
from huggingface_hub.errors import StrictDataclassError
from small import (
    BACKBONES,
    FMRI,
    close,
    language_model,
    left_padded,
    missing_roi,
    prompt,
    scans,
)

from fmri_lm_hf import FmriLMConfig, FmriLMForCausalLM

N_ROIS, N_PATCHES = 6, 2
ATTENTIONS = ("eager", "sdpa")
GREEDY = {"max_new_tokens": 6, "do_sample": False}
SHORT = {"max_new_tokens": 3, "do_sample": False}


# the backbones that are most used with both kinds of attention, all others as they come
PAIRS = [*((name, attention) for name in BACKBONES for attention in ATTENTIONS)]
PAIRS += [(name, None) for name in READING if name not in BACKBONES]


cached_model = functools.cache(language_model)  # building one takes longer than most tests


@pytest.fixture(params=PAIRS, ids=[f"{name}-{attention}" if attention else name for name, attention in PAIRS])
def model(request) -> FmriLMForCausalLM:
    return copy.deepcopy(cached_model(*request.param))


@pytest.fixture(params=READING)
def sdpa_model(request) -> FmriLMForCausalLM:
    return copy.deepcopy(cached_model(request.param, "sdpa" if request.param in BACKBONES else None))


# --- what sees what -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_tokens_of_a_patch_see_each_other_and_nothing_later(model):
    input_ids = prompt(5, "scan", 6, 7)
    features = model.get_fmri_features(scans(1))
    before = model(input_ids=input_ids, fmri_features=features).logits[0]
    for patch in range(N_PATCHES):
        for roi in (0, 3, N_ROIS - 1):
            changed = features.clone()
            changed[0, patch * N_ROIS + roi] += torch.randn(16)
            after = model(input_ids=input_ids, fmri_features=changed).logits[0]
            moved = ((after - before).abs().amax(-1) > 1e-5).tolist()
            start = 1 + patch * N_ROIS  # one text token stands before the scan
            assert moved == [False] * start + [True] * (len(moved) - start), (patch, roi)


@torch.no_grad()
def test_text_is_causal(model):
    one, other = prompt(5, "scan", 6, 7, 8), prompt(5, "scan", 6, 9, 8)
    left = model(input_ids=one, input_values=scans(1)).logits[0]
    right = model(input_ids=other, input_values=scans(1)).logits[0]
    close(left[:-2], right[:-2])
    assert ((left[-2:] - right[-2:]).abs().amax(-1) > 1e-5).all()


@torch.no_grad()
def test_no_attention_mask_is_a_mask_of_ones(model):
    # shared positions must not be taken for the borders of packed sequences
    for parts in ((5, "scan", 6, 7), ("scan", 5, "scan", 6), (5, 6, 7)):
        inputs = {"input_ids": prompt(*parts)}
        if "scan" in parts:
            inputs["input_values"] = scans(parts.count("scan"))
        ones = torch.ones_like(inputs["input_ids"])
        close(model(**inputs).logits, model(**inputs, attention_mask=ones).logits)


@torch.no_grad()
def test_text_without_scans_is_read_as_by_the_language_model_alone(sdpa_model):
    input_ids = prompt(5, 6, 7, 8)
    close(sdpa_model(input_ids=input_ids).logits, sdpa_model.language_model(input_ids=input_ids).logits)


def test_positions():
    model = language_model()
    patches = [1] * N_ROIS + [2] * N_ROIS
    assert model.get_position_ids(prompt(5, "scan", 6, 7)).tolist() == [[0, *patches, 3, 4]]
    two = model.get_position_ids(prompt("scan", 5, "scan", 6))[0].tolist()
    assert two == [0] * 6 + [1] * 6 + [2] + [3] * 6 + [4] * 6 + [5]
    batch = left_padded([prompt(5, "scan", 6), prompt("scan", 6)])
    assert model.get_position_ids(**batch).tolist()[1] == [0, *[0] * 6, *[1] * 6, 2]
    close(
        model(input_ids=prompt(5, "scan", 6), input_values=scans(1)).logits,
        model(
            input_ids=prompt(5, "scan", 6),
            input_values=scans(1),
            position_ids=torch.tensor([[0, *patches, 3]]),
        ).logits,
    )


@torch.no_grad()
def test_a_left_padded_batch_equals_each_prompt_alone(model):
    prompts = [prompt(5, "scan", 6, 7, 8), prompt("scan", 6), prompt(5, 6), prompt("scan", 5, "scan", 6)]
    inputs, rows = scans(4), [[0], [1], [], [2, 3]]
    batch = left_padded(prompts)
    together = model(**batch, input_values=inputs).logits
    texts = model.generate(**batch, input_values=inputs, **SHORT)
    for i, (each, own) in enumerate(zip(prompts, rows)):
        alone = {"input_ids": each} | ({"input_values": inputs[own]} if own else {})
        close(together[i, -each.shape[1] :], model(**alone).logits[0])
        generated = model.generate(**alone, attention_mask=torch.ones_like(each), **SHORT)
        assert texts[i, batch["input_ids"].shape[1] :].tolist() == generated[0, each.shape[1] :].tolist()


@torch.no_grad()
def test_a_missing_roi_influences_nothing(model):
    check_that_a_missing_roi_influences_nothing(model)


@torch.no_grad()
def test_a_missing_roi_influences_nothing_through_its_codes():
    check_that_a_missing_roi_influences_nothing(language_model(fmri_embedding_source="codes"))


def check_that_a_missing_roi_influences_nothing(model):
    inputs, changed = scans(2), scans(2)
    changed[1, 2] += 5
    batch = left_padded([prompt(5, "scan", 6, 7), prompt("scan", 6)])
    mask = {"roi_mask": missing_roi(2)}
    # its own tokens, which nothing reads, aside
    kept = batch["attention_mask"].bool()
    kept[1] &= model.get_attention_mask(**batch, **mask)[1].bool()
    one = model(**batch, input_values=inputs, **mask).logits
    other = model(**batch, input_values=changed, **mask).logits
    assert torch.equal(one[kept], other[kept])
    for options in (SHORT, SHORT | {"use_cache": False}, SHORT | {"num_beams": 2}):
        options = options | {"return_dict_in_generate": True, "output_scores": True}
        left = model.generate(**batch, input_values=inputs, **mask, **options)
        right = model.generate(**batch, input_values=changed, **mask, **options)
        assert torch.equal(left.sequences, right.sequences)
        assert all(torch.equal(a, b) for a, b in zip(left.scores, right.scores))
    # and its tokens are not attended to: whatever their embeddings, later tokens stay
    features = model.get_fmri_features(inputs, mask["roi_mask"])
    moved = features.clone()
    moved[1, 2::N_ROIS] += 3
    one = model(**batch, fmri_features=features, **mask).logits
    close(one[kept], model(**batch, fmri_features=moved, **mask).logits[kept])


@torch.no_grad()
def test_a_padded_patch_is_not_attended_to(sdpa_model):
    padding_mask = torch.ones(1, 16, dtype=torch.bool)
    padding_mask[:, 8:] = False
    inputs = {"input_ids": prompt(5, "scan", 6), "padding_mask": padding_mask}
    features = sdpa_model.get_fmri_features(scans(1), padding_mask=padding_mask)
    moved = features.clone()
    moved[:, N_ROIS:] += 3
    one = sdpa_model(**inputs, fmri_features=features).logits
    close(one[:, -1], sdpa_model(**inputs, fmri_features=moved).logits[:, -1])
    assert not torch.equal(one[:, -1], sdpa_model(input_ids=inputs["input_ids"], fmri_features=moved).logits[:, -1])


@torch.no_grad()
def test_features_computed_once_stand_for_the_scans(sdpa_model):
    inputs = {"input_ids": prompt(5, "scan", 6), "roi_mask": missing_roi()}
    features = sdpa_model.get_fmri_features(scans(1), inputs["roi_mask"])
    assert torch.equal(
        sdpa_model(**inputs, input_values=scans(1)).logits,
        sdpa_model(**inputs, fmri_features=features).logits,
    )
    assert torch.equal(
        sdpa_model.generate(**inputs, input_values=scans(1), **GREEDY),
        sdpa_model.generate(**inputs, fmri_features=features, **GREEDY),
    )


# --- generation -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_greedy_generation_equals_choosing_the_best_token_again_and_again(model):
    inputs = {"input_values": scans(2), "roi_mask": missing_roi(2)}
    input_ids = prompt("scan", 5, "scan", 6)
    expected = input_ids
    for _ in range(GREEDY["max_new_tokens"]):
        logits = model(input_ids=expected, **inputs).logits[:, -1]
        logits[:, FMRI] = -torch.inf  # no scan would stand behind it
        best = logits.argmax(-1, keepdim=True)
        expected = torch.cat([expected, best], 1)
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(input_ids=input_ids, **inputs, **GREEDY, **options), expected), options
    assert torch.equal(model.generate(input_ids, **inputs, **GREEDY), expected)


@torch.no_grad()
def test_words_that_are_to_be_suppressed_are_so_beside_the_placeholder():
    model = copy.deepcopy(cached_model("llama", "sdpa"))
    inputs = {"input_ids": prompt("scan", 5), "input_values": scans(1)}
    said = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    suppressed = [int(said[0])]
    for again in (
        model.generate(**inputs, **GREEDY, suppress_tokens=suppressed),
        model.generate(**inputs, **GREEDY, suppress_tokens=[*suppressed, model.config.fmri_token_id]),
    ):
        new = again[0, inputs["input_ids"].shape[1] :].tolist()
        assert suppressed[0] not in new
        assert model.config.fmri_token_id not in new


@torch.no_grad()
def test_the_placeholder_is_not_generated():
    model = language_model()
    model.language_model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCAB_SIZE))
    model.language_model.lm_head.bias[FMRI] = 100.0
    input_ids = prompt("scan", 5)
    assert model(input_ids=input_ids, input_values=scans(1)).logits[0, -1].argmax() == FMRI
    for options in ({}, {"num_beams": 2}):
        generated = model.generate(input_ids, input_values=scans(1), **GREEDY, **options)
        assert FMRI not in generated[0, input_ids.shape[1] :]


@torch.no_grad()
def test_scans_are_encoded_once_for_a_whole_text():
    model = language_model()
    calls = []
    model.fmri_tokenizer.encoder.register_forward_hook(lambda *_: calls.append(1))
    model.generate(prompt("scan", 5), input_values=scans(1), **GREEDY)
    assert len(calls) == 1


@pytest.mark.parametrize("n", [1, 2])
@torch.no_grad()
def test_beams_over_prompts_with_different_numbers_of_scans(sdpa_model, n):
    prompts, inputs = [prompt("scan", 5, "scan", 6), prompt(5, 6), prompt("scan", 7)], scans(3)
    rows = [[0, 1], [], [2]]
    options = SHORT | {"num_beams": 3, "num_return_sequences": n}
    together = sdpa_model.generate(**left_padded(prompts), input_values=inputs, **options)
    for i, (each, own) in enumerate(zip(prompts, rows)):
        alone = {"input_values": inputs[own]} if own else {}
        texts = sdpa_model.generate(each, attention_mask=torch.ones_like(each), **alone, **options)
        assert together[i * n : (i + 1) * n, -3:].tolist() == texts[:, -3:].tolist()


@torch.no_grad()
def test_going_on_from_a_cache_by_hand(model):
    input_ids, inputs = prompt(5, "scan", 6, 7, 8), {"input_values": scans(1), "roi_mask": missing_roi()}
    whole = model(input_ids=input_ids, **inputs).logits
    mask = model.get_attention_mask(input_ids, roi_mask=inputs["roi_mask"])
    first = model(input_ids=input_ids[:, :-2], **inputs, use_cache=True)
    then = model(
        input_ids=input_ids[:, -2:],
        attention_mask=mask,
        position_ids=model.get_position_ids(input_ids)[:, -2:],
        past_key_values=first.past_key_values,
    )
    close(then.logits, whole[:, -2:])
    # the cache knows what it holds, also when it is repeated or cut
    for n_rows in (1, 3):
        first = model(input_ids=input_ids, **inputs, use_cache=True)
        cache = first.past_key_values
        cache.crop(-2)
        cache.batch_repeat_interleave(n_rows)
        for column in (-2, -1):
            then = model(input_ids=input_ids[:, [column]].repeat(n_rows, 1), past_key_values=cache)
            close(then.logits[:, 0], whole[:, column].repeat(n_rows, 1))


@torch.no_grad()
def test_a_second_turn_from_the_cache_is_that_of_a_fresh_prompt(model):
    ids, mask = left_padded([prompt("scan", 5), prompt(4, "scan", 6)]).values()
    scan, masks = {"input_values": scans(2)}, {"roi_mask": missing_roi(2)}
    options = SHORT | {"return_dict_in_generate": True, "use_cache": True}
    first = model.generate(ids, attention_mask=mask, **scan, **masks, **options)
    n_past = first.past_key_values.get_seq_length()
    longer = torch.cat([first.sequences, torch.tensor([[7, 8], [9, 10]])], 1)
    mask = torch.nn.functional.pad(mask, (0, longer.shape[1] - mask.shape[1]), value=1)
    fresh = model.generate(longer, attention_mask=mask, **scan, **masks, **options)
    for turn in (
        {"input_ids": longer} | scan | masks,
        {"input_ids": longer} | masks,
        {"input_ids": longer},
        {"input_ids": longer[:, n_past:]},
    ):
        cache = copy.deepcopy(first.past_key_values)
        second = model.generate(**turn, attention_mask=mask, past_key_values=cache, **options)
        assert torch.equal(second.sequences[:, -3:], fresh.sequences[:, -3:]), list(turn)


@torch.no_grad()
def test_a_scan_that_was_read_once_is_asked_about_again_and_again(model):
    scan = {"input_values": scans(2), "roi_mask": missing_roi(2)}
    beginning, mask = left_padded([prompt("scan"), prompt(4, "scan")]).values()
    cache = model.read_scan(beginning, mask, **scan)
    for question, n_beams in (([5, 6], 1), ([7], 1), ([5, 6], 2)):
        ids = torch.cat([beginning, torch.tensor([question] * 2)], dim=1)
        shown = torch.nn.functional.pad(mask, (0, len(question)), value=1)
        options = {"attention_mask": shown, "num_beams": n_beams, "use_cache": True, **SHORT}
        again = copy.deepcopy(cache)
        if n_beams > 1:
            again.batch_repeat_interleave(n_beams)
        expected = model.generate(ids, **scan, **options)
        assert torch.equal(model.generate(ids, past_key_values=again, **options), expected)


@torch.no_grad()
def test_a_second_turn_may_bring_a_further_scan(model):
    inputs, roi_mask = scans(2), missing_roi(2)
    options = SHORT | {"return_dict_in_generate": True, "use_cache": True}
    first = model.generate(prompt("scan", 5), input_values=inputs[1:], roi_mask=roi_mask[1:], **options)
    longer = torch.cat([first.sequences, prompt("scan", 6)], 1)
    inputs, roi_mask, shown = inputs[[1, 0]], roi_mask[[1, 0]], torch.ones_like(longer)
    both = {"input_ids": longer, "input_values": inputs, "roi_mask": roi_mask}
    n_past = first.past_key_values.get_seq_length()
    new = {"input_ids": longer[:, n_past:], "input_values": inputs[1:], "roi_mask": roi_mask[1:]}
    fresh = model.generate(**both, attention_mask=shown, **options)
    for turn in (both, new):
        cache = copy.deepcopy(first.past_key_values)
        second = model.generate(**turn, attention_mask=shown, past_key_values=cache, **options)
        assert torch.equal(second.sequences[:, -3:], fresh.sequences[:, -3:])


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs, message",
    [
        (
            {"input_ids": prompt("scan", 5)},
            r"hold \[12\] fMRI placeholders \(id 14\), but 0 scan\(s\) of 12 tokens",
        ),
        ({"input_ids": prompt("scan", 5), "input_values": scans(2)}, r"hold \[12\] .* but 2 scan\(s\)"),
        ({"input_ids": prompt(5), "input_values": scans(1)}, r"hold \[0\] .* but 1 scan\(s\)"),
        # two halves of scans are as many placeholders as one scan
        ({"input_ids": torch.tensor([[FMRI] * 6 + [5]] * 2), "input_values": scans(1)}, r"hold \[6, 6\]"),
        ({"input_ids": prompt("scan"), "input_values": scans(1)[:, :5]}, r"found \(1, 5, 16\)"),
        (
            {"input_ids": prompt("scan"), "input_values": scans(1), "roi_mask": torch.ones(1, 7)},
            r"`roi_mask` must have shape \(1, 6\), one row a scan, found \(1, 7\)",
        ),
        (
            {
                "input_ids": prompt("scan"),
                "fmri_features": torch.zeros(1, 12, 16),
                "roi_mask": torch.ones(1, 7),
            },
            r"`roi_mask` must have shape \(1, 6\)",
        ),
        ({}, "either as `input_ids` or as `inputs_embeds`"),
        ({"input_ids": prompt(5), "inputs_embeds": torch.zeros(1, 1, 16)}, "either as `input_ids` or as"),
        ({"inputs_embeds": torch.zeros(1, 12, 16), "input_values": scans(1)}, "Scans need `input_ids`"),
        (
            {
                "input_ids": prompt("scan"),
                "input_values": scans(1),
                "attention_mask": torch.ones(1, 1, 12, 12),
            },
            r"`attention_mask` .* \(batch, n_past \+ n_positions\) = \(1, 12\), found \(1, 1, 12, 12\)",
        ),
        (
            {
                "input_ids": prompt("scan"),
                "input_values": scans(1),
                "fmri_labels": torch.zeros(1, 12, 3).long(),
            },
            r"`fmri_labels` must have shape \(1, 12, 1\), .* found \(1, 12, 3\)",
        ),
    ],
)
def test_inputs_that_do_not_fit(inputs, message):
    with pytest.raises(ValueError, match=message):
        language_model()(**inputs)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_generation_says_what_is_missing(options):
    model = language_model()
    with pytest.raises(ValueError, match=r"hold \[24\] .* but 1 scan\(s\)"):
        model.generate(prompt("scan", "scan"), input_values=scans(1), roi_mask=missing_roi(), **GREEDY, **options)
    with pytest.raises(ValueError, match=r"hold \[12.* but 0 scan\(s\)"):
        model.generate(prompt("scan", 5), **GREEDY, **options)


def test_a_cache_that_the_model_did_not_fill_needs_positions():
    model = language_model()
    cache = model.language_model(prompt(4, 5), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="pass `position_ids`, the last columns of"):
        model(input_ids=prompt(6), past_key_values=cache)


def test_a_cache_of_other_prompts_is_refused():
    model = language_model()
    two = torch.cat([prompt("scan", 5)] * 2)
    cache = model(input_ids=two, input_values=scans(2), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"filled for 2 prompt\(s\) and cannot continue with 3"):
        model(input_ids=torch.cat([prompt(6)] * 3), past_key_values=cache)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"text_config": "gpt2"}, "`text_config` must be a configuration or its dict, got 'gpt2'"),
        ({"fmri_embedding_source": "both"}, "must be 'encoder' or 'codes', got 'both'"),
        (
            {"fmri_embedding_source": "codes", "fmri_config": {"encoder_only": True}},
            "needs a codebook, but the tokenizer is `encoder_only`",
        ),
        ({"fmri_token_id": "<fmri>"}, "expected int, got str"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        FmriLMConfig(**fields)


def test_flash_attention_is_refused():
    with pytest.raises(ValueError, match="does not support Flash Attention"):
        language_model(attention="flash_attention_2")
