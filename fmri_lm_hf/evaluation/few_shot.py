"""What a few labelled scans teach: k scans of each class, read by the model and by what stands beside it.

The model learns in two ways, its weights frozen: through an adapter, a small head on what it reads, and in context,
with the labelled scans in front of the question. Baselines are fitted to the same scans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..models.answers import answers_to_questions, encode_question, read_before
from ..models.network_pairs import PRESENT, VALUE
from .features import Unavailable
from .metrics import score_classification
from .model_answers import Answer, EncodedScans, Evaluation, TaskSplit
from .predictors import MODEL, PREDICTORS

ADAPTER_C = 3.0  # inverse strength of the adapter's penalty, for readings whose mean squared norm is 1
LEAST_PROBABILITY = 1e-12  # so that the logarithm of an answer's probability is finite
BATCH = 32
TOKENS_AT_ONCE = 2**15  # of the labelled scans, which every scan of a batch has a copy of


@dataclass(frozen=True)
class ShotReader:
    """One who learns a task from a few labelled scans.

    Attributes
    ----------
    title : str
        In tables and pictures.
    answer : callable
        Takes a `TaskSplit` whose training scans are the labelled ones, and these scans as the model reads them;
        returns an `Answer`.
    """

    title: str
    answer: Callable[[TaskSplit, EncodedScans], Answer]


def few_shot(
    study: Evaluation,
    rows: Mapping[str, Sequence[int]],
    shots: Sequence[int] = (0, 2, 8, 32),
    n_draws: int = 5,
    readers: Sequence[str] | None = None,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Scores of all who learn from k labelled scans of each class, over several draws of these scans.

    Parameters
    ----------
    study : Evaluation
        With the scans to be judged.
    rows : mapping of str to sequence of int
        Rows of the ``train`` and the ``test`` scans.
    shots : sequence of int
        Numbers k of labelled scans of each class, each of another subject; 0 is the zero-shot question.
    n_draws : int
        The same draws for all readers. A draw of more scans holds that of fewer.
    readers : sequence of str, optional
        Names in `SHOT_READERS`; all when None.

    Returns
    -------
    dict
        task -> k (as text) -> reader -> mean over draws of ``accuracy``, ``balanced_accuracy`` and ``auc``, the SD
        over draws of the last two (``balanced_accuracy_sd``, ``auc_sd``), and ``draws``, the balanced accuracy of
        each draw, which can be compared between readers; or ``left_out`` with the reason.

    Raises
    ------
    ValueError
        For a negative k or an unknown reader.
    """
    names = list(SHOT_READERS) if readers is None else list(readers)
    if unknown := sorted(set(names) - set(SHOT_READERS)):
        raise ValueError(f"Unknown readers {', '.join(unknown)}; expected some of {', '.join(SHOT_READERS)}.")
    if bad := [k for k in shots if k < 0]:
        raise ValueError(f"{bad[0]} labelled scans a class found, expected 0 or more.")
    questions = {name: study.split(name, rows) for name in study.tasks}
    drawn, read, missing = _draw_and_read(study, questions, [k for k in shots if k], n_draws)
    results: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    progress = tqdm(total=len(drawn) * len(names), desc="Few-shot", unit="fit")
    for name, question in questions.items():
        curve: dict[str, dict[str, dict[str, Any]]] = {}
        for k in sorted(set(shots)):
            if k == 0:
                curve["0"] = {MODEL: _summary([_scored(question, PREDICTORS[MODEL].answer(question))])}
            elif (name, k) in missing:
                curve[str(k)] = {reader: {"left_out": missing[name, k]} for reader in names}
            else:
                curve[str(k)] = {reader: {} for reader in names}
                for reader in names:
                    scores = []
                    try:
                        for draw in range(n_draws):
                            taught = _taught(question, drawn[name, k, draw])
                            scores.append(_scored(question, SHOT_READERS[reader].answer(taught, read)))
                            progress.update()
                        curve[str(k)][reader] = _summary(scores)
                    except Unavailable as reason:
                        curve[str(k)][reader] = {"left_out": str(reason)}
                        progress.update(n_draws - len(scores))
        results[name] = curve
    progress.close()
    return results


def draw_shots(question: TaskSplit, k: int, draw: int, without: Sequence[int] = ()) -> tuple[int, ...]:
    """Rows of k training scans of each class, each of another subject, and of nobody who is judged.

    Parameters
    ----------
    question : TaskSplit
    k : int
    draw : int
        Number of the draw; with the study's seed it decides which scans. The draw of more scans begins, class by
        class, with that of fewer.
    without : sequence of int
        Rows that must not be drawn.

    Raises
    ------
    Unavailable
        When a class has fewer than k subjects. Subjects with scans of several classes are never drawn.
    """
    subjects, judged = question.evaluation.subjects, set(question.subjects(question.test))
    labels = dict(zip(question.train, question.labels(question.train)))
    seen: dict[str, set[str]] = {}
    for row, label in labels.items():
        seen.setdefault(subjects[row], set()).add(label)
    chosen: list[int] = []
    for number, name in enumerate(question.classes):
        of_subject: dict[str, list[int]] = {}
        for row, label in labels.items():
            if label == name and len(seen[subjects[row]]) == 1 and row not in without:
                of_subject.setdefault(subjects[row], []).append(row)
        candidates = sorted(set(of_subject) - judged)
        if len(candidates) < k:
            raise Unavailable(
                f"{k} labelled scans of {name!r} are asked for, and {len(candidates)} training subjects have one."
            )
        rng = np.random.default_rng([question.evaluation.seed, draw, number])
        order = rng.permutation(len(candidates))
        scan_of = rng.random(len(candidates))  # which of a subject's scans
        for i in order[:k]:
            rows = of_subject[candidates[i]]
            chosen.append(rows[int(scan_of[i] * len(rows))])
    return tuple(chosen)


def _draw_and_read(
    study: Evaluation, questions: Mapping[str, TaskSplit], shots: Sequence[int], n_draws: int
) -> tuple[dict[tuple[str, int, int], tuple[int, ...]], EncodedScans, dict[tuple[str, int], str]]:
    """All draws, the drawn scans as the model reads them, and what cannot be drawn; an unreadable scan is replaced."""
    unreadable: set[int] = set()
    while True:
        drawn: dict[tuple[str, int, int], tuple[int, ...]] = {}
        missing: dict[tuple[str, int], str] = {}
        for name, question in questions.items():
            for k in shots:
                try:
                    draws = [draw_shots(question, k, draw, tuple(unreadable)) for draw in range(n_draws)]
                except Unavailable as reason:
                    missing[name, k] = str(reason)
                else:
                    drawn |= {(name, k, draw): rows for draw, rows in enumerate(draws)}
        rows = sorted({row for each in drawn.values() for row in each})
        if not rows:
            return drawn, EncodedScans([], {}, {}), missing
        read = EncodedScans.encode(study.model, study.processor, study.scans, rows)
        if len(read.rows) == len(rows):
            return drawn, read, missing
        unreadable |= set(rows) - set(read.rows)


def _taught(question: TaskSplit, shots: tuple[int, ...]) -> TaskSplit:
    """The question for who knows nothing but these scans."""
    return dataclasses.replace(question, pool=shots, train=shots)


def adapter(question: TaskSplit, read: EncodedScans) -> Answer:
    """A logistic head on what the frozen model reads, fitted to the labelled scans alone.

    It sees the values of the scan's network-pair tokens (of a model that has none, the hidden state at the place of
    the answer) and the log-odds of the model's own answers. The values are those that the model's text is about, each
    relative to its scan, so that they mean the same at every site. They are centred and divided by one number, the
    root mean squared norm of the labelled scans, not by an SD each, which few scans do not tell; the penalty is
    fixed. Log-odds stay as they are: a model that is sure of its answers is followed from the first labelled scan
    on, one that has not learnt the task says nearly the same of every scan and adds nearly nothing.

    Parameters
    ----------
    question : TaskSplit
        Its training scans are the labelled ones.
    read : EncodedScans
        These scans, as the model reads them.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = (
        _reading(question, read, question.train),
        _reading(question, question.evaluation.encoded, question.test),
    )
    train, test = scaled(train, test)
    odds = [
        _log_odds(_answers(question, read)),
        _log_odds(question.evaluation.answer(question).probabilities),
    ]
    train, test = np.concatenate([train, odds[0]], axis=1), np.concatenate([test, odds[1]], axis=1)
    head = LogisticRegression(C=ADAPTER_C, class_weight="balanced", max_iter=1000)
    head.fit(train, question.labels(question.train))
    found = head.predict_proba(test)
    return Answer(found[:, [head.classes_.tolist().index(name) for name in question.classes]])


def in_context(question: TaskSplit, read: EncodedScans) -> Answer:
    """The model asked with the labelled scans, their questions and their right answers in front of the question.

    The labelled scans stand in random order and are read once, for all scans to answer for.

    Raises
    ------
    Unavailable
        When they do not fit into the context of the language model, or its chat template rewrites earlier turns.
    """
    study, ask = question.evaluation, question.task.ask[0]
    order = np.random.default_rng([study.seed, *question.train]).permutation(len(question.train))
    labels = question.labels(question.train)
    user = {"role": "user", "content": [{"type": "fmri"}, {"type": "text", "text": ask}]}
    told = [each for i in order for each in (user, {"role": "assistant", "content": labels[i]})]
    try:
        pieces = study.processor.split_chat(
            [*told, user, {"role": "assistant", "content": question.classes[0]}]
        )[:-1]
    except ValueError as error:
        raise Unavailable(str(error)) from error
    before = [token for text, _ in pieces[:-1] for token in study.processor.tokenize(text)]
    prompt = study.processor.tokenize(pieces[-1][0])
    answers = encode_question(study.processor, ask, question.classes)[1]
    n_tokens = len(before) + len(prompt) + max(map(len, answers))
    limit = getattr(study.model.config.text_config, "max_position_embeddings", None)
    if limit is not None and n_tokens > limit:
        raise Unavailable(
            f"{len(labels)} labelled scans make prompts of {n_tokens} tokens, and the language model's context has "
            f"{limit}."
        )
    shots = inputs_at(read, [question.train[i] for i in order])
    past = read_before(study.model, before, **shots)
    size = max(1, min(BATCH, TOKENS_AT_ONCE // n_tokens))
    parts = [
        answers_to_questions(
            study.model,
            [(prompt, answers)],
            past,
            **inputs_at(study.encoded, question.test[start : start + size]),
        )[0]
        for start in range(0, len(question.test), size)
    ]
    return Answer(torch.cat(parts).double().softmax(-1).cpu().numpy())


SHOT_READERS = {
    "adapter": ShotReader("fMRI-LM with an adapter", adapter),
    "in_context": ShotReader("fMRI-LM with labelled scans in the prompt", in_context),
    "connectivity_logistic": ShotReader(
        PREDICTORS["connectivity_logistic"].title,
        lambda question, _: PREDICTORS["connectivity_logistic"].answer(question),
    ),
    "network_logistic": ShotReader(
        PREDICTORS["network_logistic"].title,
        lambda question, _: PREDICTORS["network_logistic"].answer(question),
    ),
}


def inputs_at(read: EncodedScans, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """What the model takes of some of the scans that were read, in the order of `rows`."""
    place_of = {row: place for place, row in enumerate(read.rows)}
    places = [place_of[row] for row in rows]
    return {name: values[places] for name, values in read.inputs.items()}


def _answers(question: TaskSplit, read: EncodedScans) -> np.ndarray:
    """Probability of each answer that the model gives, without having learnt, for the training scans."""
    study = question.evaluation
    asked = dataclasses.replace(read, rows=list(question.train), inputs=inputs_at(read, question.train))
    found = asked.log_probabilities(study.model, study.processor, {question.name: question.task})
    return question.among_classes(found[question.name])


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Log-probabilities relative to their mean over the answers: (n_scans, n_classes)."""
    logs = np.log(probabilities.clip(LEAST_PROBABILITY))
    return logs - logs.mean(1, keepdims=True)


@torch.inference_mode()
def _reading(question: TaskSplit, read: EncodedScans, rows: Sequence[int]) -> np.ndarray:
    """What the frozen model holds of scans: (n_rows, n_features), NaN for what a scan does not have."""
    study, inputs = question.evaluation, inputs_at(read, rows)
    if study.model.config.reads_network_pairs:
        # behind the tokens of the ROIs stands one of the scan as a whole, then one of each pair
        pairs = inputs["fmri_features"][:, study.model.config.n_roi_tokens + 1 :]
        return pairs[..., VALUE].masked_fill(pairs[..., PRESENT] == 0, np.nan).double().numpy()
    prompt, _ = encode_question(study.processor, question.task.ask[0], question.classes)
    states = []
    for start in range(0, len(rows), BATCH):
        batch = {name: x[start : start + BATCH].to(study.model.device) for name, x in inputs.items()}
        ids = torch.tensor([prompt], device=study.model.device).expand(len(batch["fmri_features"]), -1)
        output = study.model(input_ids=ids, output_hidden_states=True, logits_to_keep=1, **batch)
        states.append(output.hidden_states[-1][:, -1].double().cpu())
    return torch.cat(states).numpy()


def scaled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both relative to the mean of the training scans, in units of their root mean squared norm; 0 for NaN."""
    known = np.isfinite(train)
    centre = np.where(known, train, 0).sum(0) / known.sum(0).clip(1)
    train, test = (np.nan_to_num(x - centre) * known.any(0) for x in (train, test))
    norm = np.sqrt(np.square(train).sum(1).mean())
    return (train / norm, test / norm) if norm > 0 else (train, test)


def _scored(question: TaskSplit, answer: Answer) -> dict[str, float | None]:
    predicted = [question.classes[best] for best in answer.probabilities.argmax(1)]
    truth = question.labels(question.test)
    return score_classification(truth, predicted, answer.probabilities, question.classes)


def _summary(scores: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Mean over draws and, where there are several, their SD; None where a score is not defined."""
    found: dict[str, Any] = {"draws": [each["balanced_accuracy"] for each in scores]}
    for name in ("accuracy", "balanced_accuracy", "auc"):
        values = [value for each in scores if (value := each[name]) is not None]
        found[name] = float(np.mean(values)) if values else None
        if len(values) > 1 and name != "accuracy":
            found[f"{name}_sd"] = float(np.std(values, ddof=1))
    return found
