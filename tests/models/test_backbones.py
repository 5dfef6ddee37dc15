"""Joining language models of other families: which are refused and why, experts, files, precision, placement."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from backbones import UNABLE, text_model
from peft import LoraConfig, get_peft_model
from small import FMRI, N_TOKENS, close, fmri_tokenizer, language_model, missing_roi, prompt, scans
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, TrainingArguments

from fmri_lm_hf import FmriLMForCausalLM
from fmri_lm_hf.training.trainer import FmriLMTrainer

GREEDY = {"max_new_tokens": 6, "do_sample": False}


def inputs(n: int = 1) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat([prompt(5, "scan", 6)] * n),
        "input_values": scans(n),
        "roi_mask": missing_roi(n),
    }


def pair_model(language: PreTrainedModel, *scan_tokens: str) -> FmriLMForCausalLM:
    """A model whose scans have tokens for pairs of three networks, and for ROIs if asked."""
    tokenizer = fmri_tokenizer(roi_networks=[0, 0, 1, 1, 2, 2])
    return FmriLMForCausalLM.from_components(
        tokenizer if "rois" in scan_tokens else tokenizer.config,
        language,
        fmri_token_id=FMRI,
        scan_tokens=list(scan_tokens),
        network_name_ids=[[4], [5, 6], [7]],
    ).eval()


def with_places(model: FmriLMForCausalLM) -> dict[str, torch.Tensor]:
    """`inputs`, with as many places for a scan as this model has tokens for it."""
    scan = [FMRI] * model.config.n_scan_tokens
    return inputs() | {"input_ids": torch.tensor([[5, *scan, 6]])}


# --- the contract ---------------------------------------------------------------------------------------------

REASONS = {
    "opt-350m": "'opt'.*word embeddings have 8 dimensions and its hidden states 16",
    "gpt-neo": "'gpt_neo'.*does not honour the attention mask it is given, so that the tokens of a time patch",
    "bloom": r"'bloom'.*fails on a prepared attention mask with position ids \(ValueError",
    "falcon-alibi": r"'falcon'.*fails on a prepared attention mask with position ids \(ValueError",
    "qwen3-next": "'qwen3_next'.*keep a running state in place of attention.*cache cannot be repeated",
    "lfm2": "'lfm2'.*keep a running state in place of attention.*cache cannot be repeated",
    "rwkv": "'rwkv'.*keep a running state in place of attention",
    "falcon-h1": "'falcon_h1'.*keep a running state in place of attention",
    "mamba": "'mamba'.*keep a running state in place of attention",
}


@pytest.mark.parametrize("name", UNABLE)
def test_language_models_that_cannot_read_scans_are_refused(name):
    with pytest.raises(ValueError, match=f"A language model of type {REASONS[name]}.*Take a Transformer such as"):
        FmriLMForCausalLM.from_components(fmri_tokenizer(), text_model(name))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError, r"fails on continuing a repeated cache \(RuntimeError: no such rows\)"),
        (None, "returns no cache that can be repeated, but NoneType"),
    ],
)
def test_a_cache_that_cannot_be_repeated_is_refused(monkeypatch, error, message):
    language = text_model()
    forward = language.forward

    def changed(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        if error is None:
            outputs.past_key_values = None
        elif kwargs["inputs_embeds"].shape[1] == 1:
            raise error("no such rows")
        return outputs

    monkeypatch.setattr(language, "forward", changed)
    with pytest.raises(ValueError, match=message):
        FmriLMForCausalLM.from_components(fmri_tokenizer(), language)


def test_a_mask_that_hides_nothing_is_refused(monkeypatch):
    language = text_model()
    forward = language.forward

    def shown(*args, attention_mask=None, **kwargs):
        return forward(*args, attention_mask=torch.ones_like(attention_mask), **kwargs)

    monkeypatch.setattr(language, "forward", shown)
    with pytest.raises(ValueError, match="so that missing ROIs and later tokens would be seen"):
        FmriLMForCausalLM.from_components(fmri_tokenizer(), language)


def test_position_ids_that_are_not_looked_at_are_reported(caplog):
    logger = logging.getLogger("fmri_lm_hf.models.backbone_contract")
    logger.addHandler(caplog.handler)
    FmriLMForCausalLM.from_components(fmri_tokenizer(), text_model("llama"))
    assert not caplog.records
    FmriLMForCausalLM.from_components(fmri_tokenizer(), text_model("mpt"))
    assert "'mpt' ignores position ids" in caplog.text
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trial_leaves_no_trace(dtype):
    language = text_model().to(dtype).train()
    language.lm_head.eval()
    weights = copy.deepcopy(language.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    FmriLMForCausalLM.from_components(fmri_tokenizer(), language)
    assert [language.training, language.lm_head.training] == [True, False]
    assert all(torch.equal(value, weights[name]) for name, value in language.state_dict().items())
    assert all(each.grad is None for each in language.parameters())
    # the fresh parts draw, the trial does not
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(language.config)
    torch.manual_seed(7)
    from fmri_lm_hf.models.backbone_contract import check_backbone

    check_backbone(language)
    check_backbone(bare)  # without weights there is nothing to try
    assert torch.equal(torch.rand(1), expected)


# --- experts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["config", "call"])
def test_the_load_of_experts_is_balanced(asked):
    model = language_model("qwen3-moe", None)
    model.language_model.config.output_router_logits = asked == "config"
    model.language_model.config.router_aux_loss_coef = 0.5
    given = inputs(2)
    labels = given["input_ids"].masked_fill(given["input_ids"] == FMRI, -100)
    options = {"output_router_logits": True} if asked == "call" else {}
    output = model(**given, labels=labels, **options)
    assert output.aux_loss > 0
    torch.testing.assert_close(output.loss, output.text_loss + 0.5 * output.aux_loss)
    output.aux_loss.backward()
    assert all(layer.mlp.gate.weight.grad.any() for layer in model.language_model.model.layers)
    plain = model(**given, labels=labels, output_router_logits=False)
    assert plain.aux_loss is None
    torch.testing.assert_close(plain.loss, plain.text_loss)
    close(plain.logits, output.logits)
    # tokens that are hidden have no load
    changed = copy.deepcopy(given)
    changed["input_ids"][:, 0] = 9
    shown = torch.ones_like(given["input_ids"])
    shown[:, 0] = 0
    left, right = (model(**each, attention_mask=shown, **options) for each in (given, changed))
    torch.testing.assert_close(left.aux_loss, right.aux_loss)
    generated = model.eval().generate(**given, **GREEDY)
    model.language_model.config.output_router_logits = False
    assert torch.equal(model.generate(**given, **GREEDY), generated)


def test_the_trainer_balances_experts_too(tmp_path):
    model = language_model("qwen3-moe", None)
    model.language_model.config.output_router_logits = True
    model.language_model.config.router_aux_loss_coef = 0.5
    given = inputs(2)
    given["labels"] = given["input_ids"].masked_fill(given["input_ids"] == FMRI, -100)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    with torch.no_grad():
        output = model(**given)
        loss = FmriLMTrainer(model=model, args=arguments).compute_loss(model, given)
    torch.testing.assert_close(loss, output.text_loss + 0.5 * output.aux_loss)


# --- generation -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["inside", "outside"])
def model(request) -> FmriLMForCausalLM:
    """With the placeholder inside the vocabulary, and outside."""
    model = language_model()
    if request.param == "outside":
        # the word of the placeholder may then be generated
        model.config.fmri_token_id = 200
        model.language_model.lm_head.bias = torch.nn.Parameter(torch.zeros(32))
        model.language_model.lm_head.bias.data[FMRI] = -100
    return model


def of(model, **given):
    ids = given["input_ids"]
    return given | {"input_ids": ids.masked_fill(ids == FMRI, model.config.fmri_token_id)}


@torch.no_grad()
def test_assisted_decoding_gives_the_same_text(model):
    given = of(model, **inputs())
    expected = model.generate(**given, **GREEDY)
    other = copy.deepcopy(model)
    for each in other.language_model.parameters():
        each.add_(0.1 * torch.randn_like(each))
    for options in ({"assistant_model": model}, {"assistant_model": other}, {"prompt_lookup_num_tokens": 2}):
        assert torch.equal(model.generate(**given, **GREEDY, **options), expected), options
    features = model.get_fmri_features(given.pop("input_values"), given["roi_mask"])
    assert torch.equal(model.generate(**given, fmri_features=features, assistant_model=other, **GREEDY), expected)


def test_assistants_that_do_not_read_scans_are_refused():
    model, given = language_model(), inputs()
    with pytest.raises(ValueError, match=r"`assistant_model` must be a model that reads scans.*type 'llama'"):
        model.generate(**given, assistant_model=text_model(), **GREEDY)
    other = language_model(tokenizer={"patch_size": 4})
    with pytest.raises(ValueError, match=r"must read the same prompts: expected .* \(14, 12\), found \(14, 24\)"):
        model.generate(**given, assistant_model=other, **GREEDY)
    with pytest.raises(ValueError, match="`assistant_early_exit` is not supported"):
        model.generate(**given, assistant_early_exit=1, **GREEDY)


@torch.no_grad()
def test_guidance_is_that_of_the_definition(model):
    given = of(model, **inputs())
    negative = prompt(7, 8)
    ids = given["input_ids"]
    generated = model.generate(**given, guidance_scale=1.5, negative_prompt_ids=negative, **GREEDY)
    without = negative
    for step in range(GREEDY["max_new_tokens"]):
        seen = {**given, "input_ids": generated[:, : ids.shape[1] + step]}
        scores = model(**seen).logits[0, -1].log_softmax(-1)
        base = model(input_ids=without).logits[0, -1].log_softmax(-1)
        guided = base + 1.5 * (scores - base)
        guided[[FMRI]] = -torch.inf
        best = guided.argmax()
        assert best == generated[0, ids.shape[1] + step]
        without = torch.cat([without, best[None, None]], dim=1)


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_repetition_penalty": 1.3},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"encoder_no_repeat_ngram_size": 2},
    ],
    ids=lambda options: next(iter(options)),
)
@torch.no_grad()
def test_penalties_do_not_depend_on_where_the_placeholder_lies(options):
    model, given = language_model(), inputs(2)
    model.language_model.lm_head.bias = torch.nn.Parameter(torch.zeros(32))
    model.language_model.lm_head.bias.data[FMRI] = -100
    texts = []
    for place in (FMRI, 32, 200):
        model.config.fmri_token_id = place
        texts.append(model.generate(**of(model, **given), **GREEDY, **options)[:, -6:])
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])


# --- files, precision, placement, compilation -----------------------------------------------------------------


@pytest.mark.parametrize("loader", [AutoModel, AutoModelForCausalLM, FmriLMForCausalLM])
def test_parts_of_two_precisions_come_back_as_they_were(tmp_path, loader):
    text_model().save_pretrained(tmp_path / "text")
    low = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.bfloat16)
    mixed = FmriLMForCausalLM.from_components(fmri_tokenizer(), low, fmri_token_id=FMRI)
    expected = {name: value.dtype for name, value in mixed.state_dict().items()}
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
    mixed.save_pretrained(tmp_path / "mixed")
    for options in ({}, {"dtype": "auto"}):
        loaded = loader.from_pretrained(tmp_path / "mixed", **options)
        assert {name: value.dtype for name, value in loaded.state_dict().items()} == expected
        assert torch.equal(loaded.eval()(**inputs()).logits, mixed.eval()(**inputs()).logits)
    for dtype in (torch.float32, torch.bfloat16):
        one = loader.from_pretrained(tmp_path / "mixed", dtype=dtype)
        assert {value.dtype for value in one.state_dict().values()} == {dtype}
        one.save_pretrained(tmp_path / "one")
        again = loader.from_pretrained(tmp_path / "one")
        assert {value.dtype for value in again.state_dict().values()} == {dtype}


@torch.no_grad()
def test_network_pairs_keep_their_precision(tmp_path):
    text_model().save_pretrained(tmp_path / "text")
    low = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.bfloat16)
    mixed = pair_model(low, "network_pairs")
    expected = {name: value.dtype for name, value in mixed.state_dict().items()}
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
    mixed.save_pretrained(tmp_path / "mixed")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "mixed")
    assert {name: value.dtype for name, value in loaded.state_dict().items()} == expected
    assert torch.equal(loaded(**with_places(mixed)).logits, mixed(**with_places(mixed)).logits)


@torch.no_grad()
def test_a_second_turn_over_network_pairs():
    model = pair_model(text_model(), "rois", "network_pairs")
    model.generation_config.eos_token_id = None
    given, options = with_places(model), GREEDY | {"return_dict_in_generate": True}
    first = model.generate(**given, **options)
    longer = torch.cat([first.sequences, prompt(7, 8)], dim=1)
    given = {**given, "input_ids": longer, "attention_mask": torch.ones_like(longer)}
    fresh = model.generate(**given, **GREEDY)
    alone = {name: given[name] for name in ("input_ids", "attention_mask")}
    for turn in (given, alone):
        cache = copy.deepcopy(first.past_key_values)
        assert torch.equal(model.generate(**turn, past_key_values=cache, **GREEDY), fresh)


@pytest.mark.parametrize("scan_tokens", [["rois"], ["network_pairs"], ["rois", "network_pairs"]], ids="-".join)
@torch.no_grad()
def test_every_part_can_be_offloaded(tmp_path, scan_tokens):
    model = pair_model(text_model(), *scan_tokens)
    given = with_places(model)
    expected, text = model(**given).logits, model.generate(**given, **GREEDY)
    loaded = copy.deepcopy(model)
    cpu_offload(loaded)
    assert {each.device.type for each in loaded.parameters()} == {"meta"}
    on_disk = copy.deepcopy(model)
    disk_offload(on_disk, tmp_path)
    for each in (loaded, on_disk):
        assert torch.equal(each(**given).logits, expected)
        assert torch.equal(each.generate(**given, **GREEDY), text)
        if "rois" in scan_tokens:
            scan = given["input_values"]
            assert torch.equal(each.fmri_logits(scan), model.fmri_logits(scan))


@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
            ],
        ),
    ],
)
@torch.no_grad()
def test_a_forward_compiles_as_one_graph(backend):
    model, given = language_model(tokenizer={"input_features": ["signal", "connectivity"]}), inputs()
    labels = given["input_ids"].masked_fill(given["input_ids"] == FMRI, -100)
    codes = torch.ones(1, N_TOKENS, dtype=torch.long)
    given |= {"attention_mask": torch.ones_like(labels), "labels": labels, "fmri_labels": codes}
    expected = model(**given)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    found = compiled(**given)
    close(found.logits, expected.logits)
    close(found.loss, expected.loss)
    further = model(input_ids=prompt(7), past_key_values=found.past_key_values).logits
    close(further, model(input_ids=prompt(7), past_key_values=expected.past_key_values).logits)


def test_weights_that_are_no_safetensors_are_not_read(tmp_path):
    model = language_model()
    model.save_pretrained(tmp_path)
    weights = model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "weights.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "weights.bin")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for loader in (AutoModelForCausalLM, FmriLMForCausalLM):
        with pytest.raises(OSError, match=r"named as 'weights\.bin', which may be a pickle and was not read"):
            loader.from_pretrained(tmp_path)


def test_an_adapter_that_is_no_safetensors_is_not_read(tmp_path):
    language_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=r"language_model.*\.q_proj"))
    adapted.save_pretrained(tmp_path / "adapter")
    AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    safe = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save({}, safe.with_suffix(".bin"))
    safe.unlink()
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    for load in (
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path / "adapter"),
        lambda: fresh.load_adapter(str(tmp_path / "adapter")),
    ):
        with pytest.raises(OSError, match=r"named as 'adapter_model\.bin', which may be a pickle"):
            load()


def test_a_local_gguf_file_is_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    _write_gguf(gguf, tmp_path / "tiny.gguf")
    language = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    model = FmriLMForCausalLM.from_components(fmri_tokenizer(), language, fmri_token_id=FMRI).eval()
    expected = model(**inputs()).logits
    model.save_pretrained(tmp_path / "joined")
    assert "gguf" not in (tmp_path / "joined" / "config.json").read_text().replace(str(tmp_path), "")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "joined")(**inputs()).logits, expected)


def test_weights_that_stay_packed_are_refused():
    language = text_model()
    language.hf_quantizer = type("Quantizer", (), {"packed_modules": {"lm_head": None}})()
    with pytest.raises(ValueError, match=r"blocks of a GGUF file.*GgufConfig\(dequantize=True\)"):
        FmriLMForCausalLM.from_components(fmri_tokenizer(), language)


def _write_gguf(gguf, path: Path) -> None:
    """A Llama of two layers, as llama.cpp stores it."""
    width, inner, vocabulary = 32, 64, 32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(vocabulary)
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,), "output": (vocabulary, width)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.{name}": (width, width) for name in ("attn_q", "attn_output")}
        shapes |= {f"blk.{layer}.{name}": (width // 2, width) for name in ("attn_k", "attn_v")}
        shapes |= {f"blk.{layer}.{name}": (inner, width) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{layer}.ffn_down"] = (width, inner)
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", 0.2 * torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
