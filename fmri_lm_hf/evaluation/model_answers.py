"""What all readers of a study share: its scans, its questions, and what the model says, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..models.answers import answers_to_questions, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..models.scan_errors import ScanError
from .features import ScanFeatures, Unavailable
from .tasks import Form, Task, forms_of, is_missing

# What a model writes about scans: nothing is sampled, so that the same scan gets the same text.

BATCH = 32
Inputs = Mapping[str, torch.Tensor]


@torch.inference_mode()
def generate_texts(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    question: str,
    inputs: Inputs | None,
    max_new_tokens: int = 160,
) -> list[str]:
    """A model's answer to a question about each scan, or about none (then one answer)."""
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
    """The scans, some at a time."""
    n_scans = len(next(iter(inputs.values())))
    for start in range(0, n_scans, BATCH):
        yield {name: values[start : start + BATCH] for name, values in inputs.items()}


# A row of a scan dataset, changed: what a control shows to the model in place of the scan.
Change = Callable[[Mapping[str, Any], int], Mapping[str, Any]]


@dataclass
class ReadScans:
    """Scans that a model has read once, for all questions.

    Attributes
    ----------
    rows : list of int
        Of the scan dataset; one row of each tensor in `inputs` each.
    inputs : dict of torch.Tensor
        `fmri_features` (n_scans, n_tokens, size), `roi_mask` and `padding_mask`.
    failures : dict of str to str
        Scans that cannot be read, and why.
    """

    rows: list[int]
    inputs: dict[str, torch.Tensor]
    failures: dict[str, str]

    @cached_property
    def _place_of(self) -> dict[int, int]:
        return {row: place for place, row in enumerate(self.rows)}

    def places(self, rows: Sequence[int]) -> list[int]:
        """Where rows of the scan dataset stand among those that were read."""
        return [self._place_of[row] for row in rows]

    @classmethod
    @torch.inference_mode()
    def read(
        cls,
        model: FmriLMForCausalLM,
        processor: FmriLMProcessor,
        scans: datasets.Dataset,
        rows: Sequence[int],
        batch_size: int = 32,
        change: Change | None = None,
    ) -> ReadScans:
        """Read scans of a scan dataset, or what `change` makes of them, with a model's extractor and tokenizer."""
        extractor = processor.feature_extractor
        extracted, usable, failures = [], [], {}
        for row in tqdm(rows, desc="Reading scans", unit="scan"):
            scan = scans[row]
            try:
                extracted.append(extractor(scan if change is None else change(scan, row)))
            except ScanError as error:
                failures[str(scan["scan_id"])] = str(error)
            else:
                usable.append(row)
        if not usable:
            reason = next(iter(failures.values()), "there are none")
            raise ScanError(f"None of {len(rows)} test scans can be used: {reason}")
        inputs = {name: torch.cat([scan[name] for scan in extracted]) for name in extractor.model_input_names}
        features = [
            model.get_fmri_features(
                **{name: x[start : start + batch_size].to(model.device) for name, x in inputs.items()}
            ).cpu()
            for start in tqdm(range(0, len(usable), batch_size), desc="Tokens of the scans", unit="batch")
        ]
        del inputs["input_values"]
        return cls(usable, inputs | {"fmri_features": torch.cat(features)}, failures)

    def log_probabilities(
        self,
        model: FmriLMForCausalLM,
        processor: FmriLMProcessor,
        tasks: Mapping[str, Task],
        batch_size: int = 32,
    ) -> dict[str, np.ndarray]:
        """Log-probability of each answer to the question of each task about each scan: (n_scans, n_answers) a task."""
        asked = [encode_question(processor, task.ask[0], task.classes) for task in tasks.values()]
        parts = []
        for start in tqdm(range(0, len(self.rows), batch_size), desc="Answers", unit="batch"):
            batch = {name: values[start : start + batch_size] for name, values in self.inputs.items()}
            parts.append([each.double().cpu() for each in answers_to_questions(model, asked, **batch)])
        return {name: torch.cat(each).numpy() for name, each in zip(tasks, zip(*parts, strict=True))}


class Study:
    """A model, a scan dataset and questions about it.

    Parameters
    ----------
    model : FmriLMForCausalLM
    processor : FmriLMProcessor
    scans : datasets.Dataset
        A scan dataset with the label columns.
    tasks : mapping of str to Task
    rows : sequence of int
        The scans to be judged.
    seed : int
        Of every control that draws.

    Attributes
    ----------
    read : ReadScans
        The scans to be judged, as the model reads them; those that it cannot read are not judged.
    features : ScanFeatures
        What linear readers see of any scan of the dataset.
    subjects, sites : list of str
        Whose scan each of the dataset is, and where from.
    labels : dict of str to list
        The right answer of each task for each scan of the dataset, None where there is none.
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
        self.read = ReadScans.read(model, processor, scans, rows)
        atlas = processor.feature_extractor.atlas
        self.features = ScanFeatures(scans, None if atlas is None else atlas.networks, seed)
        self._said: dict[str, _Said] = {}

    def says(
        self,
        question: Question,
        rows: Sequence[int] | None = None,
        control: str = "",
        change: Change | None = None,
    ) -> Answer:
        """What the model answers to a question, as the zero-shot pipeline has it, or by what it writes into a form.

        All questions of the study are asked when the first one is, so that each scan is read once.

        Parameters
        ----------
        question : Question
        rows : sequence of int, optional
            The scans to ask about, among those to be judged; the test scans of the question when None.
        control : str
            Name of what `change` does; the scans as they are when "".
        change : callable, optional
            Takes a row of the scan dataset and its number, returns what to show to the model instead.
        """
        if control not in self._said:
            read = self.read
            if change is not None:
                read = ReadScans.read(self.model, self.processor, self.scans, self.read.rows, change=change)
                if read.failures:
                    reason = next(iter(read.failures.values()))
                    raise Unavailable(
                        f"The model cannot read all scans as the control {control} changes them: {reason}"
                    )
            self._said[control] = self._ask(read)
        places = self.read.places(question.test if rows is None else rows)
        return self._said[control].answer(question, places)

    def says_without_scan(self, question: Question) -> Answer:
        """What the model answers when it is shown no scan, the same for each test scan."""
        if "without_scan" not in self._said:
            self._said["without_scan"] = self._ask(None)
        return self._said["without_scan"].answer(question, [0] * len(question.test))

    def _ask(self, read: ReadScans | None) -> _Said:
        """All questions of the study, about scans or about none (then one answer to each)."""
        chosen_from = self.chosen_from().tasks
        found: dict[str, np.ndarray] = {}
        if read is not None:
            if chosen_from:
                found = read.log_probabilities(self.model, self.processor, chosen_from)
        elif chosen_from:
            asked = [
                encode_question(self.processor, task.ask[0], task.classes, with_scan=False)
                for task in chosen_from.values()
            ]
            answers = answers_to_questions(self.model, asked)
            found = {name: x.double().cpu().numpy() for name, x in zip(chosen_from, answers, strict=True)}
        inputs = None if read is None else read.inputs
        written = {
            name: [form.read(text) for text in self._write(form, inputs)]
            for name, form in forms_of(self.tasks).items()
        }
        return _Said(found, written)

    def _write(self, form: Form, inputs: Inputs | None) -> list[str]:
        tokenizer = self.processor.tokenizer
        longest = form.n_tokens(lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))
        # one token more ends the text, and one that goes on is no answer
        return generate_texts(self.model, self.processor, form.ask[0], inputs, max_new_tokens=longest + 2)

    def chosen_from(self) -> Study:
        """This study, of the questions alone whose answers are chosen and not written."""
        less = copy(self)
        less.tasks = {name: task for name, task in self.tasks.items() if task.form is None}
        return less

    def question(self, name: str, rows: Mapping[str, Sequence[int]]) -> Question:
        """The question of a task, for one split of the scans into ``train`` and ``test``.

        Raises
        ------
        ValueError
            When no test scan has an answer that training scans have.
        """
        labels = self.labels[name]
        train = [row for row in rows["train"] if labels[row] is not None]
        seen = {labels[row] for row in train}
        classes = [each for each in self.tasks[name].classes if each in seen]
        read = set(self.read.rows)
        test = [row for row in rows["test"] if row in read and labels[row] in classes]
        if len(classes) < 2 or not test:
            raise ValueError(
                f"Task {name!r}: {len(train)} training scans with {len(classes)} different answers and {len(test)} "
                "test scans that have one of them; expected at least two answers and one test scan."
            )
        return Question(self, name, tuple(rows["train"]), tuple(train), tuple(test), tuple(classes))


@dataclass(frozen=True, eq=False)
class Question:
    """What a reader is given: a task of a study, with the scans to learn from and the scans to answer for.

    Attributes
    ----------
    study : Study
    name : str
        Of the task.
    pool : tuple of int
        Rows of all training scans: what needs no label may be fitted to them.
    train : tuple of int
        Rows of the training scans with a label.
    test : tuple of int
        Rows of the scans to answer for.
    classes : tuple of str
        The answers to choose from: those that training scans have.
    """

    study: Study
    name: str
    pool: tuple[int, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def task(self) -> Task:
        return self.study.tasks[self.name]

    def labels(self, rows: Sequence[int]) -> list[str]:
        """The right answers for scans that have one."""
        return [str(self.study.labels[self.name][row]) for row in rows]

    def subjects(self, rows: Sequence[int]) -> list[str]:
        return [self.study.subjects[row] for row in rows]

    def numbers(self, rows: Sequence[int]) -> np.ndarray:
        """The values of the task's column, NaN where one is missing: for tasks whose column holds numbers."""
        column = self._column
        return np.array([np.nan if is_missing(column[row]) else float(column[row]) for row in rows])

    def class_means(self) -> np.ndarray:
        """What each class stands for where the number is asked for: the mean of its training scans, (n_classes,)."""
        labels, numbers = np.array(self.labels(self.train)), self.numbers(self.train)
        return np.array([numbers[labels == name].mean() for name in self.classes])

    @cached_property
    def _column(self) -> list[Any]:
        return list(self.study.scans[self.task.column])

    def among_classes(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Probabilities over `classes`, from log-probabilities of all answers of the task: (..., n_classes)."""
        return among_classes(log_probabilities, self.task, self.classes)


def among_classes(log_probabilities: np.ndarray, task: Task, classes: Sequence[str]) -> np.ndarray:
    """Probabilities over some classes of a task, from log-probabilities of all its answers: (..., n_classes)."""
    chosen = log_probabilities[..., [task.classes.index(name) for name in classes]]
    weights = np.exp(chosen - chosen.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Answer:
    """What a reader says of the test scans of a question.

    Attributes
    ----------
    probabilities : ndarray of shape (n_test, n_classes)
    numbers : ndarray of shape (n_test,), optional
        Its estimates of the number that was asked for, where it makes them otherwise than by way of the classes.
    written : ndarray of int of shape (n_test,), optional
        The class that it wrote, -1 where what it wrote is no answer; for a reader that writes, and then its
        probabilities are 1 for that class, and equal where there is none.
    """

    probabilities: np.ndarray
    numbers: np.ndarray | None = None
    written: np.ndarray | None = None

    @property
    def chosen(self) -> np.ndarray:
        """The class that it answers with, by number, -1 for none: (n_test,)."""
        return self.probabilities.argmax(1) if self.written is None else self.written


@dataclass(frozen=True)
class _Said:
    """What the model says to all questions of a study about the same scans.

    Attributes
    ----------
    log_probabilities : dict of str to ndarray of shape (n_scans, n_answers)
        By task.
    written : dict of str to list
        By form: for each scan the answer in each field, or None.
    """

    log_probabilities: Mapping[str, np.ndarray]
    written: Mapping[str, list[dict[str, str] | None]]

    def answer(self, question: Question, places: Sequence[int]) -> Answer:
        """To one question, about the scans in some places."""
        task = question.task
        if task.form is None:
            return Answer(question.among_classes(self.log_probabilities[task.name][places]))
        written = [self.written[task.form.name][place] for place in places]
        said = [None if each is None else each[task.form_field] for each in written]
        chosen = np.array([question.classes.index(s) if s in question.classes else -1 for s in said])
        certain = np.eye(len(question.classes))[chosen]
        certain[chosen < 0] = 1 / len(question.classes)
        return Answer(certain, written=chosen)
