"""Examples of the stages: what stands together in a row, and what is drawn."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from scripts import run

from fmri_lm_hf import FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.corpus import check_text
from fmri_lm_hf.corpus.queries import ABSENT_ANSWERS, BINS, DESCRIBE, Question, bin_of, scan_facts
from fmri_lm_hf.models.network_pairs import VALUE
from fmri_lm_hf.scans.dataset import load_scan_dataset
from fmri_lm_hf.training.arguments import StageArguments
from fmri_lm_hf.training.attention_supervision import AttentionSupervision
from fmri_lm_hf.training.backbone import load_backbone
from fmri_lm_hf.training.data import FmriLMCollator, ScanConversations, ScanInputs, about_scan
from fmri_lm_hf.training.feature_store import FeatureStore
from fmri_lm_hf.training.random_questions import replayed
from fmri_lm_hf.training.texts import CorpusTexts, LabelQuestions, ReadingQuestions, joined
from fmri_lm_hf.training.tokenizer import embed_texts, embed_tokens
from fmri_lm_hf.training.trainer import FmriLMTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features")


@pytest.fixture
def scans(tiny):
    return load_scan_dataset(tiny / "scans")[0]


@pytest.fixture
def processor(trained):
    return FmriLMProcessor.from_pretrained(trained / "alignment")


@pytest.fixture
def model(trained):
    model = FmriLMForCausalLM.from_pretrained(trained / "alignment")
    model.freeze_fmri_tokenizer()
    return model


ASK = about_scan([Question("What is the sex?", "female"), Question("Age?", "older")])


def test_every_row_of_a_batch_is_of_one_scan(tiny, trained, scans, processor, model, store):
    """Scan, features, codes, description, network pairs and labels of one `scan_id`, each worked out by hand."""
    by_id = {scan["scan_id"]: scan for scan in scans}
    ids = [scan["scan_id"] for scan in scans][::-1]  # in another order than the dataset
    rows = [list(by_id).index(scan_id) for scan_id in ids]
    texts = CorpusTexts(str(tiny / "corpus"), "connectivity", ["sentence"], requests=["Compare this scan."])
    names = processor.feature_extractor.atlas.network_names
    reading = ReadingQuestions(processor.feature_extractor.atlas, n_questions=3, share_described=1.0)
    labels = LabelQuestions(scans, {"sex": {"ask": ["Sex?"], "answers": {"female": "female", "male": "male"}}})
    inputs = store.extract(scans, processor.feature_extractor, rows)
    views = [store.encode(inputs, model, window, with_codes=True) for window in (None, {"shortest": 0.5, "seed": 3})]
    examples = ScanConversations(views, ids, joined((texts, 1.0), (reading, 1.0), (labels, 1.0)), seed=5)
    batch = [examples[i] for i in range(len(examples))]
    collated = FmriLMCollator(processor)(batch)
    corpus = load_dataset(str(tiny / "corpus"), "connectivity")
    said = {}
    for row in [row for split in corpus.values() for row in split]:
        said.setdefault(row["scan_id"], set()).add(row["text"])
    networks = np.array(processor.feature_extractor.atlas.networks)
    n_levels = 0
    for i, (scan_id, example) in enumerate(zip(ids, batch)):
        scan = by_id[scan_id]
        assert example["scan_id"] == scan_id
        given = processor.feature_extractor(scan)
        masks = {name: collated[name][i : i + 1] for name in ("roi_mask", "padding_mask")}
        features = model.get_fmri_features(given["input_values"], **masks)[0]
        torch.testing.assert_close(collated["fmri_features"][i], features, rtol=1e-4, atol=1e-5)
        encoded = model.fmri_tokenizer.encode(given["input_values"], **masks)
        torch.testing.assert_close(
            collated["fmri_labels"][i], encoded.fmri_codes[0].masked_fill(~encoded.token_mask[0], -100)
        )
        turns = [message["content"] for message in example["conversation"]]
        answers = dict(zip([text_of(question) for question in turns[::2]], turns[1::2]))
        assert answers.pop("Sex?") == scan["sex"]
        assert answers.pop("Compare this scan.") in said[scan_id]
        # what is said of the scan itself, against correlations computed here
        kept = masks["padding_mask"][0].numpy()
        correlation = np.corrcoef(given["input_values"][0].numpy()[:, kept])
        rms = np.sqrt(np.mean(correlation[~np.eye(len(correlation), dtype=bool)] ** 2))

        def value(first, second, correlation=correlation, rms=rms):
            block = correlation[np.ix_(networks == first, networks == second)]
            return (block[~np.eye(len(block), dtype=bool)] if first == second else block).mean() / rms

        for question, answer in answers.items():
            asked = sorted((name for name in names if name in question), key=question.index)
            if answer in BINS:
                first, second = (asked * 2)[:2]
                assert answer == BINS[int(bin_of(value(first, second), first == second))]
                n_levels += 1
            elif question in DESCRIBE:
                facts = scan_facts(
                    [value(names[a], names[b]) for a, b in zip(*np.triu_indices(len(names)))],
                    [True] * 10,
                    names,
                )
                assert check_text(answer, facts).precision == 1
        labelled = processor.encode_chat(example["conversation"])["labels"]
        assert collated["labels"][i, -len(labelled) :].tolist() == labelled
    assert n_levels > 20


def text_of(content) -> str:
    return content if isinstance(content, str) else content[1]["text"]


def reading_batch(scans, processor, model, store, roi_dropout=0.0, with_codes=False) -> dict[str, torch.Tensor]:
    """A batch with attention targets of conversations about network pairs, and texts without a scan between them."""
    inputs = store.extract(scans, processor.feature_extractor, range(6))
    reading = ReadingQuestions(processor.feature_extractor.atlas, n_questions=3, share_described=1.0)
    examples = ScanConversations(
        [store.encode(inputs, model, with_codes=with_codes)],
        inputs.scan_ids,
        joined((reading, 1.0)),
        plain_texts=[{"input_ids": [7, 8, 9]}],
        n_plain=2,
        roi_dropout=roi_dropout,
    )
    return FmriLMCollator(processor, with_targets=True)([examples[i] for i in (0, 1, 6, 2, 3, 7, 4, 5)])


def test_targets_of_conversations_point_at_the_pair_that_is_spoken_of(scans, processor, model, store):
    """In prompts of different lengths: the pair's token decides the level that is written next."""
    batch = reading_batch(scans, processor, model, store)
    names = processor.feature_extractor.atlas.network_names
    first, second = np.triu_indices(len(names))
    words, n_levels = [processor.tokenize(f" {name}")[-1] for name in names], 0
    scan_of = (batch["input_ids"] == processor.fmri_token_id).any(1).cumsum(0) - 1
    for row, slot, position, column, *named in batch["attention_targets"].tolist():
        ids = batch["input_ids"][row]
        token = column - int((ids == processor.fmri_token_id).nonzero()[0])
        pair = token - (processor.n_tokens - len(first))
        if named[0] < 0:
            assert ids[position + 1] in (words[first[pair]], words[second[pair]])
            continue
        assert {int(ids[place]) for place in named} == {words[first[pair]], words[second[pair]]}
        said = processor.tokenizer.decode(ids[position + 1 :][:4]).strip()
        if slot == 0 and not said.startswith(("yes", "no")):
            value = float(batch["fmri_features"][scan_of[row], token, VALUE])
            assert said.startswith(BINS[int(bin_of(value, first[pair] == second[pair]))])
            n_levels += 1
    assert n_levels > 15


@pytest.mark.parametrize("roi_dropout, with_codes", [(0.0, False), (0.6, False), (0.6, True)])
def test_the_supervision_does_not_depend_on_whether_hidden_tokens_are_left_out(
    scans, processor, model, store, tmp_path, roi_dropout, with_codes, monkeypatch
):
    batch = reading_batch(scans, processor, model, store, roi_dropout, with_codes)
    arguments = StageArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer = FmriLMTrainer(model, arguments, supervision=AttentionSupervision(model.language_model, (0, 1)))
    model.train()
    totals = []
    for skips in (True, False):
        if not skips:
            monkeypatch.setattr(trainer, "_scans_come_first", lambda batch, labels: False)
        parts, _ = trainer.loss_parts(model, dict(batch))
        totals.append([parts[name].total for name in ("attention_loss", "text_loss")])
        assert totals[-1][0].isfinite()  # every token that heads should attend to is seen
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-5, atol=1e-4)
    assert trainer.count_units(batch)["attention targets"] == len(batch["attention_targets"]) > 30


@torch.no_grad()
def test_a_model_that_sees_rois_too_reads_replayed_scans_as_one_of_pairs_alone_would(processor, model):
    replay = replayed(processor.tokenizer, 4, seed=7)
    batch = {name: values for name, values in replay[0].items() if name not in ("attention_targets", "labels")}
    config = copy.deepcopy(model.config)
    config.scan_tokens = ["network_pairs"]
    of_pairs = FmriLMForCausalLM(config).eval()
    of_pairs.language_model.load_state_dict(model.language_model.state_dict())
    of_pairs.network_pairs.load_state_dict(model.network_pairs.state_dict())
    torch.testing.assert_close(model.eval()(**batch).logits, of_pairs(**batch).logits)


def test_where_no_scan_is_the_answer_says_so(scans, processor, model, store):
    noise = store.encode_noise(4, model)
    examples = conversations(scans, processor, model, store, [0, 1], absent=noise, n_absent=40)
    assert len(examples) == 42
    absent = [examples[i] for i in range(2, 42)]
    assert {each["conversation"][1]["content"] for each in absent} == set(ABSENT_ANSWERS)
    with_noise = [each for each in absent if "fmri_features" in each]
    assert 5 < len(with_noise) < 35
    stored = [noise.row(name)["fmri_features"] for name in noise.scan_ids]
    assert all(any(torch.equal(each["fmri_features"], one) for one in stored) for each in with_noise)
    for each in absent:
        (question, _) = each["conversation"]
        assert isinstance(question["content"], str) == ("fmri_features" not in each)
    FmriLMCollator(processor)(absent)


def test_reading_needs_tokens_of_network_pairs(tiny, trained, tmp_path):
    with pytest.raises(ValueError, match="`reading_questions` needs network-pair tokens: set `scan_tokens"):
        run("alignment", "tiny/alignment", "--scan_tokens", "rois", "--output_dir", str(tmp_path / "out"))


def test_stage_one_pairs_a_scan_with_its_own_text(tiny, scans, processor, store):
    ids = [scan["scan_id"] for scan in scans]
    inputs = store.extract(scans, processor.feature_extractor, range(len(scans)))
    embeds = {scan_id: torch.full((2,), float(i)) for i, scan_id in enumerate(ids)}
    examples = ScanInputs(inputs, ids[::-1], text_embeds=embeds)
    whole = processor.feature_extractor([scans[i] for i in range(len(scans))][::-1])
    for i in range(len(examples)):
        item = examples[i]
        assert all(torch.equal(item[name], whole[name][i]) for name in processor.feature_extractor.model_input_names)
        assert item["text_embeds"].tolist() == [len(ids) - 1 - i] * 2
    more = {scan_id: torch.full((3, 2), -float(i)) for i, scan_id in enumerate(ids)}
    item = ScanInputs(inputs, ids, text_embeds=embeds, text_token_embeds=more)[1]
    assert torch.equal(item["text_token_embeds"], torch.full((3, 2), -1.0))
    with pytest.raises(ValueError, match=f"`text_embeds` has no entry for scan '{ids[0]}'"):
        ScanInputs(inputs, ids, text_embeds={})
    with pytest.raises(ValueError, match=f"`descriptors` has no entry for scan '{ids[0]}'"):
        ScanInputs(inputs, ids, text_embeds=embeds, descriptors={})


def test_plain_texts_are_scored_on_every_token(scans, processor, model, store):
    examples = conversations(scans, processor, model, store, [3, 4], plain_texts=[{"input_ids": [7, 8, 9]}], n_plain=2)
    batch = FmriLMCollator(processor)([examples[i] for i in range(len(examples))])
    assert len(examples) == 4
    assert batch["fmri_features"].shape[0] == 2
    assert batch["labels"][2:, -4:].tolist() == [[-100, -100, 8, 9]] * 2
    assert (batch["input_ids"] == processor.fmri_token_id).sum(1).tolist() == [
        47,
        47,
        0,
        0,
    ]  # 36 of ROIs, 11 of networks


def conversations(scans, processor, model, store, rows, **options) -> ScanConversations:
    inputs = store.extract(scans, processor.feature_extractor, rows)
    views = [store.encode(inputs, model)]
    return ScanConversations(views, inputs.scan_ids, lambda scan_id, draw, seen: ASK, **options)


def test_nothing_is_said_about_what_is_hidden(scans, processor, model, store):
    atlas = processor.feature_extractor.atlas
    inputs = store.extract(scans, processor.feature_extractor, [0])
    seen = store.encode(inputs, model).row(inputs.scan_ids[0])
    reading = ReadingQuestions(atlas, n_questions=3, share_described=1.0)
    hidden = atlas.network_names[0]
    of_network = torch.tensor([name == hidden for name in atlas.networks])
    spoken = {name for fact in reading.facts(seen) for name in fact["network"]}
    assert hidden in spoken
    one_left = of_network & (of_network.cumsum(0) > 1)  # of one ROI nothing lies within its network
    facts = reading.facts({**seen, "roi_mask": ~one_left})
    assert f"connectivity/bin/{hidden}-{hidden}" not in {fact["feature"] for fact in facts}
    for _ in range(3):
        for said in reading.turns("", np.random.default_rng(0), {**seen, "roi_mask": ~of_network}):
            assert hidden not in said.answer
    assert reading.turns("", np.random.default_rng(0), {**seen, "roi_mask": ~torch.ones_like(of_network)}) == []


def test_draws_are_functions_of_seed_epoch_and_index(scans, processor, model, store):
    def hidden(seed, epoch, index):
        examples = conversations(scans, processor, model, store, [0, 1], roi_dropout=0.9, seed=seed)
        return tuple(examples[epoch * len(examples) + index]["roi_mask"].tolist())

    assert hidden(0, 1, 0) == hidden(0, 1, 0)
    assert len({hidden(0, 0, 0), hidden(0, 1, 0), hidden(1, 0, 0), hidden(0, 0, 1)}) > 2
    whole = conversations(scans, processor, model, store, [0, 1])
    assert all(whole[i]["roi_mask"].all() for i in range(2))


def test_facts_of_texts_are_numbers_that_compare_scans(tiny, scans):
    texts = CorpusTexts(str(tiny / "corpus"), None, ["sentence"])
    ids = [scan["scan_id"] for scan in scans if scan["scan_id"] in texts.scan_ids]
    found = texts.descriptors(ids, ids[:3])
    assert set(found) == set(ids)
    of_training = {fact["feature"]: fact["z"] for i in ids[:3] for fact in facts_of(texts, i)}
    for scan_id in ids[:3]:
        stated = {fact["feature"]: fact["z"] for fact in facts_of(texts, scan_id)}
        expected = [stated.get(name, 0.0) for name in sorted(of_training)]
        assert found[scan_id].tolist() == pytest.approx(expected)
        assert any(expected)
    # a measure that only others speak of is none
    assert len(found[ids[-1]]) == len(of_training) < len({f["feature"] for i in ids for f in facts_of(texts, i)})


def facts_of(texts, scan_id):
    rows = texts.corpus.filter(lambda row: row["scan_id"] == scan_id)
    return [fact for row in rows["facts"] for fact in json.loads(row)]


def test_texts_without_facts_have_no_descriptors(tmp_path):
    Dataset.from_dict({"scan_id": ["a"], "length": ["sentence"], "text": ["A text."]}).to_parquet(
        tmp_path / "train.parquet"
    )
    texts = CorpusTexts(str(tmp_path), None, ["sentence"])
    assert texts.descriptors(["a"], ["a"]) == {}


def test_tokens_of_a_text_are_spread_over_it(trained):
    backbone = load_backbone(str(trained / "reading"))
    model, tokenizer = backbone.language_model, backbone.text_tokenizer
    texts = ["female", "a longer text about networks"]
    found = embed_tokens(model, tokenizer, texts, 3)
    for text, rows in zip(texts, found):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        chosen = [ids[0], ids[len(ids) // 3], ids[2 * len(ids) // 3]]
        assert torch.equal(rows, model.get_input_embeddings().weight[chosen])


def test_embedding_of_a_text_does_not_depend_on_its_batch(trained):
    backbone = load_backbone(str(trained / "reading"))
    model, tokenizer = backbone.language_model.base_model.eval(), backbone.text_tokenizer
    texts = ["What is the sex?", "female", "a much longer text about networks " * 4]
    together = embed_texts(model, tokenizer, texts)
    alone = torch.cat([embed_texts(model, tokenizer, [text]) for text in texts])
    torch.testing.assert_close(together, alone)
    ids = tokenizer(texts[0], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(together[0], model(ids).last_hidden_state[0].mean(0))
    model.config.max_position_embeddings = 4
    torch.testing.assert_close(embed_texts(model, tokenizer, texts)[0], model(ids[:, :4]).last_hidden_state[0].mean(0))


def test_labels_become_questions_with_their_answers():
    columns = {
        "scan_id": ["a", "b", "c", "d"],
        "sex": ["F", "M", None, None],
        "age": [30.0, 29.9, float("nan"), 95.0],
        "group": [1.0, 2.0, 3.0, None],
    }
    questions = {
        "sex": {"ask": ["Sex?", "Gender?"], "answers": {"F": "female", "M": "male"}},
        "age": {"ask": ["Age?"], "below": {90: "old", 30: "young"}},
        "group": {"ask": ["Group?"], "answers": {1: "first", 2: "second"}},
    }
    asked = LabelQuestions(Dataset.from_dict(columns), questions)
    # a bound above the age, or an answer to the group, is not known for the others
    assert asked.scan_ids == {"a", "b"}
    draw = np.random.default_rng(0)
    for scan_id, expected in (("a", {"female", "old", "first"}), ("b", {"male", "young", "second"})):
        drawn = [asked.turns(scan_id, draw, {}) for _ in range(20)]
        assert {frozenset(said.answer for said in turns) for turns in drawn} == {frozenset(expected)}
        assert len({tuple(said.text for said in turns) for turns in drawn}) > 5  # orders and wordings change
    one = LabelQuestions(Dataset.from_dict(columns), questions, n_questions=1)
    assert {len(one.turns("a", draw, {})) for _ in range(5)} == {1}
