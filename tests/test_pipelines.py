"""Both pipelines: against probabilities worked out by hand and `generate`; files, arrays, lists, batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hub import tiny
from small import language_model
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from fmri_lm_hf import FmriToTextPipeline, FmriZeroShotClassificationPipeline
from fmri_lm_hf.models.answers import answer_log_probabilities, encode_question

QUESTION = "What is the sex ?"
LABELS = ["female", "male", "the sex is female ."]  # one, one and five tokens
N_SCANS = 3


@pytest.fixture(scope="module")
def classify(checkpoint):
    return pipeline("fmri-zero-shot-classification", model=str(checkpoint))


@pytest.fixture(scope="module")
def describe(checkpoint):
    return pipeline("fmri-to-text", model=str(checkpoint))


def ask(**changes) -> dict:
    # forced: scans of `tiny` are a few volumes of noise, and its checkpoint records no labels
    return {"candidate_labels": LABELS, "question": QUESTION, "t_r": 2.0, "force": True} | changes


def scores(answers: list[dict]) -> dict[str, float]:
    return {answer["label"]: answer["score"] for answer in answers}


@torch.no_grad()
def whole_answer_log_probabilities(checkpoint, scan) -> list[tuple[float, int]]:
    """By one forward pass over prompt and answer for each answer, without a cache: (log-probability, tokens)."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "fmri"}, {"type": "text", "text": QUESTION}]
    found = []
    for label in LABELS:
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": label}]
        encoded = processor.encode_chat(messages)
        ids, labels = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["labels"])
        logits = model(input_ids=ids[None], **processor(fmri=scan, t_r=2.0)).logits[0].double()
        chosen = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        said = labels[1:] != -100
        found.append((chosen[said].sum().item(), int(said.sum())))
    return found


# --- zero-shot classification ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length_normalization", [False, True])
def test_scores_are_the_probabilities_of_whole_answers(checkpoint, classify, length_normalization):
    for i in range(2):
        answers = classify(tiny.scan(i), **ask(), length_normalization=length_normalization)
        found = whole_answer_log_probabilities(checkpoint, tiny.scan(i))
        assert [n for _, n in found] == [2, 2, 6]  # the end of the turn belongs to an answer
        values = np.array([total / n if length_normalization else total for total, n in found])
        expected = np.exp(values) / np.exp(values).sum()
        assert scores(answers) == pytest.approx(dict(zip(LABELS, expected)), abs=1e-6)
        assert sum(scores(answers).values()) == pytest.approx(1)
        ranked = [answer["score"] for answer in answers]
        assert ranked == sorted(ranked, reverse=True)


def test_length_normalization_changes_the_comparison(classify):
    plain = scores(classify(tiny.scan(), **ask()))
    normalised = scores(classify(tiny.scan(), **ask(), length_normalization=True))
    assert abs(plain[LABELS[2]] - normalised[LABELS[2]]) > 0.01


def test_the_order_of_labels_does_not_matter(classify):
    one = scores(classify(tiny.scan(), **ask()))
    other = scores(classify(tiny.scan(), **ask(candidate_labels=LABELS[::-1])))
    assert other == pytest.approx(one, abs=1e-6)


def test_the_default_question_names_the_labels(classify):
    asked = f"Which of these describes this scan: {', '.join(LABELS)}?"
    named = classify(tiny.scan(), **ask(question=asked))
    assert classify(tiny.scan(), candidate_labels=LABELS, t_r=2.0, force=True) == named


@pytest.mark.parametrize("form", ["list", "tuple", "stacked array", "stacked tensor", "batches of 2"])
def test_a_list_of_scans_equals_each_alone(classify, describe, form):
    data = [tiny.scan(i) for i in range(N_SCANS)]
    options = {}
    together = data
    if form == "tuple":
        together = tuple(data)
    elif form.startswith("stacked"):
        together = np.stack(data) if form.endswith("array") else torch.tensor(np.stack(data))
    elif form == "batches of 2":
        options = {"batch_size": 2}
    answers = classify(together, **ask(), **options)
    assert len(answers) == N_SCANS
    for answer, scan in zip(answers, data):
        assert scores(answer) == pytest.approx(scores(classify(scan, **ask())), abs=1e-6)
    asking = {"text": QUESTION, "t_r": 2.0, "max_new_tokens": 5}
    assert describe(together, **asking, **options) == [describe(scan, **asking) for scan in data]


def test_nothing_is_left_to_chance(classify, describe):
    assert classify(tiny.scan(), **ask()) == classify(tiny.scan(), **ask())
    asking = {"t_r": 2.0, "max_new_tokens": 5}
    assert describe(tiny.scan(), **asking) == describe(tiny.scan(), **asking)


def test_files_and_rows_are_scans_too(classify, describe, tmp_path):
    expected = classify(tiny.scan(), **ask())
    np.save(tmp_path / "scan.npy", tiny.scan())
    header = "\t".join(tiny.atlas().roi_names)
    np.savetxt(tmp_path / "scan.tsv", tiny.scan(), delimiter="\t", header=header, comments="", fmt="%.9g")
    np.savez(tmp_path / "scan.npz", bold=tiny.scan(), t_r=2.0)
    for name in ("scan.npy", "scan.tsv"):
        assert classify(str(tmp_path / name), **ask()) == expected
        assert classify([tmp_path / name] * 2, **ask()) == [expected] * 2
    assert classify(str(tmp_path / "scan.npz"), **ask(t_r=None)) == expected
    assert classify({"bold": tiny.scan(), "t_r": 2.0}, **ask(t_r=None)) == expected
    text = describe(tiny.scan(), t_r=2.0, max_new_tokens=5)
    assert describe(str(tmp_path / "scan.npy"), t_r=2.0, max_new_tokens=5) == text


def test_missing_rois_are_masked(checkpoint, classify):
    scan = tiny.scan()
    scan[:, 2] = np.nan
    found = whole_answer_log_probabilities(checkpoint, scan)
    values = np.exp([total for total, _ in found])
    assert scores(classify(scan, **ask())) == pytest.approx(dict(zip(LABELS, values / values.sum())), abs=1e-6)


@pytest.mark.parametrize(
    "labels, message",
    [
        (["male"], r"needs at least two labels, got \['male'\]"),
        ([], r"needs at least two labels, got \[\]"),
        (["male", "male"], r"must all be different, got \['male', 'male'\]"),
        ("male", "must be a list of strings, got 'male'"),
        ([0, 1], r"must be a list of strings, got \[0, 1\]"),
    ],
)
def test_labels_that_cannot_be_compared(classify, labels, message):
    with pytest.raises(ValueError, match=message):
        classify(tiny.scan(), **ask(candidate_labels=labels))


def test_scans_that_cannot_be_used(classify, describe, tmp_path):
    for pipe, options in ((classify, ask(t_r=None)), (describe, {})):
        with pytest.raises(ValueError, match="list of scans is empty"):
            pipe([], **options)
        with pytest.raises(ValueError, match="TR"):
            pipe(tiny.scan(), **options)
        with pytest.raises(ValueError, match="5"):
            pipe(tiny.scan()[:, :5], **options | {"t_r": 2.0})
        with pytest.raises(ValueError, match=r"nothing_here\.npy"):
            pipe(str(tmp_path / "nothing_here.npy"), **options)


# --- scoring of answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["llama", "qwen3", "gpt2"])
def test_scans_scored_together_equal_each_alone(backbone):
    model, processor = language_model(backbone), tiny.processor()
    prompt, answers = encode_question(processor, QUESTION, LABELS)
    inputs = dict(processor(fmri=[tiny.scan(i) for i in range(N_SCANS)], t_r=2.0))
    inputs["roi_mask"][1, 2] = False
    together = answer_log_probabilities(model, prompt, answers, **inputs)
    assert together.shape == (N_SCANS, len(LABELS))
    for i in range(N_SCANS):
        own = {name: value[i : i + 1] for name, value in inputs.items()}
        torch.testing.assert_close(together[i : i + 1], answer_log_probabilities(model, prompt, answers, **own))
    masks = {name: inputs[name] for name in ("roi_mask", "padding_mask")}
    features = model.get_fmri_features(**inputs)
    kept = answer_log_probabilities(model, prompt, answers, fmri_features=features, **masks)
    torch.testing.assert_close(kept, together)


def test_a_question_without_a_scan():
    model, processor = language_model(), tiny.processor()
    prompt, answers = encode_question(processor, QUESTION, ["female", "male"], with_scan=False)
    assert processor.fmri_token_id not in prompt
    found = answer_log_probabilities(model, prompt, answers)
    ids = torch.tensor([prompt + answers[0]])
    logits = model(input_ids=ids).logits[0].log_softmax(-1)
    expected = sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(answers[0]))
    torch.testing.assert_close(found[0, 0], expected.detach())
    with pytest.raises(ValueError, match="No answers to choose from"):
        encode_question(processor, QUESTION, [])


# --- text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_text_is_what_the_model_generates(checkpoint, describe, options):
    model, processor = (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    content = [{"type": "fmri", "fmri": tiny.scan()}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, t_r=2.0
    )
    ids = model.generate(**inputs, max_new_tokens=7, do_sample=False, **options)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert expected
    answer = describe(tiny.scan(), text=QUESTION, t_r=2.0, max_new_tokens=7, **options)
    assert answer == [{"generated_text": expected}]


def test_a_text_with_the_placeholder_is_used_as_it_stands(checkpoint, describe):
    model, processor = (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    inputs = processor(text="the sex <fmri> is", fmri=tiny.scan(), t_r=2.0, add_special_tokens=False)
    ids = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    answer = describe(tiny.scan(), text="the sex <fmri> is", t_r=2.0, max_new_tokens=4)
    assert answer == [{"generated_text": processor.decode_answer(ids)}]


def test_loading_by_folder_needs_nothing_else(checkpoint, classify, describe):
    assert isinstance(classify, FmriZeroShotClassificationPipeline)
    assert isinstance(describe, FmriToTextPipeline)
    assert "custom_pipelines" not in json.loads((checkpoint / "config.json").read_text())
    assert not classify.model.training
