"""Examples of the stages: what stands together in a row, and what is drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModel, AutoTokenizer

from fmri_lm_hf import FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.corpus import CohortReference
from fmri_lm_hf.scans.dataset import load_scan_dataset
from fmri_lm_hf.scans.splits import SplitManifest
from fmri_lm_hf.training.data import ScanConversations, ScanInputs, about_scan
from fmri_lm_hf.training.feature_store import FeatureStore
from fmri_lm_hf.training.texts import CorpusTexts, LabelQuestions, PairQuestions, embed_texts, joined
from fmri_lm_hf.training.trainer import FmriLMCollator

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


ASK = about_scan([("What is the sex?", "female"), ("Age?", "older")])


def test_every_row_of_a_batch_is_of_one_scan(tiny, trained, scans, processor, model, store):
    """Scan, features, codes, description, pair answers and labels of one `scan_id`, each worked out by hand."""
    by_id = {scan["scan_id"]: scan for scan in scans}
    ids = [scan["scan_id"] for scan in scans][::-1]  # in another order than the dataset
    rows = [list(by_id).index(scan_id) for scan_id in ids]
    texts = CorpusTexts(str(tiny / "corpus"), "connectivity", ["sentence"])
    reference = CohortReference.load(tiny / "corpus" / "reference")
    pairs = PairQuestions(reference, n_pairs=3)
    pairs.add(scans)
    labels = LabelQuestions(
        scans, {"sex": {"ask": ["Sex?"], "answers": {"female": "female", "male": "male"}}}
    )
    inputs = store.extract(scans, processor.feature_extractor, rows)
    views = [
        store.encode(inputs, model.fmri_tokenizer, "encoder", window)
        for window in (None, {"shortest": 0.5, "seed": 3})
    ]
    examples = ScanConversations(
        views, ids, joined((texts, 1.0), (pairs, 1.0), (labels, 1.0)), next_codes=True, seed=5
    )
    batch = [examples[i] for i in range(len(examples))]
    collated = FmriLMCollator(processor)(batch)
    corpus = load_dataset(str(tiny / "corpus"), "connectivity")
    said = {}
    for row in [row for split in corpus.values() for row in split]:
        said.setdefault(row["scan_id"], set()).add(row["text"])
    for i, (scan_id, example) in enumerate(zip(ids, batch)):
        scan = by_id[scan_id]
        assert example["scan_id"] == scan_id
        given = processor.feature_extractor(scan)
        masks = {name: collated[name][i : i + 1] for name in ("roi_mask", "padding_mask")}
        encoded = model.fmri_tokenizer.encode(given["input_values"], **masks)
        torch.testing.assert_close(collated["fmri_features"][i], encoded.embeddings[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            collated["fmri_labels"][i], encoded.fmri_codes[0].masked_fill(~encoded.token_mask[0], -100)
        )
        turns = [message["content"] for message in example["conversation"]]
        answers = dict(zip([text_of(question) for question in turns[::2]], turns[1::2]))
        assert answers.pop("Sex?") == scan["sex"]
        (described,) = [answer for question, answer in answers.items() if "Connectivity of" not in question]
        assert described in said[scan_id]
        z = {
            " and ".join(fact["network"]): fact["z"]
            for fact in reference.facts(reference.compute(scan["bold"], scan["t_r"]))
        }
        asked = {q[len("Connectivity of ") : -1]: a for q, a in answers.items() if "Connectivity of" in q}
        assert len(asked) == 3
        for pair, answer in asked.items():
            assert answer == ("lowered" if z[pair] < -0.43 else "raised" if z[pair] > 0.43 else "typical")
        labelled = processor.encode_chat(example["conversation"])["labels"]
        assert collated["labels"][i, : len(labelled)].tolist() == labelled


def text_of(content) -> str:
    return content if isinstance(content, str) else content[1]["text"]


def test_raised_is_above_the_training_mean(tiny, scans):
    """By the sign of the difference from the mean of the training scans, computed here from correlations alone."""
    atlas = load_scan_dataset(tiny / "scans")[1]
    training = set(SplitManifest.from_json(tiny / "corpus" / "splits.json").subjects["train"])
    networks = np.array(atlas.networks)

    def mean_z(scan, first, second):
        z = np.arctanh(np.corrcoef(scan["bold"].T)[np.ix_(networks == first, networks == second)] * 0.999999)
        return z.mean()

    pairs = PairQuestions(CohortReference.load(tiny / "corpus" / "reference"), n_pairs=99)
    pairs.add(scans)
    checked = 0
    for first, second in (("Visual", "Motor"), ("Control", "Default")):
        cohort_mean = np.mean(
            [mean_z(scan, first, second) for scan in scans if scan["subject_id"] in training]
        )
        for scan in scans:
            turns = dict(pairs.turns(scan["scan_id"], np.random.default_rng(0)))
            answer = next(a for q, a in turns.items() if first in q and second in q)
            if answer != "typical":
                assert (answer == "raised") == (mean_z(scan, first, second) > cohort_mean)
                checked += 1
    assert checked > 10


def test_stage_one_pairs_a_scan_with_its_own_text(tiny, scans, processor, store):
    ids = [scan["scan_id"] for scan in scans]
    inputs = store.extract(scans, processor.feature_extractor, range(len(scans)))
    embeds = {scan_id: torch.full((2,), float(i)) for i, scan_id in enumerate(ids)}
    examples = ScanInputs(inputs, ids[::-1], embeds)
    whole = processor.feature_extractor([scans[i] for i in range(len(scans))][::-1])
    for i in range(len(examples)):
        item = examples[i]
        assert all(
            torch.equal(item[name], whole[name][i]) for name in processor.feature_extractor.model_input_names
        )
        assert item["text_embeds"].tolist() == [len(ids) - 1 - i] * 2
    with pytest.raises(ValueError, match=f"`text_embeds` has none for scan '{ids[0]}'"):
        ScanInputs(inputs, ids, {})


def test_plain_texts_are_scored_on_every_token(scans, processor, model, store):
    examples = conversations(scans, processor, model, store, [3, 4], plain_texts=[{"input_ids": [7, 8, 9]}])
    batch = FmriLMCollator(processor)([examples[i] for i in range(len(examples))])
    assert len(examples) == 4
    assert batch["fmri_features"].shape[0] == 2
    assert batch["labels"][2:, :4].tolist() == [[7, 8, 9, -100]] * 2
    assert (batch["input_ids"] == processor.fmri_token_id).sum(1).tolist() == [36, 36, 0, 0]


def conversations(scans, processor, model, store, rows, **options) -> ScanConversations:
    inputs = store.extract(scans, processor.feature_extractor, rows)
    views = [store.encode(inputs, model.fmri_tokenizer, "encoder")]
    return ScanConversations(views, inputs.scan_ids, lambda scan_id, draw: ASK, **options)


def test_draws_are_functions_of_seed_epoch_and_index(scans, processor, model, store):
    def hidden(seed, epoch, index):
        examples = conversations(scans, processor, model, store, [0, 1], roi_dropout=0.9, seed=seed)
        examples.set_epoch(epoch)
        return tuple(examples[index]["roi_mask"].tolist())

    assert hidden(0, 1, 0) == hidden(0, 1, 0)
    assert len({hidden(0, 0, 0), hidden(0, 1, 0), hidden(1, 0, 0), hidden(0, 0, 1)}) > 2
    whole = conversations(scans, processor, model, store, [0, 1])
    assert all(whole[i]["roi_mask"].all() for i in range(2))


def test_embedding_of_a_text_does_not_depend_on_its_batch(tiny):
    model = AutoModel.from_pretrained(tiny / "language_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny / "language_model")
    texts = ["What is the sex?", "female", "a much longer text about networks " * 4]
    together = embed_texts(model, tokenizer, texts)
    alone = torch.cat([embed_texts(model, tokenizer, [text]) for text in texts])
    torch.testing.assert_close(together, alone)
    ids = tokenizer(texts[0], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(together[0], model(ids).last_hidden_state[0].mean(0))
    model.config.max_position_embeddings = 4
    torch.testing.assert_close(
        embed_texts(model, tokenizer, texts)[0], model(ids[:, :4]).last_hidden_state[0].mean(0)
    )


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
        drawn = [asked.turns(scan_id, draw) for _ in range(20)]
        assert {frozenset(answer for _, answer in turns) for turns in drawn} == {frozenset(expected)}
        assert len({json.dumps(turns) for turns in drawn}) > 5  # orders and wordings change
    one = LabelQuestions(Dataset.from_dict(columns), questions, n_questions=1)
    assert {len(one.turns("a", draw)) for _ in range(5)} == {1}
