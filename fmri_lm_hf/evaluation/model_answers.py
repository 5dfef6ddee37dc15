"""The model's answers to all tasks about all test scans, each computed once and shared by all predictors.

An `Evaluation` holds a model, a scan dataset and tasks. A predictor takes a `TaskSplit`, one of these tasks with its
training and test scans, and returns an `Answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..models.abstention import read_or_decline
from ..models.answers import answers_to_questions, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..models.scan_errors import ScanError
from .features import ScanFeatures, Unavailable
from .tasks import Form, Task, forms_of, is_missing

BATCH = 32
Inputs = Mapping[str, torch.Tensor]
# Takes a row of a scan dataset and its number; returns the row that a control shows to the model in its place.
Change = Callable[[Mapping[str, Any], int], Mapping[str, Any]]


class Evaluation:
    """A model, a scan dataset and tasks, with the model's answers.

    Parameters
    ----------
    model : FmriLMForCausalLM
    processor : FmriLMProcessor
    scans : datasets.Dataset
        A scan dataset with the label columns.
    tasks : mapping of str to Task
    rows : sequence of int
        The test scans.
    seed : int
        Of every control that draws.

    Attributes
    ----------
    encoded : EncodedScans
        The test scans that the model can read.
    features : ScanFeatures
        Inputs of the linear baselines, for any scan of the dataset.
    subjects, sites : list of str
        Of each scan of the dataset.
    labels : dict of str to list
        By task, the right answer for each scan of the dataset; None where there is none.
    """

    def __init__(
        self,
        model: FmriLMForCausalLM,
        processor: FmriLMProcessor,
        scans: datasets.Dataset,
        tasks: Mapping[str, Task],
        rows: Sequence[int],
        seed: int = 0,
    ):
        self.model, self.processor, self.scans = model.eval(), processor, scans
        self.tasks, self.seed = dict(tasks), seed
        self.subjects = [str(subject) for subject in scans["subject_id"]]
        self.sites = [str(site) for site in scans["site"]]
        self.labels = {name: task.answers_of(scans) for name, task in tasks.items()}
        self.encoded = EncodedScans.encode(model, processor, scans, rows)
        atlas = processor.feature_extractor.atlas
        self.features = ScanFeatures(scans, None if atlas is None else atlas.networks, seed)
        # By name of the control, not by task: a control that changed a scan for one task otherwise than for another
        # would get the answers about the first change for both.
        self._answers: dict[str, _AllAnswers] = {}

    def split(self, name: str, rows: Mapping[str, Sequence[int]]) -> TaskSplit:
        """Make the split of a task into ``train`` and ``test`` scans.

        Raises
        ------
        ValueError
            When no test scan has an answer that training scans have.
        """
        labels = self.labels[name]
        train = [row for row in rows["train"] if labels[row] is not None]
        seen = {labels[row] for row in train}
        # The model may not choose a class that no training scan has: baselines cannot, and scores would not compare.
        classes = [each for each in self.tasks[name].classes if each in seen]
        readable = set(self.encoded.rows)
        test = [row for row in rows["test"] if row in readable and labels[row] in classes]
        if len(classes) < 2 or not test:
            raise ValueError(
                f"Task {name!r}: {len(train)} training scans with {len(classes)} different answers and {len(test)} "
                "test scans that have one of them; expected at least two answers and one test scan."
            )
        return TaskSplit(self, name, tuple(rows["train"]), tuple(train), tuple(test), tuple(classes))

    def multiple_choice(self) -> Evaluation:
        """Reduce this evaluation to the tasks whose answers are chosen, not written into a form."""
        reduced = copy(self)  # shallow: it shares the encoded scans and the answers that are there already
        reduced.tasks = {name: task for name, task in self.tasks.items() if task.form is None}
        return reduced

    def answer(
        self,
        split: TaskSplit,
        rows: Sequence[int] | None = None,
        control: str = "",
        change: Change | None = None,
    ) -> Answer:
        """Answer a task with the model: as the zero-shot pipeline does, or by reading the form that it writes.

        The first call asks all tasks, so that the model reads each scan once.

        Parameters
        ----------
        split : TaskSplit
        rows : sequence of int, optional
            The scans to ask about, among the test scans of the evaluation; those of `split` when None.
        control : str
            Name of `change`; "" for the scans as they are.
        change : callable, optional
            Takes a row of the scan dataset and its number, returns the row to show in its place.
        """
        if control not in self._answers:
            encoded = self.encoded
            if change is not None:
                encoded = EncodedScans.encode(self.model, self.processor, self.scans, encoded.rows, change)
                if encoded.failures:
                    reason = next(iter(encoded.failures.values()))
                    raise Unavailable(
                        f"The model cannot read all scans as the control {control} changes them: {reason}"
                    )
            self._answers[control] = self._ask(encoded)
        places = self.encoded.places(split.test if rows is None else rows)
        return self._answers[control].of(split, places)

    def answer_without_scan(self, split: TaskSplit) -> Answer:
        """Answer a task with the model without a scan: the same answer for each test scan."""
        if "without_scan" not in self._answers:
            self._answers["without_scan"] = self._ask(None)
        return self._answers["without_scan"].of(split, [0] * len(split.test))

    def _ask(self, encoded: EncodedScans | None) -> _AllAnswers:
        """Ask all tasks about scans, or without a scan (then each task has one answer)."""
        choices = self.multiple_choice().tasks
        log_probabilities: dict[str, np.ndarray] = {}
        if encoded is not None and choices:
            log_probabilities = encoded.log_probabilities(self.model, self.processor, choices)
        elif choices:
            asked = [
                encode_question(self.processor, task.ask[0], task.classes, with_scan=False)
                for task in choices.values()
            ]
            answers = answers_to_questions(self.model, asked)
            log_probabilities = {name: x.double().cpu().numpy() for name, x in zip(choices, answers, strict=True)}
        inputs = None if encoded is None else encoded.inputs
        written = {
            name: [form.read(text) for text in self._write(form, inputs)]
            for name, form in forms_of(self.tasks).items()
        }
        return _AllAnswers(log_probabilities, written)

    def _write(self, form: Form, inputs: Inputs | None) -> list[str]:
        tokenizer = self.processor.tokenizer
        longest = form.n_tokens(lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))
        # Room for the token that ends the text, and one more: a text cut off at the longest answer would be read as an
        # answer although the model had more to say.
        return generate_texts(self.model, self.processor, form.ask[0], inputs, max_new_tokens=longest + 2)


@dataclass(frozen=True, eq=False)
class TaskSplit:
    """A task with its training and test scans.

    Attributes
    ----------
    evaluation : Evaluation
    name : str
        Of the task.
    pool : tuple of int
        Rows of all training scans, for features that are fitted without labels.
    train : tuple of int
        Rows of the training scans with a label.
    test : tuple of int
        Rows of the scans to answer for.
    classes : tuple of str
        The answers to choose from: those that training scans have.
    """

    evaluation: Evaluation
    name: str
    pool: tuple[int, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def task(self) -> Task:
        return self.evaluation.tasks[self.name]

    def labels(self, rows: Sequence[int]) -> list[str]:
        """Return the right answers for scans that have one."""
        return [str(self.evaluation.labels[self.name][row]) for row in rows]

    def subjects(self, rows: Sequence[int]) -> list[str]:
        return [self.evaluation.subjects[row] for row in rows]

    def numbers(self, rows: Sequence[int]) -> np.ndarray:
        """Return the values of the task's column, which holds numbers; NaN where one is missing."""
        return np.array([np.nan if is_missing(self._column[row]) else float(self._column[row]) for row in rows])

    def class_means(self) -> np.ndarray:
        """Return the mean number of the training scans of each class: (n_classes,)."""
        labels, numbers = np.array(self.labels(self.train)), self.numbers(self.train)
        return np.array([numbers[labels == name].mean() for name in self.classes])

    @cached_property
    def _column(self) -> list[Any]:
        return list(self.evaluation.scans[self.task.column])

    def among_classes(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Turn log-probabilities of all answers of the task into probabilities of `classes`: (..., n_classes)."""
        return among_classes(log_probabilities, self.task, self.classes)


@dataclass(frozen=True)
class Answer:
    """The answer of a predictor to a task, for each test scan.

    Attributes
    ----------
    probabilities : ndarray of shape (n_test, n_classes)
    numbers : ndarray of shape (n_test,), optional
        Estimates of the number that is asked for, where they do not follow from the probabilities.
    written : ndarray of int of shape (n_test,), optional
        The class that was written, -1 where the text is no answer. Probabilities are then 1 for that class, and equal
        where there is none.
    """

    probabilities: np.ndarray
    numbers: np.ndarray | None = None
    written: np.ndarray | None = None

    @property
    def chosen(self) -> np.ndarray:
        """The class of the answer, by number, -1 for none: (n_test,)."""
        return self.probabilities.argmax(1) if self.written is None else self.written


@dataclass(frozen=True)
class _AllAnswers:
    """The model's answers to all tasks about the same scans.

    Attributes
    ----------
    log_probabilities : dict of str to ndarray of shape (n_scans, n_answers)
        By task.
    written : dict of str to list
        By form: the answer in each field, or None, for each scan.
    """

    log_probabilities: Mapping[str, np.ndarray]
    written: Mapping[str, list[dict[str, str] | None]]

    def of(self, split: TaskSplit, places: Sequence[int]) -> Answer:
        """Return the answers to one task about the scans at some positions."""
        task, classes = split.task, split.classes
        if task.form is None:
            return Answer(split.among_classes(self.log_probabilities[task.name][places]))
        fields = [self.written[task.form.name][place] for place in places]
        names = [None if each is None else each[task.form_field] for each in fields]
        chosen = np.array([classes.index(name) if name in classes else -1 for name in names])
        certain = np.eye(len(classes))[chosen]  # -1 picks the last row, which the next line replaces
        certain[chosen < 0] = 1 / len(classes)
        return Answer(certain, written=chosen)


@dataclass
class EncodedScans:
    """Scans as the model's tokenizer encodes them, once for all questions.

    Attributes
    ----------
    rows : list of int
        Of the scan dataset; one row of each tensor in `inputs` each.
    inputs : dict of torch.Tensor
        `fmri_features` (n_scans, n_tokens, size), `roi_mask` and `padding_mask`.
    failures : dict of str to str
        Scans that cannot be read, and why.
    unreadable : dict of str to str
        Scans that are read and answered, but that pipelines would decline (`unreadable_reason`), and why.
    """

    rows: list[int]
    inputs: dict[str, torch.Tensor]
    failures: dict[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)

    @classmethod
    @torch.inference_mode()
    def encode(
        cls,
        model: FmriLMForCausalLM,
        processor: FmriLMProcessor,
        scans: datasets.Dataset,
        rows: Sequence[int],
        change: Change | None = None,
    ) -> EncodedScans:
        """Encode scans of a scan dataset, changed by `change` if it is given.

        Raises
        ------
        ScanError
            When none of them can be read.
        """
        extractor = processor.feature_extractor
        extracted, usable, failures, unreadable = [], [], {}, {}
        for row in tqdm(rows, desc="Reading scans", unit="scan"):
            scan = scans[row]
            shown: Mapping[str, Any]
            try:
                if change is None:
                    shown, reason = read_or_decline(extractor, scan)
                    if reason is not None:
                        unreadable[str(scan["scan_id"])] = reason
                else:
                    shown = change(scan, row)  # what a control shows need not be a scan
                extracted.append(extractor(shown))
            except ScanError as error:
                failures[str(scan["scan_id"])] = str(error)
            else:
                usable.append(row)
        if not usable:
            reason = next(iter(failures.values()), "there are none")
            raise ScanError(f"None of {len(rows)} test scans can be used: {reason}")
        inputs = {name: torch.cat([scan[name] for scan in extracted]) for name in extractor.model_input_names}
        features = [
            model.get_fmri_features(**{name: x.to(model.device) for name, x in batch.items()}).cpu()
            for batch in tqdm(list(batches(inputs)), desc="Scan tokens", unit="batch")
        ]
        del inputs["input_values"]  # most of the memory, and the language model reads the features only
        return cls(usable, inputs | {"fmri_features": torch.cat(features)}, failures, unreadable)

    def places(self, rows: Sequence[int]) -> list[int]:
        """Return the positions of rows of the scan dataset in `inputs`."""
        return [self._place_of[row] for row in rows]

    @cached_property
    def _place_of(self) -> dict[int, int]:
        return {row: place for place, row in enumerate(self.rows)}

    def log_probabilities(
        self, model: FmriLMForCausalLM, processor: FmriLMProcessor, tasks: Mapping[str, Task]
    ) -> dict[str, np.ndarray]:
        """Compute the log-probability of each answer to each task, for each scan: (n_scans, n_answers) a task."""
        asked = [encode_question(processor, task.ask[0], task.classes) for task in tasks.values()]
        parts = [
            [each.double().cpu() for each in answers_to_questions(model, asked, **batch)]
            for batch in tqdm(list(batches(self.inputs)), desc="Answers", unit="batch")
        ]
        return {name: torch.cat(each).numpy() for name, each in zip(tasks, zip(*parts, strict=True))}


def among_classes(log_probabilities: np.ndarray, task: Task, classes: Sequence[str]) -> np.ndarray:
    """Turn log-probabilities of all answers of a task into probabilities of some classes: (..., n_classes)."""
    # Renormalised: the other classes share the probability of answers that are not among them in proportion.
    chosen = log_probabilities[..., [task.classes.index(name) for name in classes]]
    weights = np.exp(chosen - chosen.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@torch.inference_mode()
def generate_texts(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    question: str,
    inputs: Inputs | None,
    max_new_tokens: int = 160,
) -> list[str]:
    """Generate a text about each scan, or one text without a scan, by greedy decoding."""
    prompt, _ = encode_question(processor, question, ["-"], with_scan=inputs is not None)
    texts = []
    for batch in [{}] if inputs is None else batches(inputs):
        n = max((len(values) for values in batch.values()), default=1)
        ids = torch.tensor(prompt, device=model.device).expand(n, -1)
        generated = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            **{name: values.to(model.device) for name, values in batch.items()},
        )
        texts += [processor.decode_answer(row) for row in generated[:, ids.shape[1] :].cpu()]
    return texts


def batches(inputs: Inputs) -> Iterator[dict[str, torch.Tensor]]:
    """Yield inputs of `BATCH` scans at a time."""
    n_scans = len(next(iter(inputs.values())))
    for start in range(0, n_scans, BATCH):
        yield {name: values[start : start + BATCH] for name, values in inputs.items()}
