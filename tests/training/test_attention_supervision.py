"""Attention supervision: heads attend to the names of a pair, and to the token that holds its value."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from small_reading import ATLAS, RECIPE
from transformers import LlamaConfig, LlamaForCausalLM

from fmri_lm_hf.corpus.queries import (
    BINS,
    ask_bin,
    ask_comparison,
    ask_description,
    ask_extreme,
    bin_facts,
    bin_of,
    scan_facts,
)
from fmri_lm_hf.models.network_pairs import VALUE, pair_indices
from fmri_lm_hf.training.arguments import StageArguments
from fmri_lm_hf.training.attention_supervision import (
    FIRST_NAME,
    N_COLUMNS,
    PAIR,
    POSITION,
    ROW,
    SECOND_NAME,
    SLOT,
    AttentionSupervision,
    PairVocabulary,
    find_targets,
    select_rows,
)
from fmri_lm_hf.training.feature_store import IGNORED
from fmri_lm_hf.training.random_questions import ReadingBatches, replayed
from fmri_lm_hf.training.trainer import FmriLMTrainer


def words_of(text: str) -> tuple[list[str], PairVocabulary]:
    """A tokenizer that cuts at spaces and before punctuation, and names of two words."""
    names = {"default mode": [("default", "mode")], "default": [("default",)], "visual": [("visual",)]}
    levels = [tuple(level.split()) for level in BINS]
    ids = text.lower().replace(".", " .").replace("?", " ?").replace(",", " ,").split()
    return ids, PairVocabulary(names, levels)  # type: ignore[arg-type]


def facts(seed: int = 0):
    values = torch.randn(6, generator=torch.Generator().manual_seed(seed))
    return scan_facts(values.tolist(), [True] * 6, ["default mode", "default", "visual"])


def found_in(question):
    asked, vocabulary = words_of(question.text)
    answer, _ = words_of(question.answer)
    ids, labels = asked + answer, [IGNORED] * len(asked) + list(range(len(answer)))
    return ids, len(asked), find_targets(ids, labels, question, vocabulary)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
def test_every_level_of_an_answer_is_looked_up_from_the_word_before_it(seed):
    rng = random.Random(seed)
    for question in (ask_bin(bin_facts(facts(seed))[seed], rng), ask_description(facts(seed), rng)):
        ids, n_asked, targets = found_in(question)
        stated = [fact for fact in question.states if "/bin/" in fact["feature"]]
        of_levels = [target for target in targets if target.names[0] >= 0]
        assert len(of_levels) == len(stated)
        for target, fact in zip(of_levels, stated, strict=True):
            level = BINS[round(fact["z"]) + 2].split()
            assert ids[target.position + 1 : target.position + 1 + len(level)] == level
            assert target.position + 1 >= n_asked
            names = sorted(fact["network"])
            read = sorted(" ".join(ids[end - (ids[end] == "mode") : end + 1]) for end in target.names)
            assert read == names
            assert target.networks == tuple(
                ["default mode", "default", "visual"].index(name) for name in fact["network"]
            )


@pytest.mark.parametrize("extreme", ["strongest", "weakest"])
def test_both_names_of_an_extreme_are_looked_up_where_they_are_written(extreme):
    ids, n_asked, targets = found_in(ask_extreme(facts(), extreme))
    assert len(targets) == 2
    assert [target.names for target in targets] == [(-1, -1)] * 2
    written = [ids[target.position + 1] for target in targets]
    assert {word for name in ask_extreme(facts(), extreme).states[0]["network"] for word in [name.split()[0]]} == {
        *written
    }
    assert all(target.position + 1 >= n_asked for target in targets)


def test_a_comparison_looks_up_both_pairs_from_where_it_is_answered():
    first, second = bin_facts(facts())[1], bin_facts(facts())[5]  # of two names, and within one
    ids, n_asked, targets = found_in(ask_comparison(first, second))
    assert [target.slot for target in targets] == [0, 1]
    assert {target.position for target in targets} == {n_asked - 1}
    assert [target.networks for target in targets] == [(0, 1), (2, 2)]
    assert [ids[end] for end in targets[0].names] == ["mode", "default"]
    assert [ids[end] for end in targets[1].names] == ["visual", "visual"]


def test_what_is_written_in_another_way_is_left_out():
    question = dataclasses.replace(ask_bin(bin_facts(facts())[2]), text="How strong is it?")
    assert found_in(question)[2] == []


def test_the_token_that_is_looked_up_holds_the_value_of_the_level(batches):
    """In whole batches: pair, names and level belong together."""
    tokenizer, n_checked = batches.tokenizer, 0
    for number in (2, 12, 19):
        batch = batches[number]
        scan_of_row = (batch["input_ids"] == batches.fmri).any(1).cumsum(0) - 1
        for target in batch["attention_targets"].tolist():
            ids = batch["input_ids"][target[ROW]]
            scan = int(scan_of_row[target[ROW]])
            pair = target[PAIR] - int((ids == batches.fmri).nonzero()[0]) - 1
            names = batch["network_name_ids"][scan, :, 0]
            first, second = pair_indices(len(names))[:, pair].tolist()
            if target[FIRST_NAME] < 0:
                assert ids[target[POSITION] + 1] in (names[first], names[second])
                continue
            assert {int(ids[target[k]]) for k in (FIRST_NAME, SECOND_NAME)} == {
                int(names[first]),
                int(names[second]),
            }
            said = tokenizer.decode(ids[target[POSITION] + 1 :][:4]).strip()
            value = float(batch["fmri_features"][scan, 1 + pair, VALUE])
            if said.startswith(("yes", "no")):
                continue
            assert said.startswith(BINS[int(bin_of(value, first == second))])
            n_checked += 1
    assert n_checked > 50


def test_a_prompt_of_two_scans_is_as_the_processor_writes_it(small_model, batches):
    model, processor = small_model
    first, second = (scan_facts([value] * 6, [True] * 6, ATLAS.network_names) for value in (0.2, 0.4))
    (question, *_) = batches._about_both(first, second, random.Random(0))
    row, _ = batches._row([question], [processor.n_tokens] * 2, ATLAS.network_names)
    asked = [{"type": "fmri"}, {"type": "fmri"}, {"type": "text", "text": question.text}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": question.answer}]
    assert row["input_ids"] == processor.encode_chat(messages)["input_ids"]
    positions = model.get_position_ids(torch.tensor([row["input_ids"]]))
    assert row["position_ids"] == positions[0].tolist()


def test_two_scans_are_compared_by_the_values_of_their_own_tokens(small_model):
    always = dataclasses.replace(RECIPE, share_two_scans=1.0, share_absent=0.0, share_text=0.0)
    compared = ReadingBatches(small_model[1].tokenizer, always)
    batch = compared[19]
    assert len(batch["fmri_features"]) == 2 * RECIPE.batch_size
    n_tokens = batch["fmri_features"].shape[1]
    values = batch["fmri_features"][:, 1:, VALUE]
    pairs = batch["attention_targets"][:, PAIR] - len(compared.format.prefix) - 1
    scans = 2 * batch["attention_targets"][:, ROW] + batch["attention_targets"][:, SLOT]
    answers = []
    for first, second in zip(range(0, len(pairs), 2), range(1, len(pairs), 2), strict=True):
        assert batch["attention_targets"][first, POSITION] == batch["attention_targets"][second, POSITION]
        assert pairs[second] == pairs[first] + n_tokens
        left, right = (float(values[scans[k], pairs[first]]) for k in (first, second))
        row, at = batch["attention_targets"][first, [ROW, POSITION]].tolist()
        answer = compared.tokenizer.decode(batch["input_ids"][row, at + 1 :][:6])
        assert ("first" if left > right else "second").startswith(answer[:4])
        answers.append(left > right)
    assert 0.2 < sum(answers) / len(answers) < 0.8
    del batch["attention_targets"]
    small_model[0](**batch).loss.backward()


def llama(heads: int = 4, key_heads: int = 4, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
        )
    ).eval()


TARGETS = torch.tensor([[0, 0, 7, 2, 5, 4], [1, 0, 8, 1, -1, -1], [1, 1, 6, 3, 0, 2]])
IDS = torch.arange(18).view(2, 9)


def expected_total(attentions, targets) -> torch.Tensor:
    """The same from the weights of unfused attention."""
    total = torch.zeros(())
    for row, slot, position, pair, *names in targets.tolist():
        total = total - attentions[1][row, 2 * slot, position, pair].log()
        for k, name in enumerate(names):
            if name >= 0:
                total = total - attentions[0][row, 2 * slot + k, position, name].log()
    return total


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("n_hidden", [0, 1])
def test_the_loss_is_that_of_the_attention_that_the_model_pays(key_heads, n_hidden):
    shown = torch.ones_like(IDS)
    shown[1, 5 : 5 + n_hidden] = 0
    plain = llama(key_heads=key_heads)
    plain.set_attn_implementation("eager")
    expected = plain(input_ids=IDS, attention_mask=shown, output_attentions=True)
    model = llama(key_heads=key_heads)
    supervision = AttentionSupervision(model)
    with supervision.over(TARGETS):
        found = model(input_ids=IDS, attention_mask=shown)
    torch.testing.assert_close(supervision.total, expected_total(expected.attentions, TARGETS))
    torch.testing.assert_close(found.logits[shown > 0], expected.logits[shown > 0], atol=1e-5, rtol=1e-4)
    with supervision.over(TARGETS[:0]):
        model(input_ids=IDS, attention_mask=shown)
    assert supervision.total == 0


def test_prompts_of_a_batch_keep_their_targets_when_others_are_taken_out():
    model = llama()
    supervision = AttentionSupervision(model)
    with supervision.over(TARGETS[1:]):
        model(input_ids=IDS[1:].repeat(2, 1), attention_mask=torch.ones(2, 9))
    of_both = supervision.total.clone()
    left = select_rows(TARGETS, torch.tensor([False, True]), n_cut=0)
    assert left[:, ROW].tolist() == [0, 0]
    with supervision.over(left):
        model(input_ids=IDS[1:], attention_mask=torch.ones(1, 9))
    torch.testing.assert_close(supervision.total, of_both)

    moved = TARGETS.clone()
    moved[:, POSITION:] += torch.where(moved[:, POSITION:] < 0, 0, 2)
    assert torch.equal(select_rows(moved, torch.ones(2, dtype=torch.bool), n_cut=2), TARGETS)
    assert left.shape[1] == N_COLUMNS
    assert set(TARGETS[:, SLOT].tolist()) == {0, 1}


def test_supervised_heads_learn_where_to_attend(small_model, batches):
    """A few steps on one batch, without any other loss."""
    model, _ = small_model
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    supervision = AttentionSupervision(model.language_model)
    batch = dict(batches[19])
    targets = batch.pop("attention_targets")
    batch.pop("labels")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    seen = []
    for _ in range(12):
        with supervision.over(targets):
            model(**batch)
        seen.append(supervision.total.item() / len(targets))
        supervision.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.load_state_dict(weights)
    assert seen[-1] < 0.7 * seen[0]


# --- replay ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_shares", [2, 5])
def test_shares_of_a_replayed_batch_add_up_to_it(small_model, tmp_path, n_shares):
    """However a step is cut, what is replayed beside it is the same: prompts with no scan, one and two."""
    model, processor = small_model
    replay = replayed(processor.tokenizer, 10, seed=4)
    arguments = StageArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer = FmriLMTrainer(model, arguments, supervision=AttentionSupervision(model.language_model))
    whole = dict(replay[5])
    shares = replay.shares(5, n_shares)
    units = [trainer._count(each) for each in (whole, *shares)]
    assert units[0] == {name: sum(each[name] for each in units[1:]) for name in units[0]}
    model.train()
    of_whole, _ = trainer._parts(model, whole)
    of_shares = [trainer._parts(model, each)[0] for each in shares]
    for name in ("text_loss", "text_only_loss", "attention_loss"):
        total = sum(each[name].total for each in of_shares)
        torch.testing.assert_close(total, of_whole[name].total, rtol=1e-4, atol=1e-3)


def test_a_replayed_batch_is_beside_every_second_step_and_another_one_each_time(small_model, tmp_path):
    model, processor = small_model
    arguments = StageArguments(str(tmp_path), use_cpu=True, report_to="none")
    replay = replayed(processor.tokenizer, 4, seed=4)
    trainer = FmriLMTrainer(model, arguments, replay=replay, replay_every=2)
    texts = {"input_ids": torch.tensor([[1, 5, 6]]), "labels": torch.tensor([[-100, 5, 6]])}
    seen = []
    for step in (0, 1, 2):
        trainer.state.global_step = step
        batches = [dict(texts), dict(texts)]
        trainer.prepare_step(batches)
        if step == 1:
            assert trainer.count_units(batches[0])["replayed words"] == 0
            assert "replay_loss" not in trainer.loss_parts(model, batches[0])[0]
            continue
        counts = [trainer.count_units(batch) for batch in batches]
        assert all(int(count["replayed words"]) > 10 for count in counts)
        assert all(int(count["other words"]) == 2 for count in counts)
        parts, _ = trainer.loss_parts(model, batches[0])
        assert parts["replay_loss"].total.item() > 0
        assert "replay" in batches[0]
        seen.append(batches[0]["replay"]["input_ids"])
    assert seen[0].shape != seen[1].shape or not torch.equal(*seen)
    with pytest.raises(
        ValueError, match="5 micro-batches, among which 4 random scans cannot be divided: give at least 5"
    ):
        trainer.prepare_step([dict(texts) for _ in range(5)])


@pytest.mark.parametrize("heads, layers, asked", [(4, 1, (0, 1)), (2, 2, (0, 1)), (4, 3, (1, 1))])
def test_a_model_without_such_heads_is_refused(heads, layers, asked):
    with pytest.raises(ValueError, match="give other `supervised_layers`"):
        AttentionSupervision(llama(heads, heads, layers), asked)
