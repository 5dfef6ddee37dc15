"""The stage `understanding`: what it writes, what it leaves out, and what it makes of a pretrained encoder."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import load_file
from scripts import run
from small_understanding import NETWORKS, VOCABULARY, VOICES, WORDINGS, row, write_inputs
from transformers import AutoModel, AutoTokenizer, GPT2Config, LlamaConfig, LlamaForCausalLM

from fmri_lm_hf.questions.classes import CLASSES, NONE, PAIRINGS, PLACEHOLDERS, Reading
from fmri_lm_hf.questions.encoder import QuestionReader, encode
from fmri_lm_hf.questions.language_model import LanguageModelReader
from fmri_lm_hf.training import understanding as stage
from fmri_lm_hf.training.understanding import (
    Examples,
    UnderstandingArguments,
    collate,
    judge,
    new_encoder,
    read_compositions,
    read_questions,
    smaller_vocabulary,
)
from fmri_lm_hf.training.wordings import IGNORED, Example, GrammarQuestions

SECOND = {name: number for number, name in enumerate((*CLASSES, NONE))}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("understanding"))


def words(inputs, output, *more):
    options = {"encoder": inputs / "bert", "questions": inputs / "questions", "output_dir": output}
    options |= {"num_train_epochs": 2, "per_device_train_batch_size": 4, "vocabulary": 4}
    options |= {"save_strategy": "no", "use_cpu": "true", "report_to": "none", "disable_tqdm": "true"}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))] + list(more)


@pytest.fixture(scope="module")
def held_out(inputs):
    run("understanding", *words(inputs, inputs / "held_out", "--hold_out", "other"))
    return inputs / "held_out"


def record(folder):
    return json.loads((folder / "understanding.json").read_text(encoding="utf-8"))


# ----- result -----


def test_the_result_is_an_encoder_that_reads(held_out):
    names = {file.name for file in held_out.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "understanding.json"}
    (reading,) = QuestionReader.load(held_out).read(["how strong is [n1] with [n2] ?"])
    assert sum(reading.first.values()) == pytest.approx(1, abs=1e-5)


def test_the_record_says_what_was_trained_on_and_judged(held_out):
    found = record(held_out)
    assert (found["encoder"], found["held_out"], found["seed"], found["epochs"]) == ("bert", ["other"], 42, 2)
    assert found["questions"] == {voice: len(rows) for voice, rows in VOICES.items()}
    # six questions are 58 % of the examples of an epoch, of which there are two
    assert found["n_examples"] == 2 * round(len(VOICES["plain"]) / 0.58)
    assert set(found["scores"]) == {"all", "other", "language en", "language de", *INTENTS}
    assert sum(found["scores"]["all"].values()) == len(VOICES["other"])


INTENTS = {f"intent {each['intent']}" for each in VOICES["other"]}


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_seed_gives_the_same_encoder_again(inputs, held_out):
    run("understanding", *words(inputs, inputs / "again", "--hold_out", "other"))
    run("understanding", *words(inputs, inputs / "seed", "--hold_out", "other", "--seed", "1"))
    first, again, other = (weights(folder) for folder in (held_out, inputs / "again", inputs / "seed"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classify.heads.0.weight"], other["classify.heads.0.weight"])


def test_training_moves_the_encoder_and_the_classifiers_faster(inputs):
    arguments = UnderstandingArguments(output_dir=str(inputs / "none"), learning_rate=1e-3, use_cpu=True)
    arguments.encoder = str(inputs / "bert")
    reader, _ = stage.encoder_reader(arguments, ["how"])
    groups = stage.optimizer(reader.model, arguments).param_groups
    assert [group["lr"] for group in groups] == [1e-3, 5e-3]
    assert {id(weight) for weight in groups[1]["params"]} == {id(w) for w in reader.model.classify.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(list(reader.model.parameters()))


def test_a_language_model_gets_adapters(inputs, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(inputs / "bert")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}

    def load(name):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)), tokenizer

    monkeypatch.setattr(stage, "load_packaged", load)
    run("understanding", *words(inputs, tmp_path, "--encoder", "smollm2", "--hold_out", "other", "--lora_rank", "2"))
    assert {"adapter.json", "adapter.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    assert record(tmp_path)["encoder"] == "smollm2"
    assert sum(record(tmp_path)["scores"]["all"].values()) == len(VOICES["other"])
    reader = LanguageModelReader.load(tmp_path, *load("smollm2"))
    assert reader.model.rank == 2
    moved = [weight for name, weight in reader.model.named_parameters() if "lora_B" in name]
    assert all(weight.abs().sum() > 0 for weight in moved)


# ----- what is left out -----


@pytest.fixture
def drawn(monkeypatch):
    """What the stage trains on, in place of training: the examples before they become ids."""
    seen = {}

    class Stop(Exception):
        pass

    def examples(known, grammar, arguments, encode, per_epoch, never=()):
        texts = []
        made = Examples(known, grammar, arguments, lambda text: texts.append(text) or [0], per_epoch, never)
        seen["labels"] = [tuple(made[number]["labels"]) for number in range(len(made))]
        seen["texts"] = [text.lower() for text in texts]
        raise Stop

    monkeypatch.setattr(stage, "Examples", examples)

    def draw(*words):
        with pytest.raises(Stop):
            run("understanding", *words)
        return seen["texts"], seen["labels"]

    return draw


def test_a_voice_that_is_held_out_is_never_drawn(inputs, drawn, tmp_path):
    many = ("--num_train_epochs", "40", "--share_grammar", "0.1", "--share_joined", "0.4")
    texts, _ = drawn(*words(inputs, tmp_path, "--hold_out", "other", *many))
    assert len(texts) > 400
    assert not any("zz" in text for text in texts)
    texts, _ = drawn(*words(inputs, tmp_path, *many))
    assert sum("zz" in text for text in texts) > 100


def test_examples_have_slips_of_the_pen(inputs, drawn, tmp_path):
    alone = ("--num_train_epochs", "40", "--share_grammar", "0", "--share_joined", "0")
    texts, _ = drawn(*words(inputs, tmp_path, *alone))
    n_questions = sum(map(len, VOICES.values()))
    assert len(texts) == 40 * n_questions
    assert len(set(texts)) > 2 * n_questions


def test_a_voice_that_is_held_out_gives_no_subwords(held_out):
    known = QuestionReader.load(held_out).tokenizer.get_vocab()
    assert "ñ" not in known
    assert "ú" not in known


def composed(labels):
    """Pairs of classes of the examples that ask two things."""
    return {frozenset((CLASSES[first], CLASSES[second])) for first, second, *_ in labels if second != SECOND[NONE]}


def test_compositions_are_never_joined_nor_learnt_as_they_were_written(inputs, drawn, tmp_path):
    never = tmp_path / "never.json"
    never.write_text(json.dumps([["graph", "within"], ["yesno", "level"]]), encoding="utf-8")
    many = ("--num_train_epochs", "60", "--share_joined", "0.5")
    _, labels = drawn(*words(inputs, tmp_path / "out", "--never_joined", str(never), *many))
    unwanted = {frozenset(("graph/hub", "within")), frozenset(("yesno2/low", "level"))}
    assert composed(labels)
    assert not composed(labels) & unwanted
    _, labels = drawn(*words(inputs, tmp_path / "out", *many))
    assert composed(labels) >= unwanted


def test_the_benchmark_has_compositions():
    found = read_compositions("benchmarks/questions/compositions.json")
    assert frozenset(("partner", "count")) in found
    assert read_compositions(None) == set()


# ----- examples -----


def examples(inputs, seed=0, epochs=1, known=6, **shares):
    arguments = UnderstandingArguments(
        output_dir=str(inputs / "none"), seed=seed, num_train_epochs=epochs, use_cpu=True
    )
    for name, share in shares.items():
        setattr(arguments, name, share)
    questions = [Example(f"question {number}", (number, SECOND[NONE], IGNORED, IGNORED)) for number in range(known)]
    grammar = GrammarQuestions(inputs / "questions" / "wordings")
    return Examples(questions, grammar, arguments, lambda text: [len(text)], known, ())


def drawn_labels(made):
    return [made[number]["labels"] for number in range(len(made))]


def test_an_example_depends_on_seed_and_number_alone(inputs):
    first = examples(inputs)
    random.seed(5)  # nor on what was drawn elsewhere
    assert first[3] == examples(inputs)[3]
    assert drawn_labels(first) == drawn_labels(examples(inputs))
    assert drawn_labels(first) != drawn_labels(examples(inputs, seed=1))


def test_every_question_is_seen_once_an_epoch_in_another_order(inputs):
    made = examples(inputs, epochs=3, share_grammar=0.0, share_joined=0.0)
    classes = [labels[0] for labels in drawn_labels(made)]
    epochs = [classes[start : start + 6] for start in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_shares_are_those_that_were_asked_for(inputs):
    grammar = {CLASSES.index(name) for name in WORDINGS}
    made = drawn_labels(examples(inputs, epochs=100, known=5, share_grammar=0.5, share_joined=0.0))
    assert sum(labels[0] in grammar - set(range(5)) for labels in made) / len(made) == pytest.approx(0.33, abs=0.08)
    joined = drawn_labels(examples(inputs, epochs=100, share_grammar=0.0, share_joined=0.4))
    assert sum(labels[1] != SECOND[NONE] for labels in joined) / len(joined) == pytest.approx(0.4, abs=0.08)


def test_a_batch_is_padded_to_few_lengths():
    batch = collate([{"input_ids": [5] * 9, "labels": [0, 1, 2, 3]}, {"input_ids": [6], "labels": [4, 5, -100, -100]}])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 16)
    assert batch["attention_mask"].sum(1).tolist() == [9, 1]
    assert batch["labels"].tolist() == [[0, 1, 2, 3], [4, 5, -100, -100]]


# ----- encoder -----

TEXTS = ["How seldom is ñ?", "その [n1]"]


@pytest.fixture(scope="module")
def small(inputs):
    return smaller_vocabulary(AutoTokenizer.from_pretrained(inputs / "bert"), TEXTS, 2)


def test_a_smaller_vocabulary_keeps_what_texts_use_and_what_is_common(small):
    tokenizer, kept = small
    known = tokenizer.get_vocab()
    assert len(kept) == len(known) == len(tokenizer)
    assert {"how", "seldom", "is", "the", "of", "a", "##z"} <= set(known)
    assert not {"rarely", "which", "[unused0]"} & set(known)
    for token, id in known.items():
        assert kept[id] == (VOCABULARY.index(token) if token in VOCABULARY else -1)


def test_texts_have_the_same_subwords_in_a_smaller_vocabulary(inputs, small):
    before = AutoTokenizer.from_pretrained(inputs / "bert")
    for text in ("How seldom is it?", "which of the networks, rare?"):
        ids = encode(small[0], text)
        assert (ids[0], ids[-1]) == tuple(small[0].convert_tokens_to_ids(["[CLS]", "[SEP]"]))
        assert small[0].unk_token_id not in ids
    assert small[0].tokenize("How seldom is it?") == before.tokenize("How seldom is it?")


def test_characters_that_it_did_not_know_are_no_longer_unknown(small):
    tokenizer, kept = small
    for text in TEXTS:
        assert "[UNK]" not in tokenizer.tokenize(text)
    assert kept[tokenizer.convert_tokens_to_ids("そ")] == -1


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_a_placeholder_is_one_subword(small, placeholder):
    assert small[0].tokenize(f"is {placeholder}?") == ["is", placeholder, "?"]


def test_kept_subwords_keep_their_embeddings_and_new_ones_begin_near_the_mean(inputs, small):
    tokenizer, kept = small
    old = AutoModel.from_pretrained(inputs / "bert")
    torch.manual_seed(0)
    new = new_encoder(str(inputs / "bert"), kept, len(tokenizer)).bert
    before, after = old.get_input_embeddings().weight, new.get_input_embeddings().weight
    assert after.shape[0] == len(tokenizer) == new.config.vocab_size
    for id, old_id in enumerate(kept):
        expected = before[old_id] if old_id >= 0 else before.mean(0)
        assert torch.allclose(after[id], expected, atol=0.0 if old_id >= 0 else 0.1)
    fresh = after[torch.tensor(kept) < 0]
    assert len(fresh.unique(dim=0)) == len(fresh)
    for name, weight in old.state_dict().items():
        if "word_embeddings" not in name and "pooler" not in name:
            assert torch.equal(new.state_dict()[name], weight), name


# ----- scores -----


class Fixed:
    """Reads every question as the same class."""

    def __init__(self, name):
        first, second = dict.fromkeys(CLASSES, 0.0), dict.fromkeys((*CLASSES, NONE), 0.0)
        pairing = dict.fromkeys(PAIRINGS, 0.0)
        self.reading = Reading(first | {name: 1.0}, second | {NONE: 1.0}, (pairing, pairing))

    def read(self, texts):
        return [self.reading] * len(texts)


def test_questions_are_judged_by_what_becomes_of_them():
    rows = [
        row("visual with default", "level", ("default", "visual")),
        row("default with limbic", "yesno", ("default", "limbic"), "de", claim="low"),
        row("default", "within", ("default",)),
        row("default and visual", "unanswerable", kind="personal"),
        row("default", "unanswerable", kind="unclear"),
    ]
    rows = [{**each, "voice": "someone"} for each in rows]
    scores = judge(Fixed("level"), rows, {"toy": NETWORKS})
    counts = {"right": 1, "wrong": 1, "not understood": 1, "answered": 1, "declined": 1}
    assert scores["all"] == scores["someone"] == counts
    assert scores["language de"] == {"wrong": 1}
    assert scores["intent within"] == {"not understood": 1}
    assert scores["intent unanswerable"] == {"answered": 1, "declined": 1}


# ----- what is refused -----


def test_without_an_encoder_nothing_is_trained(tmp_path):
    with pytest.raises(ValueError, match="No encoder to start from: give `--encoder`, the folder or Hub id"):
        run("understanding", "--output_dir", str(tmp_path))


def test_an_encoder_that_is_no_bert_is_refused(inputs, tmp_path):
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="is a model of the type 'gpt2', expected 'bert': give a BERT, such as"):
        run("understanding", *words(inputs, tmp_path / "out", "--encoder", str(tmp_path / "gpt2")))


def test_a_voice_that_there_is_not_cannot_be_held_out(inputs, tmp_path):
    with pytest.raises(ValueError, match="There are no questions nobody to hold out in questions"):
        run("understanding", *words(inputs, tmp_path, "--hold_out", "other", "nobody"))


def test_a_folder_without_questions_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There are no questions \(\*.jsonl\) in"):
        read_questions(tmp_path)
