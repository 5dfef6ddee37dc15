"""The language model that reads scans: losses, freezing, precision, joining, storage, adapters."""

from __future__ import annotations

import copy

import pytest
import torch
from backbones import VOCAB_SIZE, text_model
from peft import LoraConfig, PeftModel, get_peft_model
from small import (
    BACKBONES,
    FMRI,
    N_TOKENS,
    close,
    fmri_tokenizer,
    language_model,
    missing_roi,
    prompt,
    scans,
)
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig

from fmri_lm_hf import FmriLMConfig, FmriLMForCausalLM, FmriTokenizerConfig

N_ROIS, N_PATCHES = 6, 2
GREEDY = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(params=BACKBONES)
def sdpa_model(request) -> FmriLMForCausalLM:
    return language_model(request.param)


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
    torch.testing.assert_close(kept.loss, expected)  # the first label behind the scan is predicted within these


def test_hidden_tokens_cost_nothing_in_training_and_change_nothing(sdpa_model):
    model = sdpa_model
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    input_ids = torch.cat([prompt(5, "scan", 6, 7, 8), prompt("scan", 5, 6, 7, 8)])
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 0] = 0  # and padding on the left
    input_ids[1] = torch.tensor([0, *prompt("scan", 6, 7, 8)[0].tolist()])
    roi_mask = torch.ones(2, N_ROIS, dtype=torch.bool)
    roi_mask[0, :2], roi_mask[1, 1:5] = False, False
    inputs = {
        "input_ids": input_ids,
        "input_values": scans(2),
        "roi_mask": roi_mask,
        "attention_mask": attention_mask,
    }
    at = torch.tensor([input_ids.shape[1] - 3, input_ids.shape[1] - 1])
    lengths = []
    backbone = model.language_model
    backbone.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )

    def step(logits_to_keep):
        model.zero_grad()
        logits = model(**inputs, logits_to_keep=logits_to_keep, skip_hidden=True).logits
        logits.square().sum().backward()
        return logits.detach(), model.projector.linear.weight.grad.clone()

    whole, whole_gradient = step(3)  # the last three: nothing is left out
    model.train()
    found, gradient = step(at)
    assert lengths == [input_ids.shape[1], input_ids.shape[1] - 2 * N_PATCHES]
    close(found, whole[:, [0, 2]])
    # the middle one of the three takes part in the gradient of the whole; without it they are alike
    middle, of_middle = step(at[:1] + 1)
    close(middle, whole[:, [1]])
    torch.testing.assert_close(gradient + of_middle, whole_gradient, rtol=1e-3, atol=1e-5)
    # the last so many stay the last, and what goes on from a cache, or is cut into segments, is refused
    close(step(3)[0], whole)
    with pytest.raises(ValueError, match="`skip_hidden` takes whole prompts"):
        model(**inputs, text_segments=torch.zeros_like(input_ids), logits_to_keep=at, skip_hidden=True)


@pytest.mark.parametrize("n_stages", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_the_code_loss_predicts_the_next_patch_of_each_roi(n_stages, masked):
    model = language_model(tokenizer={"num_quantizers": n_stages}, fmri_loss_weight=0.5)
    inputs = scans(2)
    codes = model.fmri_tokenizer.encode(inputs).fmri_codes
    mask = {"roi_mask": missing_roi(2)} if masked else {}
    logits = model.fmri_logits(inputs, **mask).view(2, N_PATCHES, N_ROIS, n_stages, 8)
    chosen = [
        (logits[scan, 0, roi, stage], codes.view(2, N_PATCHES, N_ROIS, n_stages)[scan, 1, roi, stage])
        for scan in range(2)
        for roi in range(N_ROIS)
        for stage in range(n_stages)
        if not (masked and (scan, roi) == (1, 2))
    ]
    expected = cross_entropy(torch.stack([each for each, _ in chosen]), torch.stack([code for _, code in chosen]))

    # scans stand first, so that the text behind them leaves their logits alone
    input_ids = torch.cat([prompt("scan", 5, 6)] * 2)
    labels = input_ids.masked_fill(input_ids == FMRI, -100)
    output = model(input_ids=input_ids, input_values=inputs, fmri_labels=codes, labels=labels, **mask)
    torch.testing.assert_close(output.fmri_loss, expected)
    torch.testing.assert_close(output.loss, output.text_loss + 0.5 * output.fmri_loss)
    assert output.hidden_states is None
    shown = model(input_ids=input_ids, input_values=inputs, fmri_labels=codes, output_hidden_states=True, **mask)
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
            model.gradient_checkpointing_enable()  # the one name that Python 3.10 has, too
        model.train()
        torch.manual_seed(0)
        model(input_ids=input_ids, input_values=scans(1), labels=labels).loss.backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
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
    tokenizer, language = fmri_tokenizer().without_objectives(), text_model()
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
