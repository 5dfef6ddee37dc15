"""Options act: each is changed in a tiny run of a stage's main, and its effect is seen."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub import tiny
from safetensors.torch import load_file
from scripts import run
from small_reading import ATLAS
from transformers import LlamaConfig, LlamaForCausalLM

from fmri_lm_hf.corpus.languages import language_of
from fmri_lm_hf.training import alignment
from fmri_lm_hf.training.alignment import AlignmentArguments
from fmri_lm_hf.training.arguments import LanguageModelArguments, LoraArguments
from fmri_lm_hf.training.backbone import Backbone, lora_config
from fmri_lm_hf.training.random_questions import reading_texts
from fmri_lm_hf.training.run import REPLAY_SEED, train_on_conversations
from fmri_lm_hf.training.texts import CorpusTexts, reading_or_corpus
from fmri_lm_hf.training.vocabulary import train_text_tokenizer


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A folder with a tiny Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = train_text_tokenizer(reading_texts(100), 400)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(backbone, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("recipe")
    ATLAS.to_json(folder / "atlas.json")
    (folder / "recipe.yaml").write_text(
        f"language_model: {backbone}\natlas: {folder / 'atlas.json'}\n"
        "reading: {batch_size: 2, questions: 2, n_networks: [4, 5]}\n"
        "max_steps: 3\nlogging_steps: 1\nuse_cpu: true\nsave_strategy: 'no'\ndisable_tqdm: true\n"
    )
    return str(folder / "recipe.yaml")


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def logged(folder, name: str) -> list[float]:
    log = json.loads((folder / "training_info.json").read_text(encoding="utf-8"))["log_history"]
    return [entry[name] for entry in log if name in entry]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_learning_rate_follows_its_schedule(recipe, tmp_path):
    rates = {}
    for schedule in ("linear", "cosine"):
        words = ["--lr_scheduler_type", schedule, "--learning_rate", "0.004", "--output_dir"]
        run("reading", recipe, *words, str(tmp_path / schedule))
        rates[schedule] = logged(tmp_path / schedule, "learning_rate")
    assert rates["linear"] == pytest.approx([0.004, 0.004 * 2 / 3, 0.004 / 3])
    assert rates["cosine"] == pytest.approx([0.004, 0.003, 0.001])


def test_the_seed_decides_what_is_trained(tmp_path):
    ATLAS.to_json(tmp_path / "atlas.json")
    words = ["--atlas", str(tmp_path / "atlas.json"), "--max_steps", "3", "--disable_tqdm", "true"]
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run("reading", "tiny/reading", *words, "--seed", seed, "--output_dir", str(tmp_path / name))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert logged(tmp_path / "a", "loss") == logged(tmp_path / "b", "loss")
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert logged(tmp_path / "a", "loss") != logged(tmp_path / "c", "loss")


def test_adapters_are_scaled_by_lora_alpha(backbone, recipe, tmp_path):
    """A step of plain SGD moves the merged weights by alpha / rank, squared: once forward, once in the gradient."""
    before = LlamaForCausalLM.from_pretrained(backbone).state_dict()
    words = ["--max_steps", "1", "--lora_rank", "4", "--optim", "sgd", "--learning_rate", "0.1"]
    moved = {}
    for alpha in ("4", "8"):
        out = tmp_path / alpha
        run("reading", recipe, *words, "--max_grad_norm", "0", "--lora_alpha", alpha, "--output_dir", str(out))
        after = weights(out)
        moved[alpha] = {name: after[f"language_model.{name}"] - before[name] for name in before if "_proj." in name}
    assert all(values.any() for values in moved["4"].values())
    for name, values in moved["4"].items():
        torch.testing.assert_close(moved["8"][name], 4 * values, rtol=1e-2, atol=1e-7)


def test_adapters_have_the_rank_the_scale_and_the_dropout_of_their_options(tmp_path):
    options = {"lora_rank": 4, "lora_alpha": 7, "lora_dropout": 0.3}
    adapter = lora_config(tiny.language_model(), LoraArguments(output_dir=str(tmp_path), report_to="none", **options))
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (4, 7, 0.3)


@pytest.mark.slow
def test_the_seed_decides_what_conversations_and_replayed_scans_are_drawn(trained, tiny, tmp_path):
    """With the examples in their order, a first step differs by draws alone."""
    words = ["--train_sampling_strategy", "sequential", "--max_steps", "1", "--eval_strategy", "no"]
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = str(tmp_path / name)
        run("instruction", "tiny/instruction", *words, "--seed", seed, "--output_dir", out)
    for part in ("text_loss", "replay_loss"):
        losses = {name: logged(tmp_path / name, part) for name in "abc"}
        assert losses["a"] == losses["b"] != losses["c"], part


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenizer", "alignment"])
def test_the_seed_decides_what_fresh_weights_are(stage, trained, tiny, tmp_path):
    fresh = {"tokenizer": "encoder.", "alignment": "projector."}[stage]
    words = ["--learning_rate", "0", "--max_steps", "1", "--eval_strategy", "no"]
    found = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(stage, f"tiny/{stage}", *words, "--seed", seed, "--output_dir", str(tmp_path / name))
        found[name] = {key: values for key, values in weights(tmp_path / name).items() if key.startswith(fresh)}
        assert found[name]
    assert same(found["a"], found["b"])
    assert not same(found["a"], found["c"])


def test_a_fixed_atlas_is_the_one_that_is_trained_on(recipe, tmp_path):
    losses = {}
    for fixed in ("false", "true"):
        run("reading", recipe, "--max_steps", "1", "--fixed_atlas", fixed, "--output_dir", str(tmp_path / fixed))
        losses[fixed] = logged(tmp_path / fixed, "loss")
    assert losses["false"] != losses["true"]


# --- options that stages 2 and 3 share: where each of them arrives -------------------------------------------


TRAIN, VALIDATION = [f"train-{i}" for i in range(10)], ["held-out"]


def passed_on(tmp_path, monkeypatch, **options) -> dict[str, Any]:
    """What a stage gives to its examples (of training, and of evaluation), its collator and its Trainer."""
    found: dict[str, Any] = {}

    def examples(views, scan_ids, converse, plain_texts=None, **more):
        kind = "examples" if "seed" in more else "evaluated"
        found[kind] = {"views": views, "scan_ids": scan_ids, "plain_texts": plain_texts, **more}

    monkeypatch.setattr("fmri_lm_hf.training.run.ScanConversations", examples)
    monkeypatch.setattr("fmri_lm_hf.training.run.FmriLMTrainer", lambda *_, **more: found.update(trainer=more))
    monkeypatch.setattr("fmri_lm_hf.training.run.FmriLMCollator", lambda _, **more: found.update(collator=more))
    monkeypatch.setattr("fmri_lm_hf.training.run.AttentionSupervision", lambda _, layers: layers)
    monkeypatch.setattr("fmri_lm_hf.training.run.replayed", lambda _, *given: given)
    monkeypatch.setattr("fmri_lm_hf.training.run.train_and_save", lambda *_, **facts: found.update(facts=facts))
    scans = SimpleNamespace(
        read=lambda _, rows: (None, {"train": TRAIN, "validation": VALIDATION}),
        store=SimpleNamespace(encode=lambda _, model, window, codes: window, encode_noise=lambda *_: "noise"),
        facts=lambda scan_ids: {"scan_ids": scan_ids},
        earlier_info=lambda checkpoint: checkpoint,
    )
    model = SimpleNamespace(language_model=None, to=lambda device: None)
    processor = SimpleNamespace(feature_extractor=None, tokenizer=None, scan_tokens=["network_pairs"])
    arguments = LanguageModelArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)
    train_on_conversations(
        model,
        processor,
        arguments,
        scans,
        {},
        lambda *_: [],
        {"before": "there"},
        plain_texts=[1],
        plain_text_share=0.5,
    )
    return found


@pytest.mark.parametrize(
    "options, place, expected, usual",
    [
        ({"roi_dropout": 0.3}, "examples.roi_dropout", 0.3, 0.0),
        ({"share_absent": 0.2}, "examples.n_absent", 2, 0),
        ({"share_absent": 0.2}, "examples.absent", "noise", None),
        ({"seed": 7}, "examples.seed", 7, 42),
        (
            {"n_windows": 2},
            "examples.views",
            [None, {"shortest": 0.4, "seed": 42}, {"shortest": 0.4, "seed": 43}],
            [None],
        ),
        (
            {"n_windows": 1, "shortest_window": 0.7, "seed": 3},
            "examples.views",
            [None, {"shortest": 0.7, "seed": 3}],
            [None],
        ),
        ({"supervised_layers": [0, 1]}, "trainer.supervision", [0, 1], None),
        ({"supervised_layers": [0, 1]}, "collator.with_targets", True, False),
        ({"attention_loss_weight": 0.25}, "trainer.attention_loss_weight", 0.25, 1.0),
        ({"replayed_scans": 3}, "trainer.replay", (3, 42 + REPLAY_SEED), None),
        ({"replayed_scans": 3, "seed": 7}, "trainer.replay", (3, 7 + REPLAY_SEED), None),
        ({"replay_every": 4}, "trainer.replay_every", 4, 1),
    ],
)
def test_an_option_of_a_stage_arrives(options, place, expected, usual, tmp_path, monkeypatch):
    for given, value in ((options, expected), ({}, usual)):
        part, name = place.split(".")
        assert passed_on(tmp_path, monkeypatch, **given)[part][name] == value


def test_held_out_scans_are_evaluated_and_training_scans_are_trained_on_and_recorded(tmp_path, monkeypatch):
    found = passed_on(tmp_path, monkeypatch, n_windows=1)
    assert found["examples"]["scan_ids"] == found["facts"]["scan_ids"] == TRAIN
    assert found["evaluated"]["scan_ids"] == VALIDATION
    assert found["evaluated"]["views"] == [None]  # whole scans
    assert (found["examples"]["n_plain"], found["evaluated"]["plain_texts"]) == (5, None)
    assert found["facts"]["before"] == "there"


@pytest.mark.parametrize("lengths", [["sentence"], ["full", "sentence"]])
def test_texts_of_the_chosen_lengths_are_used(lengths, tmp_path):
    rows = [{"scan_id": "a", "length": length, "text": length} for length in ("sentence", "paragraph", "full")]
    rows.append({"scan_id": "b", "length": "paragraph", "text": "of another scan"})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    texts = CorpusTexts(str(tmp_path), None, lengths)
    assert sorted(texts.texts("a")) == sorted(lengths)
    assert texts.scan_ids == {"a"}


def test_questions_about_pairs_are_asked_as_the_options_say(tmp_path):
    extractor = SimpleNamespace(atlas=ATLAS)
    processor = SimpleNamespace(feature_extractor=extractor, scan_tokens=["network_pairs"])
    options = {"reading_questions": 3, "share_described": 0.25, "languages": ["fr", "de"]}
    arguments = LanguageModelArguments(output_dir=str(tmp_path), report_to="none", **options)
    ((questions, share),) = reading_or_corpus(arguments, None, processor)
    assert (questions.n_questions, questions.share_described, share) == (3, 0.25, 1.0)
    assert questions.languages == [language_of("fr"), language_of("de")]
    assert questions.network_names == ATLAS.network_names


def aligned(tmp_path, monkeypatch, **options) -> dict[str, Any]:
    """The model that stage 2 trains, before its training, and what the training is given."""
    found: dict[str, Any] = {}
    given = ("model", "processor", "arguments", "scans", "rows", "converse")

    def trained(*args, **more):
        found.update(zip(given, args), **more)

    whole = tiny.language_model()
    scans = SimpleNamespace(scan_ids=[], split_rows=lambda rows: {"train": rows})
    texts = SimpleNamespace(rows=lambda scan_ids: [0])
    backbone = Backbone(whole.language_model, tiny.text_tokenizer())
    for name, value in {
        "TrainingScans": lambda _: scans,
        "CorpusTexts": lambda *args: found.update(texts=args) or texts,
        "FmriTokenizer.from_pretrained": lambda _: tiny.fmri_tokenizer(),
        "FmriFeatureExtractor.from_pretrained": lambda _: tiny.feature_extractor(),
        "load_backbone": lambda *args: found.update(backbone=args) or backbone,
        "plain_text_blocks": lambda source, _, n_tokens: (source, n_tokens),
        "train_on_conversations": trained,
    }.items():
        monkeypatch.setattr(f"fmri_lm_hf.training.alignment.{name}", value)
    needed = {"corpus": "c", "fmri_tokenizer": "t", "language_model": "l", "plain_text": "p", "use_cpu": True}
    alignment.train(AlignmentArguments(output_dir=str(tmp_path), report_to="none", **needed, **options))
    return found


@pytest.mark.parametrize(
    "option, changed, place",
    [
        ("fmri_embedding_source", "codes", "model.config.fmri_embedding_source"),
        ("projector_layer_norm", True, "model.config.projector_layer_norm"),
        ("fmri_loss_weight", 0.3, "model.config.fmri_loss_weight"),
        ("initializer_range", 0.5, "model.config.initializer_range"),
        ("text_only_loss_weight", 0.7, "text_only_loss_weight"),
        ("plain_text_share", 0.4, "plain_text_share"),
        ("plain_text_tokens", 64, "plain_texts.1"),
        ("attention_dropout", 0.2, "backbone.1"),
        ("corpus_config", "graph", "texts.1"),
        ("text_lengths", ["full"], "texts.2"),
        ("requests", ["Say it."], "texts.3"),
    ],
)
def test_an_option_of_alignment_arrives(option, changed, place, tmp_path, monkeypatch):
    for options in ({}, {option: changed}):
        found: Any = aligned(tmp_path, monkeypatch, **options)
        for name in place.split("."):
            is_item = isinstance(found, (dict, tuple))
            found = found[int(name) if name.isdigit() else name] if is_item else getattr(found, name)
        assert (found == changed) == bool(options)


@pytest.mark.parametrize("weight", [0.1, 0.0])
def test_alignment_trains_all_but_the_tokenizer_and_a_head_without_codes(weight, tmp_path, monkeypatch):
    found = aligned(tmp_path, monkeypatch, fmri_loss_weight=weight)
    trained = {name.split(".")[0] for name, values in found["model"].named_parameters() if values.requires_grad}
    assert trained == {"projector", "roi_embeddings", "language_model"} | ({"fmri_head"} if weight else set())
    assert found["next_codes"] == bool(weight)
    assert not found["model"].train().fmri_tokenizer.training  # or its codebook would move
