"""Few-shot learning: the model and linear baselines learn a task from k labelled scans of each class.

The model's weights stay fixed. It learns through an adapter, a small head on its scan tokens and answers, and in
context, from labelled scans in front of the question. Baselines are fitted to the same scans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm

from ..models.answers import answers_to_questions, encode_question, read_before
from ..models.network_pairs import PRESENT, VALUE
from .features import Unavailable
from .metrics import ClassificationScores, score_classification
from .model_answers import Answer, EncodedScans, Evaluation, TaskSplit
from .predictors import MODEL, PREDICTORS

ADAPTER_C = 3.0  # inverse strength of the adapter's penalty, for features whose mean squared norm is 1
LEAST_PROBABILITY = 1e-12  # so that the logarithm of an answer's probability is finite
BATCH = 32
TOKENS_AT_ONCE = 2**15  # of prompts with labelled scans, which every scan of a batch has a copy of


class FewShotScores(TypedDict, total=False):
    """Means over draws, with the SD over draws where there are several; or why the predictor is left out.

    `draws` has the balanced accuracy of each draw, which is paired between predictors.
    """

    draws: list[float | None]
    accuracy: float | None
    balanced_accuracy: float | None
    balanced_accuracy_sd: float
    auc: float | None
    auc_sd: float
    left_out: str


def few_shot(
    evaluation: Evaluation,
    rows: Mapping[str, Sequence[int]],
    shots: Sequence[int] = (0, 2, 8, 32),
    n_draws: int = 5,
    predictors: Sequence[str] | None = None,
) -> dict[str, dict[str, dict[str, FewShotScores]]]:
    """Score predictors that learn from k labelled scans of each class, over several draws of these scans.

    Parameters
    ----------
    evaluation : Evaluation
        With the test scans.
    rows : mapping of str to sequence of int
        Rows of the ``train`` and the ``test`` scans.
    shots : sequence of int
        Numbers k of labelled scans of each class, each of another subject; 0 is the model's zero-shot answer.
    n_draws : int
        Number of draws, which are the same for all predictors. A draw of more scans contains that of fewer.
    predictors : sequence of str, optional
        Names in `FEW_SHOT_PREDICTORS`; all when None.

    Returns
    -------
    dict
        Task -> k (as text) -> predictor -> scores.

    Raises
    ------
    ValueError
        For a negative k or an unknown predictor.
    """
    names = list(FEW_SHOT_PREDICTORS) if predictors is None else list(predictors)
    if unknown := sorted(set(names) - set(FEW_SHOT_PREDICTORS)):
        raise ValueError(
            f"Unknown few-shot predictors {', '.join(unknown)}; expected some of {', '.join(FEW_SHOT_PREDICTORS)}."
        )
    if bad := [k for k in shots if k < 0]:
        raise ValueError(f"{bad[0]} labelled scans of each class found, expected 0 or more.")
    splits = {name: evaluation.split(name, rows) for name in evaluation.tasks}
    drawn, encoded = _draw_and_read(evaluation, splits, sorted({k for k in shots if k}), n_draws)
    results: dict[str, dict[str, dict[str, FewShotScores]]] = {}
    for name, split in splits.items():
        results[name] = {}
        if 0 in shots:
            results[name]["0"] = {MODEL: _over_draws([_score(split, PREDICTORS[MODEL].answer(split))])}
        for k, draws in drawn[name].items():
            results[name][str(k)] = {
                predictor: {"left_out": draws} if isinstance(draws, str) else _learn(predictor, split, draws, encoded)
                for predictor in tqdm(names, f"{name} from {k} scans", unit="predictor")
            }
    return results


def _learn(predictor: str, split: TaskSplit, draws: Sequence[tuple[int, ...]], encoded: EncodedScans) -> FewShotScores:
    """Score a predictor that learns from each draw in turn."""
    learn = FEW_SHOT_PREDICTORS[predictor].answer
    try:
        # the pool too: with all training scans in it, a fitted feature would have seen more than k scans
        splits = [dataclasses.replace(split, pool=draw, train=draw) for draw in draws]
        return _over_draws([_score(of_draw, learn(of_draw, encoded)) for of_draw in splits])
    except Unavailable as reason:
        return {"left_out": str(reason)}


def _score(split: TaskSplit, answer: Answer) -> ClassificationScores:
    predicted = [split.classes[best] for best in answer.probabilities.argmax(1)]
    truth = split.labels(split.test)
    return score_classification(truth, predicted, answer.probabilities, split.classes)


def _over_draws(scores: Sequence[ClassificationScores]) -> FewShotScores:
    """Average over draws; None where a score is not defined."""
    averaged: dict[str, Any] = {"draws": [of_draw["balanced_accuracy"] for of_draw in scores]}
    for name in ("accuracy", "balanced_accuracy", "auc"):
        values = [value for of_draw in scores if (value := of_draw[name]) is not None]  # type: ignore[literal-required]
        averaged[name] = float(np.mean(values)) if values else None
        if len(values) > 1 and name != "accuracy":
            averaged[f"{name}_sd"] = float(np.std(values, ddof=1))
    return averaged  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------ draws of labelled scans


def draw_shots(split: TaskSplit, k: int, draw: int, without: Sequence[int] = ()) -> tuple[int, ...]:
    """Draw k training scans of each class, each of another subject, and of no test subject.

    Parameters
    ----------
    split : TaskSplit
    k : int
    draw : int
        Number of the draw, which with the evaluation's seed decides which scans are drawn. The draw of more scans
        begins, class by class, with that of fewer.
    without : sequence of int
        Rows that must not be drawn.

    Raises
    ------
    Unavailable
        When a class has fewer than k subjects. Subjects with scans of several classes are never drawn.
    """
    subjects, evaluated = split.evaluation.subjects, set(split.subjects(split.test))
    labels = dict(zip(split.train, split.labels(split.train)))
    classes_of: dict[str, set[str]] = {}
    for row, label in labels.items():
        classes_of.setdefault(subjects[row], set()).add(label)
    chosen: list[int] = []
    for number, name in enumerate(split.classes):
        rows_of: dict[str, list[int]] = {}
        for row, label in labels.items():
            if label == name and len(classes_of[subjects[row]]) == 1 and row not in without:
                rows_of.setdefault(subjects[row], []).append(row)
        candidates = sorted(set(rows_of) - evaluated)
        if len(candidates) < k:
            raise Unavailable(
                f"{len(candidates)} training subjects have a labelled scan of {name!r}, expected at least {k}."
            )
        rng = np.random.default_rng([split.evaluation.seed, draw, number])
        # all candidates are ordered, whatever k is: more shots begin with the fewer ones
        order = rng.permutation(len(candidates))
        which = rng.random(len(candidates))  # of a subject's scans
        for i in order[:k]:
            rows = rows_of[candidates[i]]
            chosen.append(rows[int(which[i] * len(rows))])
    return tuple(chosen)


def _draw_and_read(
    evaluation: Evaluation, splits: Mapping[str, TaskSplit], shots: Sequence[int], n_draws: int
) -> tuple[dict[str, dict[int, list[tuple[int, ...]] | str]], EncodedScans]:
    """Draw labelled scans: task -> k -> all draws (or why there are none); and encode the drawn scans.

    Where the model cannot read a drawn scan, all are drawn again without it.
    """
    unreadable: set[int] = set()
    while True:
        drawn: dict[str, dict[int, list[tuple[int, ...]] | str]] = {name: {} for name in splits}
        needed: set[int] = set()
        for name, split in splits.items():
            for k in shots:
                try:
                    draws = [draw_shots(split, k, draw, tuple(unreadable)) for draw in range(n_draws)]
                except Unavailable as reason:
                    drawn[name][k] = str(reason)
                else:
                    drawn[name][k] = draws
                    needed.update(row for draw in draws for row in draw)
        if not needed:
            return drawn, EncodedScans([], {}, {})
        encoded = EncodedScans.encode(evaluation.model, evaluation.processor, evaluation.scans, sorted(needed))
        # an unreadable scan changes the order of all candidates after it: patching the draws that have it would make
        # draws of more scans differ from those of fewer
        if len(encoded.rows) == len(needed):
            return drawn, encoded
        unreadable |= needed - set(encoded.rows)


# ------------------------------------------------------------------------------------------------------- the adapter


def adapter(split: TaskSplit, encoded: EncodedScans) -> Answer:
    """Fit a logistic head on the frozen model to the labelled scans alone, and predict the test scans.

    Its features are the values of the scan's network-pair tokens (of a model without them, the hidden state at the
    position of the answer) and the log-odds of the model's own answers. The values are relative to their scan, so that
    they mean the same at every site. They are centred and divided by one number, the root mean squared norm of the
    labelled scans, not each by its SD, which few scans do not determine; the penalty is fixed. Log-odds are not
    scaled: a model that is certain of its answers is followed from the first labelled scan on, and one that has not
    learnt the task gives every scan nearly the same answer and adds nearly nothing.

    Parameters
    ----------
    split : TaskSplit
        Its training scans are the labelled ones.
    encoded : EncodedScans
        These scans, encoded.
    """
    evaluation = split.evaluation
    train, test = scaled(_features(split, encoded, split.train), _features(split, evaluation.encoded, split.test))
    odds = (_log_odds(_answers(split, encoded)), _log_odds(evaluation.answer(split).probabilities))
    train, test = (np.concatenate(each, axis=1) for each in zip((train, test), odds))
    head = LogisticRegression(C=ADAPTER_C, class_weight="balanced", max_iter=1000)
    head.fit(train, split.labels(split.train))
    probabilities = head.predict_proba(test)
    return Answer(probabilities[:, [head.classes_.tolist().index(name) for name in split.classes]])


@torch.inference_mode()
def _features(split: TaskSplit, encoded: EncodedScans, rows: Sequence[int]) -> np.ndarray:
    """Compute features of scans from the frozen model: (n_rows, n_features), NaN where a scan has no value."""
    evaluation, inputs = split.evaluation, inputs_of(encoded, rows)
    if evaluation.model.config.reads_network_pairs:
        # the tokens of ROIs come first, then one of the whole scan, then one of each pair
        pairs = inputs["fmri_features"][:, evaluation.model.config.n_roi_tokens + 1 :]
        return pairs[..., VALUE].masked_fill(pairs[..., PRESENT] == 0, np.nan).double().numpy()
    prompt, _ = encode_question(evaluation.processor, split.task.ask[0], split.classes)
    states = []
    for start in range(0, len(rows), BATCH):
        batch = {name: x[start : start + BATCH].to(evaluation.model.device) for name, x in inputs.items()}
        ids = torch.tensor([prompt], device=evaluation.model.device).expand(len(batch["fmri_features"]), -1)
        output = evaluation.model(input_ids=ids, output_hidden_states=True, logits_to_keep=1, **batch)
        states.append(output.hidden_states[-1][:, -1].double().cpu())
    return torch.cat(states).numpy()


def scaled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale both to the mean of the training scans, in units of their root mean squared norm; 0 for NaN."""
    # a feature that no labelled scan has is 0 in both, or its values in test scans would be scaled by nothing
    known = np.isfinite(train)
    centre = np.where(known, train, 0).sum(0) / known.sum(0).clip(1)
    train, test = (np.nan_to_num(x - centre) * known.any(0) for x in (train, test))
    norm = np.sqrt(np.square(train).sum(1).mean())
    return (train / norm, test / norm) if norm > 0 else (train, test)


def _answers(split: TaskSplit, encoded: EncodedScans) -> np.ndarray:
    """Compute the probabilities of the model's zero-shot answers about the labelled scans."""
    evaluation = split.evaluation
    labelled = dataclasses.replace(encoded, rows=list(split.train), inputs=inputs_of(encoded, split.train))
    of_tasks = labelled.log_probabilities(evaluation.model, evaluation.processor, {split.name: split.task})
    return split.among_classes(of_tasks[split.name])


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Compute log-probabilities relative to their mean over the answers: (n_scans, n_classes)."""
    logs = np.log(probabilities.clip(LEAST_PROBABILITY))
    return logs - logs.mean(1, keepdims=True)


def inputs_of(encoded: EncodedScans, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """Select the model's inputs for some of the encoded scans, in the order of `rows`."""
    places = encoded.places(rows)
    return {name: values[places] for name, values in encoded.inputs.items()}


# -------------------------------------------------------------------------------------------------------- in context


def in_context(split: TaskSplit, encoded: EncodedScans) -> Answer:
    """Ask the model with the labelled scans, their questions and right answers in front of the question.

    The labelled scans are in random order and read once for all test scans.

    Raises
    ------
    Unavailable
        When they exceed the context of the language model, or its chat template rewrites earlier turns.
    """
    evaluation, ask = split.evaluation, split.task.ask[0]
    # draws list scans class by class, and a language model tends to repeat the last answers that it read
    order = np.random.default_rng([evaluation.seed, *split.train]).permutation(len(split.train))
    labels = split.labels(split.train)
    user = {"role": "user", "content": [{"type": "fmri"}, {"type": "text", "text": ask}]}
    shown = [turn for i in order for turn in (user, {"role": "assistant", "content": labels[i]})]
    last = {"role": "assistant", "content": split.classes[0]}
    try:
        pieces = evaluation.processor.split_chat([*shown, user, last])[:-1]
    except ValueError as error:
        raise Unavailable(str(error)) from error
    before = [token for text, _ in pieces[:-1] for token in evaluation.processor.tokenize(text)]
    prompt = evaluation.processor.tokenize(pieces[-1][0])
    answers = encode_question(evaluation.processor, ask, split.classes)[1]
    n_tokens = len(before) + len(prompt) + max(map(len, answers))
    limit = getattr(evaluation.model.config.text_config, "max_position_embeddings", None)
    if limit is not None and n_tokens > limit:
        raise Unavailable(
            f"{len(labels)} labelled scans make prompts of {n_tokens} tokens, expected at most {limit}, the context "
            "of the language model."
        )
    past = read_before(evaluation.model, before, **inputs_of(encoded, [split.train[i] for i in order]))
    size = max(1, min(BATCH, TOKENS_AT_ONCE // n_tokens))
    batches = [split.test[start : start + size] for start in range(0, len(split.test), size)]
    parts = [
        answers_to_questions(evaluation.model, [(prompt, answers)], past, **inputs_of(evaluation.encoded, batch))[0]
        for batch in batches
    ]
    return Answer(torch.cat(parts).double().softmax(-1).cpu().numpy())


# -------------------------------------------------------------------------------------------- few-shot predictors


@dataclass(frozen=True)
class FewShotPredictor:
    """A predictor that learns a task from a few labelled scans.

    Attributes
    ----------
    title : str
        In tables and pictures.
    answer : callable
        Takes a `TaskSplit` whose training scans are the labelled ones, and these scans encoded; returns an `Answer`.
    """

    title: str
    answer: Callable[[TaskSplit, EncodedScans], Answer]


def _baseline(name: str) -> FewShotPredictor:
    return FewShotPredictor(PREDICTORS[name].title, lambda split, _: PREDICTORS[name].answer(split))


FEW_SHOT_PREDICTORS = {
    "adapter": FewShotPredictor("fMRI-LM with an adapter", adapter),
    "in_context": FewShotPredictor("fMRI-LM with labelled scans in the prompt", in_context),
    "connectivity_logistic": _baseline("connectivity_logistic"),
    "network_logistic": _baseline("network_logistic"),
}
