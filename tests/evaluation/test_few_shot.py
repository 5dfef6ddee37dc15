"""Few-shot: who is drawn, what the adapter and the prompt see, and what cannot be computed."""

from __future__ import annotations

import dataclasses
import json
from copy import copy

import numpy as np
import pytest
import torch
from hub import tiny
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForCausalLM, AutoProcessor

import fmri_lm_hf
from fmri_lm_hf.cli import main
from fmri_lm_hf.evaluation import few_shot as few
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.model_answers import Answer, EncodedScans, Evaluation
from fmri_lm_hf.evaluation.tasks import Task
from fmri_lm_hf.evaluation.truth import scan_pairs
from fmri_lm_hf.models.answers import encode_question
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.simulation import Site, simulate_cohort

TASK = Task.from_dict("sex", {"ask": ["What is the sex ?"], "answers": {"female": "female", "male": "male"}})
ROWS = {"train": list(range(24)), "test": list(range(24, 32))}


@pytest.fixture(scope="module")
def rows():
    """Twelve training people with two scans each, of whom one changes class; eight to be evaluated."""
    draw = np.random.default_rng(0)
    found = []
    for i in range(32):
        subject = i // 2 if i < 24 else i
        sex = ["female", "male"][subject % 2] if i != 1 else "male"
        bold = draw.normal(size=(tiny.N_TIMEPOINTS, tiny.N_ROIS)).astype("float32")
        found.append(
            {
                "scan_id": f"s{i}",
                "subject_id": f"p{subject}",
                "site": "A" if i < 24 else "B",
                "t_r": 2.0,
                "bold": bold,
                "sex": sex,
            }
        )
    return found


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    return write_scan_dataset(rows, tmp_path_factory.mktemp("few") / "scans", tiny.atlas())


@pytest.fixture(scope="module")
def evaluation(checkpoint, folder, rows):
    scans, _ = load_scan_dataset(folder)
    assert scans["scan_id"] == [row["scan_id"] for row in rows]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    return Evaluation(model, processor, scans, {"sex": TASK}, ROWS["test"])


def taught(evaluation, k, draw=0):
    split = evaluation.split("sex", ROWS)
    shots = few.draw_shots(split, k, draw)
    encoded = EncodedScans.encode(evaluation.model, evaluation.processor, evaluation.scans, shots)
    return dataclasses.replace(split, pool=shots, train=shots), encoded


def test_draws_have_k_subjects_of_each_class_and_no_test_subject(evaluation):
    split = evaluation.split("sex", {**ROWS, "train": list(range(32))})  # a split that leaks
    drawn = [few.draw_shots(split, 4, draw) for draw in range(20)]
    for shots in drawn:
        assert [evaluation.labels["sex"][row] for row in shots] == ["female"] * 4 + ["male"] * 4
        people = [evaluation.subjects[row] for row in shots]
        assert len(set(people)) == 8
        assert not set(people) & set(split.subjects(split.test))
        assert "p0" not in people  # whose scans are of both classes
    assert len(set(drawn)) > 10
    assert {row % 2 for shots in drawn for row in shots} == {0, 1}  # either scan of a person
    fewer = few.draw_shots(split, 2, 3)
    assert fewer == (*drawn[3][:2], *drawn[3][4:6])
    with pytest.raises(Unavailable, match="5 training subjects have a labelled scan of 'female', expected at least 6"):
        few.draw_shots(split, 6, 0)


def test_the_seed_of_the_evaluation_decides_the_draw(evaluation):
    def drawn(seed):
        seeded = copy(evaluation)
        seeded.seed = seed
        return tuple(few.draw_shots(seeded.split("sex", ROWS), 2, draw) for draw in range(3))

    assert drawn(0) == drawn(0)
    assert len({drawn(seed) for seed in range(5)}) == 5


def test_the_adapter_reads_values_of_network_pairs_of_a_model_without_knowledge(monkeypatch):
    cohort = simulate_cohort(sites=[Site("A", 16), Site("B", 12, gain=1.8)], seed=5)
    rows = {"train": list(range(16)), "test": list(range(16, 28))}
    evaluation = Evaluation(*fmri_lm_hf.load_bundled_model(), cohort.dataset, {"sex": TASK}, rows["test"])
    split = evaluation.split("sex", rows)
    shots = few.draw_shots(split, 4, 0)
    encoded = EncodedScans.encode(evaluation.model, evaluation.processor, evaluation.scans, shots)
    monkeypatch.setattr(few, "_answers", lambda split, encoded: np.full((len(split.train), 2), 0.5))
    monkeypatch.setattr(evaluation, "answer", lambda split: Answer(np.full((len(split.test), 2), 0.5)))
    found = few.adapter(dataclasses.replace(split, pool=shots, train=shots), encoded).probabilities
    scans = cohort.dataset.with_format("numpy")
    inputs = dict(evaluation.processor(fmri=[scans[row] for row in [*shots, *rows["test"]]]))
    values = scan_pairs(evaluation.processor, inputs)[0].double().numpy()
    values -= values[:8].mean(0)
    values /= np.sqrt((values[:8] ** 2).sum(1).mean())
    by_hand = LogisticRegression(C=few.ADAPTER_C).fit(values[:8], split.labels(shots)).predict_proba(values[8:])
    np.testing.assert_allclose(found, by_hand, atol=1e-3)
    assert found.std() > 0.1


def test_the_adapter_follows_answers_that_are_sure_and_right(evaluation, monkeypatch):
    split, encoded = taught(evaluation, 2)

    def sure(rows):
        right = np.array(split.labels(rows)) == split.classes[1]
        return np.where(right[:, None], [[0.05, 0.95]], [[0.95, 0.05]])

    unsure = few.adapter(split, encoded).probabilities
    monkeypatch.setattr(few, "_answers", lambda split, encoded: sure(split.train))
    monkeypatch.setattr(evaluation, "answer", lambda split: Answer(sure(split.test)))
    found = few.adapter(split, encoded).probabilities
    truth = np.array(split.labels(split.test)) == split.classes[1]
    assert ((found[:, 1] > 0.5) == truth).all()
    assert not ((unsure[:, 1] > 0.5) == truth).all()


def test_a_missing_network_pair_counts_as_the_mean():
    train, test = (
        np.array([[1.0, np.nan], [3.0, np.nan]]),
        np.array([[2.0, 5.0], [np.nan, np.nan], [4.0, 0.0]]),
    )
    scaled = few.scaled(train, test)
    np.testing.assert_allclose(scaled[0], [[-1, 0], [1, 0]])
    np.testing.assert_allclose(scaled[1], [[0, 0], [0, 0], [2, 0]])


@torch.no_grad()
def test_in_context_is_the_whole_conversation_read_at_once(evaluation):
    split, encoded = taught(evaluation, 1)
    found = few.in_context(split, encoded).probabilities
    order = np.random.default_rng([evaluation.seed, *split.train]).permutation(2)
    ask = {"role": "user", "content": [{"type": "fmri"}, {"type": "text", "text": TASK.ask[0]}]}
    messages = [each for i in order for each in (ask, {"role": "assistant", "content": split.labels(split.train)[i]})]
    answers = encode_question(evaluation.processor, TASK.ask[0], split.classes)[1]
    for place, row in enumerate(split.test[:3]):
        scans = [evaluation.scans[each] for each in [*(split.train[i] for i in order), row]]
        inputs = evaluation.processor(fmri=scans)
        scores = []
        for name, ids in zip(split.classes, answers):
            chat = [*messages, ask, {"role": "assistant", "content": name}]
            whole = torch.tensor([evaluation.processor.encode_chat(chat)["input_ids"]])
            logits = evaluation.model(input_ids=whole, **inputs).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
            scores.append(logits[range(len(ids)), ids].sum())
        np.testing.assert_allclose(found[place], torch.stack(scores).softmax(0), atol=1e-4)
    swapped = dataclasses.replace(split, train=split.train[::-1])
    assert not np.allclose(few.in_context(swapped, encoded).probabilities, found)  # which labels, matters


def test_scores_of_all_predictors_by_number_of_scans(evaluation, rows, checkpoint, tmp_path):
    found = few.few_shot(evaluation, ROWS, (0, 1, 5, 6), n_draws=2)["sex"]
    assert list(found) == ["0", "1", "5", "6"]
    assert list(found["0"]) == ["fmri_lm"]
    assert set(found["1"]) == set(few.FEW_SHOT_PREDICTORS)
    for predictor in ("adapter", "in_context", "connectivity_logistic", "network_logistic"):
        scores = found["1"][predictor]
        assert scores["balanced_accuracy"] == pytest.approx(np.mean(scores["draws"]))
        assert len(scores["draws"]) == 2
    assert "make prompts of" in found["5"]["in_context"]["left_out"]  # ten scans of twelve tokens, 128 places
    assert "balanced_accuracy" in found["5"]["adapter"]
    assert "5 training subjects have a labelled scan of" in found["6"]["adapter"]["left_out"]


def test_an_unreadable_scan_is_replaced_by_one_of_another_subject(evaluation, rows, tmp_path, monkeypatch):
    drawn = few.draw_shots(evaluation.split("sex", ROWS), 1, 0)
    broken = [dict(row) for row in rows]
    broken[drawn[0]]["bold"] = broken[drawn[0]]["bold"][:2]
    scans, _ = load_scan_dataset(write_scan_dataset(broken, tmp_path / "scans", tiny.atlas()))
    other = Evaluation(evaluation.model, evaluation.processor, scans, {"sex": TASK}, ROWS["test"])
    seen = []

    def recording(split, encoded):
        seen.append(split.train)
        return few.adapter(split, encoded)

    monkeypatch.setitem(few.FEW_SHOT_PREDICTORS, "adapter", few.FewShotPredictor("", recording))
    scores = few.few_shot(other, ROWS, (1,), n_draws=1, predictors=["adapter"])["sex"]["1"]["adapter"]
    assert seen[0][0] != drawn[0]
    assert seen[0][1] == drawn[1]
    assert [other.labels["sex"][row] for row in seen[0]] == ["female", "male"]
    assert len(scores["draws"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"predictors": ["guess"]},
            "Unknown few-shot predictors guess; expected some of adapter, in_context",
        ),
        ({"shots": (2, -1)}, "-1 labelled scans of each class found, expected 0 or more"),
    ],
)
def test_invalid_arguments_are_refused(evaluation, options, message):
    with pytest.raises(ValueError, match=message):
        few.few_shot(evaluation, ROWS, **options)


def test_the_command_writes_curves_and_what_moved_the_answers(checkpoint, folder, tmp_path):
    words = ["evaluate", str(checkpoint), "--scans", str(folder), "--labels", "sex", "--truth", "0"]
    more = ["--readers", "majority", "--shots", "0", "1", "--occlusion", "2"]
    assert main([*words, *more, "--holdout-site", "B", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["few_shot"]["sex"]) == {"0", "1"}
    moved = results["occlusion"]["sex"]
    assert moved["n_scans"] == 2
    assert [each["networks"] for each in moved["of_pairs"]] == [["A", "B"]]
    assert set(moved["randomisation_test"]) == {"repeated", "randomised"}
    report = (tmp_path / "report.html").read_text()
    assert "Few labelled scans" in report
    assert few.FEW_SHOT_PREDICTORS["adapter"].title in report
    assert "What moved the answers" in report
    assert 'src="http' not in report


def test_one_split_is_needed_to_learn_from_a_few_scans(checkpoint, folder, tmp_path, capsys):
    words = ["evaluate", str(checkpoint), "--scans", str(folder), "--labels", "sex", "--out", str(tmp_path)]
    assert main([*words, "--leave-one-site-out", "--shots", "2"]) == 2
    assert "--shots, --occlusion and --robustness need one split of the scans" in capsys.readouterr().err
