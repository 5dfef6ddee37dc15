"""Batches of questions about random scans, and the model that learns from them."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from small_reading import ATLAS, RECIPE

from fmri_lm_hf import Atlas, FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.bundled import NETWORK_WORDS, with_atlas
from fmri_lm_hf.corpus.queries import scan_facts
from fmri_lm_hf.evaluation.truth import parse_hypothesis, relative_to, scan_pairs, truth
from fmri_lm_hf.simulation.stream import RandomScans
from fmri_lm_hf.training.data import about_scan
from fmri_lm_hf.training.random_questions import ReadingBatches
from fmri_lm_hf.training.reading import main, new_model, sample_texts
from fmri_lm_hf.training.vocabulary import ChatFormat


def scans(n, seed=3):
    stream = RandomScans(ATLAS, seed)
    return [stream[k] for k in range(n)]


def test_a_batch_depends_on_its_step_alone(small_model, batches):
    first = batches[7]
    again = ReadingBatches(small_model[1].tokenizer, RECIPE)[7]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_training_widens_from_few_networks_to_many(batches):
    assert batches[0]["network_name_ids"].shape[1] in (3, 4)
    sentences = (batches[0]["labels"] == batches.format.suffix[0]).sum(1)
    assert sentences.tolist() == [1] * RECIPE.batch_size  # beside levels alone
    assert batches[19]["network_name_ids"].shape[1] in (4, 5)


def test_pairs_that_are_drawn_say_nothing_about_each_other(batches):
    values = torch.cat([batches[k]["fmri_features"][:, 1:7, 1] for k in range(8)])
    many = dataclasses.replace(RECIPE, steps=2, batch_size=600, few_until=0.9, drawn_until=0.9)
    features = ReadingBatches(batches.tokenizer, many)[0]["fmri_features"]
    correlation = torch.corrcoef(features[:, 1:, 1].T) - torch.eye(features.shape[1] - 1)
    assert correlation.abs().max() < 0.2
    assert values.std() > 0.3


def test_a_question_is_written_as_the_processor_writes_it(small_model, batches):
    _, processor = small_model
    facts = scan_facts([0.1] * 6, [True] * 6, ATLAS.network_names)
    question = batches._questions(facts, random.Random(0), 0.5)[-1]
    row, _ = batches._row([question], [processor.n_tokens], ATLAS.network_names)
    encoded = processor.encode_chat(about_scan([question]))
    assert row["input_ids"] == encoded["input_ids"]
    assert row["labels"] == encoded["labels"]


def test_what_is_no_scan_is_answered_as_such(batches, small_model):
    recipe = dataclasses.replace(RECIPE, share_absent=1.0, share_text=0.0)
    always = ReadingBatches(small_model[1].tokenizer, recipe)
    batch = always[19]
    answers = [
        small_model[1].tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=True) for row in batch["labels"]
    ]
    assert all("scan" in answer and "high" not in answer for answer in answers)
    n_scans = int((batch["input_ids"] == small_model[1].fmri_token_id).any(1).sum())
    assert n_scans == len(batch["fmri_features"])


def test_texts_alone_are_learnt_from_their_first_word(small_model):
    texts_alone = dataclasses.replace(RECIPE, share_text=1.0, share_absent=0.0)
    batch = ReadingBatches(small_model[1].tokenizer, texts_alone)[19]
    assert "fmri_features" not in batch
    shown = batch["attention_mask"] == 1
    assert torch.equal(batch["labels"][shown], batch["input_ids"][shown])
    small_model[0](**batch).loss.backward()


def test_a_model_changes_its_atlas_and_keeps_its_sampling():
    own = new_model(RECIPE, ATLAS, n_timepoints=80)
    own[1].feature_extractor.t_r = 0.8
    own[1].feature_extractor.min_timepoints = 11
    extractor = with_atlas(*own, Atlas.load("dosenbach_2010"))[1].feature_extractor
    assert (extractor.n_timepoints, extractor.t_r, extractor.min_timepoints) == (80, 0.8, 11)


def test_a_model_changes_its_atlas_and_keeps_its_weights(small_model, tmp_path):
    model, processor = with_atlas(*small_model, Atlas.load("dosenbach_2010"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = FmriLMForCausalLM.from_pretrained(tmp_path)
    assert FmriLMProcessor.from_pretrained(tmp_path).n_tokens == again.config.n_scan_tokens == 22
    assert again.generation_config.repetition_penalty == small_model[0].generation_config.repetition_penalty > 1
    for name, values in small_model[0].state_dict().items():
        assert torch.equal(values, again.state_dict()[name])


@pytest.mark.parametrize("atlas", [ATLAS, Atlas.load("dosenbach_2010")], ids=lambda atlas: atlas.name)
def test_words_that_an_atlas_gives_no_name_are_not_written(small_model, atlas):
    model, processor = with_atlas(*small_model, atlas)
    n_names = len(atlas.network_names)
    ids = processor.tokenizer.convert_tokens_to_ids(list(NETWORK_WORDS))
    assert model.generation_config.suppress_tokens == ids[n_names:]
    assert small_model[0].generation_config.suppress_tokens == ids[3:]  # it has an atlas of its own


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(tmp_path):
    words = ["tiny/reading", "--save_steps", "4", "--save_strategy", "steps"]
    main([*words, "--output_dir", str(tmp_path / "whole")])
    (tmp_path / "half").mkdir()
    (tmp_path / "whole" / "checkpoint-4").rename(tmp_path / "half" / "checkpoint-4")
    main([*words, "--output_dir", str(tmp_path / "half"), "--resume_from_checkpoint", "true"])
    whole, resumed = (FmriLMForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "half"))
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-6)
    assert FmriLMProcessor.from_pretrained(tmp_path / "half").n_tokens == whole.config.n_scan_tokens


@pytest.mark.parametrize(
    "words, message",
    [
        (["--max_steps", "0"], "give `max_steps`"),
        (["--reading.n_heads", "2"], "`reading` has unknown fields: n_heads"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(["tiny/reading", "--output_dir", str(tmp_path / "out"), *words])


@pytest.mark.slow
def test_truth_has_every_score_of_the_results(small_model):
    results = truth(*small_model, scans(4), n_absent=5, languages=["fr", "de"])
    assert set(results["languages"]) == {"fr", "de"}
    assert set(results["languages"]["fr"]) == set(results["pair_level"])
    assert "languages" not in truth(*small_model, scans(4), n_absent=5)
    assert set(results["pair_level"]) >= {"exact", "other_scan", "within_one", "rank_correlation"}
    assert set(results["descriptions"]) >= {"precision", "recall", "other_scan_precision"}
    assert set(results["mirage"]) >= {"absent_described", "real_answered"}


def test_a_perfect_model_is_scored_as_one(small_model, monkeypatch):
    from fmri_lm_hf.corpus.languages import language_of
    from fmri_lm_hf.corpus.queries import ABSENT_ANSWERS, ask_description, bin_of
    from fmri_lm_hf.evaluation import truth as module

    model, processor = small_model
    inputs = dict(processor(fmri=scans(6)))
    values, present, names = scan_pairs(processor, inputs)
    first, second = torch.triu_indices(3, 3)
    levels = torch.from_numpy(bin_of(values.numpy(), (first == second).numpy()))
    exact = torch.nn.functional.one_hot(levels.long(), 5).float()
    original = module.bin_probabilities
    monkeypatch.setattr(module, "bin_probabilities", lambda *args, **more: exact)
    scores = module.bin_truth(model, processor, inputs)
    assert scores["exact"] == scores["within_one"] == 1
    assert scores["other_scan"] < 0.7
    assert scores["rank_correlation"] > 0.8

    asked = {}
    monkeypatch.setattr(
        module, "encode_question", lambda processor, question, answers: asked.update({question: answers})
    )
    monkeypatch.setattr(module, "answers_to_questions", lambda model, asked, **batch: [torch.zeros(6, 5)] * len(asked))
    original(model, processor, inputs, language=language_of("de"))
    assert all(question.startswith("Konnektivität") for question in asked)
    assert set(asked.values()) == {language_of("de").bins}

    facts = [scan_facts(v, p, names) for v, p in zip(values.tolist(), present.tolist(), strict=True)]
    texts = [ask_description(each, random.Random(0)).answer for each in facts]
    monkeypatch.setattr(module, "generate_texts", lambda *args: texts)
    described = module.description_truth(model, processor, inputs)
    assert described["precision"] == 1
    assert described["other_scan_precision"] < 0.7
    assert 0 < described["recall"] < 1
    monkeypatch.setattr(module, "generate_texts", lambda *args: [ABSENT_ANSWERS[0]] * 6)
    assert module.description_truth(model, processor, inputs)["precision"] is None
    assert module.mirage(model, processor, inputs, 6)["real_answered"] == 0


def test_a_hypothesis_is_read_in_many_wordings():
    text = (
        "weaker connectivity between default and visual; Connectivity within control is raised.\n"
        "reduced coupling between visual and control"
    )
    assert [str(each) for each in parse_hypothesis(text, ATLAS.network_names)] == [
        "weaker connectivity between default and visual",
        "stronger connectivity within control",
        "weaker connectivity between visual and control",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("patients are sad", "'patients are sad' cannot be read: it names no direction"),
        ("weaker connectivity between default and cerebellum", "cannot be read"),
        ("raised modularity", "it is not about connectivity but graph/modularity"),
        ("typical connectivity between default and visual", "its direction is typical"),
        ("", "The hypothesis is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        parse_hypothesis(text, ATLAS.network_names)


def test_relative_to_reference_scans():
    import numpy as np

    reference = np.array([[0.1], [0.2], [0.3], [0.4]])
    assert relative_to(reference, np.array([[0.25], [0.4], [0.9]]))[:, 0].tolist() == [0.5, 0.875, 1.0]


def test_the_pipeline_gives_a_score_its_evidence_and_its_ceiling(small_model, tmp_path):
    from transformers import pipeline

    small_model[0].save_pretrained(tmp_path)
    small_model[1].save_pretrained(tmp_path)
    test = pipeline("fmri-hypothesis", model=str(tmp_path))
    hypothesis = "weaker connectivity between default and visual; stronger connectivity within control"
    one = test(scans(1)[0], hypothesis=hypothesis)
    assert [each["statement"] for each in one["evidence"]] == [
        "weaker connectivity between default and visual",
        "stronger connectivity within control",
    ]
    mean = sum(each["probability"] for each in one["evidence"]) / 2
    assert 0 < one["score"] < 1
    assert one["score"] == pytest.approx(mean)
    several = test(scans(3), hypothesis=hypothesis, reference_scans=scans(5, seed=4))
    assert len(several) == 3
    assert all(each["direct_score"] * 10 == pytest.approx(round(each["direct_score"] * 10)) for each in several)
    with pytest.raises(ValueError, match="cannot be read"):
        test(scans(1)[0], hypothesis="they differ")


def test_texts_are_sampled_from_a_language_model(small_model):
    model, tokenizer = small_model[0].language_model, small_model[1].tokenizer
    texts = sample_texts(model, tokenizer, 5, n_tokens=6, seed=1)
    assert texts == sample_texts(model, tokenizer, 5, n_tokens=6, seed=1)
    assert texts != sample_texts(model, tokenizer, 5, n_tokens=6, seed=2)
    turn = list(ChatFormat.of(tokenizer).prefix)
    assert [text[: len(turn)] == turn for text in texts] == [True] * 2 + [False] * 3
    assert len(texts[0]) == len(turn) + 6
    assert not any(small_model[1].fmri_token_id in text for text in texts)


def test_sampled_texts_are_learnt_beside_scans(small_model):
    texts = [[5, 6, 7, 8], [9, 10, 11]]
    all_own = dataclasses.replace(RECIPE, share_sampled_texts=1.0)
    batches = ReadingBatches(small_model[1].tokenizer, all_own, sampled_texts=texts)
    learnt = []
    for batch in map(batches.__getitem__, range(4)):
        assert "fmri_features" not in batch
        learnt += [row[row >= 0].tolist() for row in batch["labels"]]
    assert all(text in learnt for text in texts)
    assert all(text in texts for text in learnt)
    some_own = dataclasses.replace(RECIPE, share_sampled_texts=0.5)
    batch = ReadingBatches(small_model[1].tokenizer, some_own, sampled_texts=texts)[0]
    assert 0 < len(batch["fmri_features"]) < RECIPE.batch_size
    small_model[0](**batch).loss.backward()


def test_sampled_texts_have_to_be_given(small_model):
    some_own = dataclasses.replace(RECIPE, share_sampled_texts=0.5)
    with pytest.raises(ValueError, match=r"`share_sampled_texts` is 0\.5, but there are no texts"):
        ReadingBatches(small_model[1].tokenizer, some_own)


def test_the_first_name_of_a_pair_and_the_second_can_be_told_apart(small_model):
    pairs = small_model[0].network_pairs
    features = torch.zeros(1, 4, 4)  # the scan, A within, A and B, B within
    names = torch.randn(1, 2, 1, RECIPE.hidden_size)
    there = torch.ones(1, 2, 1, dtype=torch.bool)
    with torch.no_grad():
        as_named, turned_round = (pairs(features, each, there)[0, 2] for each in (names, names.flip(1)))
        other_first = names.clone()
        other_first[:, 0, 0, ::2] += 1.0
        changed = pairs(features, other_first, there)[0, 2] - as_named
    assert not torch.allclose(as_named, turned_round, atol=0.1 * float(as_named.std()))
    assert changed[::2].norm() > 3 * changed[1::2].norm()  # which only the common scale moves
