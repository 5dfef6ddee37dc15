"""The language model that reads scans: what sees what, generation, losses, joining, adapters, bad input."""

from __future__ import annotations

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from small import (
    BACKBONES,
    FMRI,
    N_TOKENS,
    VOCAB_SIZE,
    fmri_tokenizer,
    language_model,
    left_padded,
    prompt,
    scans,
    text_model,
)
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig

from fmri_lm_hf import FmriLMConfig, FmriLMForCausalLM, FmriTokenizerConfig

N_ROIS, N_PATCHES = 6, 2
ATTENTIONS = ("eager", "sdpa")
GREEDY = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(
    params=[(backbone, attention) for backbone in BACKBONES for attention in ATTENTIONS], ids="-".join
)
def model(request) -> FmriLMForCausalLM:
    return language_model(*request.param)


@pytest.fixture(params=BACKBONES)
def sdpa_model(request) -> FmriLMForCausalLM:
    return language_model(request.param)


def missing_roi(n_scans: int = 1, roi: int = 2) -> torch.Tensor:
    roi_mask = torch.ones(n_scans, N_ROIS, dtype=torch.bool)
    roi_mask[-1, roi] = False
    return roi_mask


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=2e-5)


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
    texts = model.generate(**batch, input_values=inputs, **GREEDY)
    for i, (each, own) in enumerate(zip(prompts, rows)):
        alone = {"input_ids": each} | ({"input_values": inputs[own]} if own else {})
        close(together[i, -each.shape[1] :], model(**alone).logits[0])
        generated = model.generate(**alone, attention_mask=torch.ones_like(each), **GREEDY)
        assert texts[i, batch["input_ids"].shape[1] :].tolist() == generated[0, each.shape[1] :].tolist()


@pytest.mark.parametrize("source", ["encoder", "codes"])
@torch.no_grad()
def test_a_missing_roi_influences_nothing(model, source):
    model.config.fmri_embedding_source = source
    if source == "codes":
        model.projector = torch.nn.Linear(4, 16)
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
    for options in (GREEDY, GREEDY | {"use_cache": False}, GREEDY | {"num_beams": 2}):
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
    assert not torch.equal(
        one[:, -1], sdpa_model(input_ids=inputs["input_ids"], fmri_features=moved).logits[:, -1]
    )


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
        assert torch.equal(model.generate(input_ids=input_ids, **inputs, **GREEDY, **options), expected), (
            options
        )
    assert torch.equal(model.generate(input_ids, **inputs, **GREEDY), expected)


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


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
@torch.no_grad()
def test_beams_over_prompts_with_different_numbers_of_scans(sdpa_model, options):
    prompts, inputs = [prompt("scan", 5, "scan", 6), prompt(5, 6), prompt("scan", 7)], scans(3)
    rows = [[0, 1], [], [2]]
    options = GREEDY | options
    together = sdpa_model.generate(**left_padded(prompts), input_values=inputs, **options)
    n = options.get("num_return_sequences", 1)
    for i, (each, own) in enumerate(zip(prompts, rows)):
        alone = {"input_values": inputs[own]} if own else {}
        texts = sdpa_model.generate(each, attention_mask=torch.ones_like(each), **alone, **options)
        assert together[i * n : (i + 1) * n, -6:].tolist() == texts[:, -6:].tolist()


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


@torch.no_grad()
def test_a_second_scan_after_a_filled_cache(model):
    input_ids, inputs = prompt("scan", 5, "scan", 6), scans(2)
    inputs = {"input_values": inputs, "roi_mask": missing_roi(2)}
    whole = model(input_ids=input_ids, **inputs).logits
    first = model(input_ids=prompt("scan", 5), input_values=inputs["input_values"][:1], use_cache=True)
    then = model(
        input_ids=prompt("scan", 6),
        input_values=inputs["input_values"][1:],
        roi_mask=inputs["roi_mask"][1:],
        position_ids=model.get_position_ids(input_ids)[:, N_TOKENS + 1 :],
        past_key_values=first.past_key_values,
    )
    kept = model.get_attention_mask(input_ids, roi_mask=inputs["roi_mask"])[0, N_TOKENS + 1 :].bool()
    close(then.logits[0, kept], whole[0, N_TOKENS + 1 :][kept])


# --- losses ---------------------------------------------------------------------------------------------------


def test_the_text_loss_is_the_cross_entropy_of_the_next_token(sdpa_model):
    input_ids = torch.cat([prompt("scan", 5, 6, 7), prompt("scan", 8, 9, 7)])
    labels = input_ids.masked_fill(input_ids == FMRI, -100)
    labels[0, -1] = -100
    output = sdpa_model(input_ids=input_ids, input_values=scans(2), labels=labels)
    expected = cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.text_loss, expected)
    assert output.fmri_loss is None
    kept = sdpa_model(input_ids=input_ids, input_values=scans(2), labels=labels, logits_to_keep=4)
    assert kept.logits.shape == (2, 4, VOCAB_SIZE)
    close(kept.logits, output.logits[:, -4:])
    torch.testing.assert_close(
        kept.loss, expected
    )  # the first label behind the scan is predicted within these


@pytest.mark.parametrize("n_levels", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_the_code_loss_predicts_the_next_patch_of_each_roi(n_levels, masked):
    model = language_model(tokenizer={"num_quantizers": n_levels}, fmri_loss_weight=0.5)
    inputs = scans(2)
    codes = model.fmri_tokenizer.encode(inputs).fmri_codes
    mask = {"roi_mask": missing_roi(2)} if masked else {}
    logits = model.fmri_logits(inputs, **mask).view(2, N_PATCHES, N_ROIS, n_levels, 8)
    chosen = [
        (logits[scan, 0, roi, level], codes.view(2, N_PATCHES, N_ROIS, n_levels)[scan, 1, roi, level])
        for scan in range(2)
        for roi in range(N_ROIS)
        for level in range(n_levels)
        if not (masked and (scan, roi) == (1, 2))
    ]
    expected = cross_entropy(
        torch.stack([each for each, _ in chosen]), torch.stack([code for _, code in chosen])
    )

    # scans stand first, so that the text behind them leaves their logits alone
    input_ids = torch.cat([prompt("scan", 5, 6)] * 2)
    labels = input_ids.masked_fill(input_ids == FMRI, -100)
    output = model(input_ids=input_ids, input_values=inputs, fmri_labels=codes, labels=labels, **mask)
    torch.testing.assert_close(output.fmri_loss, expected)
    torch.testing.assert_close(output.loss, output.text_loss + 0.5 * output.fmri_loss)
    assert output.hidden_states is None
    shown = model(
        input_ids=input_ids, input_values=inputs, fmri_labels=codes, output_hidden_states=True, **mask
    )
    assert len(shown.hidden_states) == 3
    torch.testing.assert_close(shown.loss, 0.5 * expected)
    ignored = codes.clone()
    ignored[0] = -100
    rest = model(
        input_ids=prompt("scan"),
        input_values=inputs[1:],
        fmri_labels=codes[1:],
        roi_mask=mask.get("roi_mask", missing_roi(1, slice(0)))[-1:],
    )
    both = model(input_ids=input_ids, input_values=inputs, fmri_labels=ignored, **mask)
    torch.testing.assert_close(both.fmri_loss, rest.fmri_loss)


def test_scans_of_one_patch_have_no_next_code():
    model = language_model(tokenizer={"patch_size": 16})
    codes = model.fmri_tokenizer.encode(scans(1)).fmri_codes
    input_ids = torch.tensor([[FMRI] * N_ROIS + [5, 6]])
    output = model(input_ids=input_ids, input_values=scans(1), fmri_labels=codes)
    assert output.fmri_loss == 0
    output.loss.backward()


def test_everything_is_trained_unless_the_tokenizer_is_frozen(sdpa_model):
    model = sdpa_model.train()
    input_ids = prompt("scan", 5, 6)
    labels = input_ids.masked_fill(input_ids == FMRI, -100)

    def step() -> dict[str, torch.Tensor]:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD((each for each in model.parameters() if each.requires_grad), lr=1.0)
        codes = torch.zeros(1, N_TOKENS, dtype=torch.long)
        model(input_ids=input_ids, input_values=scans(1), labels=labels, fmri_labels=codes).loss.backward()
        optimizer.step()
        model.zero_grad()
        return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}

    changed = step()
    for part in (
        "fmri_tokenizer.encoder",
        "fmri_tokenizer.quantizer.codebooks",
        "projector",
        "roi_embeddings",
        "language_model",
        "fmri_head",
    ):
        assert any(name.startswith(part) for name in changed), part
    model.freeze_fmri_tokenizer()
    model.train()
    assert model.training
    assert not model.fmri_tokenizer.training
    changed = step()
    assert changed
    assert not any(name.startswith("fmri_tokenizer") for name in changed)


def test_gradient_checkpointing_changes_nothing(sdpa_model):
    input_ids = prompt("scan", 5, 6)
    labels = input_ids.masked_fill(input_ids == FMRI, -100)
    gradients = []
    for model in (copy.deepcopy(sdpa_model), sdpa_model):
        if model is sdpa_model:
            model.activation_checkpointing_enable()
        model.train()
        torch.manual_seed(0)
        model(input_ids=input_ids, input_values=scans(1), labels=labels).loss.backward()
        gradients.append(
            {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        )
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_bfloat16(sdpa_model):
    inputs = {"input_ids": prompt("scan", 5, 6), "input_values": scans(1), "roi_mask": missing_roi()}
    codes = torch.zeros(1, N_TOKENS, dtype=torch.long)
    expected = sdpa_model(**inputs).logits[0, -1]
    low = copy.deepcopy(sdpa_model).to(torch.bfloat16)
    output = low(**inputs, fmri_labels=codes)
    assert output.logits.dtype == torch.bfloat16
    assert torch.isfinite(output.fmri_loss)
    assert torch.corrcoef(torch.stack([output.logits[0, -1].float(), expected]))[0, 1] > 0.98
    assert low.generate(**inputs, **GREEDY).shape == (1, N_TOKENS + 2 + 6)
    # a language model in bfloat16 joined with parts in float32
    mixed = FmriLMForCausalLM.from_components(
        fmri_tokenizer(), copy.deepcopy(sdpa_model.language_model).to(torch.bfloat16), fmri_token_id=FMRI
    )
    assert torch.isfinite(mixed(**inputs, fmri_labels=codes).loss)


# --- joining, storing, extending ------------------------------------------------------------------------------


def test_from_components_takes_the_models_themselves():
    tokenizer, language = fmri_tokenizer(), text_model()
    weights = {name: value.clone() for name, value in language.state_dict().items()}
    codes = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    model = FmriLMForCausalLM.from_components(tokenizer, language, fmri_token_id=FMRI, initializer_range=0.5)
    assert model.fmri_tokenizer is tokenizer
    assert model.language_model is language
    assert model.config.text_config is language.config
    assert model.config.fmri_config is tokenizer.config
    assert model.generation_config is language.generation_config
    assert all(torch.equal(value, weights[name]) for name, value in language.state_dict().items())
    assert all(torch.equal(value, codes[name]) for name, value in tokenizer.state_dict().items())
    assert {each.device.type for each in model.state_dict().values()} == {"cpu"}
    for fresh in (model.projector.linear.weight, model.roi_embeddings.weight, model.fmri_head.weight):
        assert 0.4 < fresh.std() < 0.6
    assert not model.projector.linear.bias.any()


def test_from_components_builds_nothing_twice(monkeypatch):
    tokenizer, language = fmri_tokenizer(), text_model()
    built = []
    original = torch.nn.Linear.__init__

    def count(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.weight.device.type != "meta":
            built.append(self)

    monkeypatch.setattr(torch.nn.Linear, "__init__", count)
    FmriLMForCausalLM.from_components(tokenizer, language)
    assert not built


@torch.no_grad()
def test_a_layer_norm_before_the_projector_starts_as_one(sdpa_model):
    model = FmriLMForCausalLM.from_components(fmri_tokenizer(), text_model(), projector_layer_norm=True)
    assert (model.projector.norm.weight == 1).all()
    assert not model.projector.norm.bias.any()


@pytest.mark.parametrize("loader", [AutoModel, AutoModelForCausalLM, FmriLMForCausalLM])
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path, sdpa_model, loader):
    sdpa_model.save_pretrained(tmp_path)
    loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, FmriLMForCausalLM)
    assert not any(report.values()), report
    assert isinstance(loaded.config.fmri_config, FmriTokenizerConfig)
    inputs = {"input_ids": prompt("scan", 5, 6), "input_values": scans(1), "roi_mask": missing_roi()}
    assert torch.equal(loaded(**inputs).logits, sdpa_model(**inputs).logits)
    assert torch.equal(loaded.fmri_logits(scans(1)), sdpa_model.fmri_logits(scans(1)))
    assert torch.equal(loaded.generate(**inputs, **GREEDY), sdpa_model.generate(**inputs, **GREEDY))


def test_configuration_round_trip(tmp_path):
    config = FmriLMConfig(
        fmri_config={"n_rois": 6, "n_timepoints": 16, "patch_size": 8},
        text_config=LlamaConfig(hidden_size=16, num_attention_heads=2),
        fmri_token_id=7,
        fmri_embedding_source="codes",
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, FmriLMConfig)
    assert isinstance(loaded.text_config, LlamaConfig)
    assert loaded.get_text_config() is loaded.text_config
    left, right = config.to_dict(), loaded.to_dict()
    assert {**left, "_name_or_path": None} == {**right, "_name_or_path": None}
    assert FmriLMConfig().text_config.model_type == "qwen3"


def test_a_damaged_file_ends_in_one_sentence(tmp_path):
    language_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match="safetensors file is corrupt or was cut short") as error:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert error.value.__cause__ is not None


@torch.no_grad()
def test_resizing_the_vocabulary_keeps_the_configuration_in_step(tmp_path, sdpa_model):
    sdpa_model.resize_token_embeddings(VOCAB_SIZE + 5)
    assert sdpa_model.config.text_config.vocab_size == VOCAB_SIZE + 5
    assert sdpa_model.language_model.config.vocab_size == VOCAB_SIZE + 5
    input_ids = prompt("scan", 5, VOCAB_SIZE + 4)
    labels = input_ids.masked_fill(input_ids == FMRI, -100)
    output = sdpa_model(input_ids=input_ids, input_values=scans(1), labels=labels)
    assert output.logits.shape[-1] == VOCAB_SIZE + 5
    sdpa_model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids=input_ids, input_values=scans(1), labels=labels).loss, output.loss)


@torch.no_grad()
def test_the_placeholder_may_lie_outside_the_vocabulary(sdpa_model):
    input_ids = prompt("scan", 5, 6)
    expected = sdpa_model(input_ids=input_ids, input_values=scans(1)).logits
    texts = []
    for outside in (VOCAB_SIZE, 10_000):
        sdpa_model.config.fmri_token_id = outside
        moved = input_ids.masked_fill(input_ids == FMRI, outside)
        assert torch.equal(sdpa_model(input_ids=moved, input_values=scans(1)).logits, expected)
        texts.append(sdpa_model.generate(moved, input_values=scans(1), **GREEDY)[:, -6:])
    assert torch.equal(*texts)
    assert texts[0][0, 0] == expected[0, -1].argmax()


def test_lora_adapters(tmp_path, sdpa_model):
    names = "c_attn" if sdpa_model.config.text_config.model_type == "gpt2" else "(q|v)_proj"
    sdpa_model.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=2,
            target_modules=rf"language_model.*\.{names}",
            modules_to_save=["projector"],
            init_lora_weights=False,
            fan_in_fan_out=names == "c_attn",
        ),
    )
    inputs = {"input_ids": prompt("scan", 5, 6), "input_values": scans(1), "roi_mask": missing_roi()}
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == FMRI, -100)
    adapted.train()
    assert not adapted.get_base_model().fmri_tokenizer.training  # its codebook does not move
    adapted(**inputs, labels=labels).loss.backward()
    trained = {name for name, each in adapted.named_parameters() if each.grad is not None}
    assert trained
    assert all("lora_" in name or "projector" in name for name in trained)
    adapted.eval()
    with torch.no_grad():
        expected = adapted(**inputs).logits
        assert not torch.allclose(expected, sdpa_model(**inputs).logits, atol=1e-3)
        generated = adapted.generate(**inputs, **GREEDY)
        adapted.save_pretrained(tmp_path / "adapter")
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        close(loaded(**inputs).logits, expected)
        assert torch.equal(loaded.generate(**inputs, **GREEDY), generated)
        merged = loaded.merge_and_unload()
        close(merged(**inputs).logits, expected)
        merged.save_pretrained(tmp_path / "merged")
        close(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(**inputs).logits, expected)


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
            r"`attention_mask` must have shape \(batch, n_past \+ n_positions\), found \(1, 1, 12, 12\)",
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
        model.generate(
            prompt("scan", "scan"), input_values=scans(1), roi_mask=missing_roi(), **GREEDY, **options
        )
    with pytest.raises(ValueError, match=r"hold \[12.* but 0 scan\(s\)"):
        model.generate(prompt("scan", 5), **GREEDY, **options)


def test_a_filled_cache_needs_positions():
    model = language_model()
    cache = model(input_ids=prompt("scan", 5), input_values=scans(1), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="pass `position_ids`, the last columns of"):
        model(input_ids=prompt(6), past_key_values=cache)


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
