"""Questions about the labels of scans, as data: what is asked, and which answer each value of a column has."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any

import datasets
import yaml

# Many ways to ask for the same thing, from a seeded grammar that trainings and evaluations share.

MAX_WORDINGS = 200

_SCANS = ("scan", "brain scan", "fMRI scan", "recording")
_WHOSE = (
    "",
    " of this person",
    " of this participant",
    " of the person in the scan",
    " of the scanned person",
)
_REQUESTS = ("state", "name", "give", "tell me", "report", "determine", "estimate", "predict")
_QUESTIONS = (
    "What is the {about}{whose}?",
    "What {about} does this {scan} show?",
    "Which {about} does this {scan} show?",
    "Which {about} do you read from this {scan}?",
    "Going by this {scan}, what is the {about}{whose}?",
    "Judging from this {scan}, which {about} fits best?",
    "Can you tell the {about}{whose} from this {scan}?",
    "What does this {scan} say about the {about}{whose}?",
    "{Request} the {about}{whose}.",
    "{Request} the {about}{whose} from this {scan}.",
    "Please {request} the {about}{whose}.",
    "From this {scan}, {request} the {about}.",
)


def wordings_of(about: str, n_wordings: int = MAX_WORDINGS, seed: int = 0) -> tuple[str, ...]:
    """Different wordings of the question for something.

    Parameters
    ----------
    about : str
        What is asked for, without an article, such as ``age group``.
    n_wordings : int
        At most `MAX_WORDINGS`. Fewer are the first of more.
    seed : int
        Which ones, and in which order.

    Examples
    --------
    >>> wordings_of("diagnosis", 2)
    ('What does this fMRI scan say about the diagnosis of this person?', 'Please state the diagnosis of this person.')
    """
    if not 0 <= n_wordings <= MAX_WORDINGS:
        raise ValueError(f"{n_wordings} wordings found, expected 0 to {MAX_WORDINGS}.")
    words = [
        {"about": about, "whose": whose, "scan": scan, "request": request, "Request": request.capitalize()}
        for whose, scan, request in product(_WHOSE, _SCANS, _REQUESTS)
    ]
    # one form after the other, so that a form with many combinations is not most of what is asked
    rng = random.Random(f"{seed}/{about}")
    of_forms = [rng.sample(each, len(each)) for form in _QUESTIONS if (each := _filled(form, words))]
    rng.shuffle(of_forms)
    longest = max(map(len, of_forms))
    mixed = [each[place] for place in range(longest) for each in of_forms if place < len(each)]
    return tuple(mixed[:n_wordings])


def _filled(form: str, words: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(form.format(**each) for each in words))


# Several questions in one answer: what the model writes is read field by field, or counts as no answer.


@dataclass(frozen=True)
class Form:
    """An answer in free text that answers several questions at once.

    Parameters
    ----------
    name : str
    ask : tuple of str
        Wordings of the request; the first one is used where scans are judged, all of them in training.
    template : str
        The answer, with each field in braces once: ``"Sex: {sex}. Diagnosis: {diagnosis}."``
    answers : mapping of str to tuple of str
        What can stand in each field.

    Raises
    ------
    ValueError
        If the template does not hold each field once, two of them touch, or two answers of a field read alike.
    """

    name: str
    ask: tuple[str, ...]
    template: str
    answers: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(
                f"`answer` of {self.name!r} is no template: {error} in {self.template!r}."
            ) from error
        found = [field for _, field, _, _ in parts if field is not None]
        if sorted(found) != sorted(self.answers) or any(form or kind for _, _, form, kind in parts):
            raise ValueError(
                f"`answer` of {self.name!r} is {self.template!r}: expected each field once, in braces and as it is: "
                f"{', '.join(f'{{{field}}}' for field in self.answers)}."
            )
        if any(not literal.strip() for literal, field, _, _ in parts[1:] if field is not None):
            raise ValueError(
                f"`answer` of {self.name!r} is {self.template!r}: expected words or signs between two fields, so that "
                "it is clear where one ends."
            )

        for field, answers in self.answers.items():
            if not field.isidentifier():
                raise ValueError(
                    f"Field {field!r} of {self.name!r}: expected letters, digits and _, so that it can stand in the "
                    "template; the name of its column goes into `column`."
                )
            if len({_plain(each) for each in answers}) < len(answers):
                raise ValueError(
                    f"Answers of field {field!r} of {self.name!r} differ by capitals alone: {', '.join(answers)}."
                )

    def write(self, answers: Mapping[str, str]) -> str:
        """The text that gives these answers to the fields."""
        return self.template.format(**answers)

    def examples(self) -> list[str]:
        """Texts in which each answer of each field stands at least once."""
        n_texts = max(len(answers) for answers in self.answers.values())
        return [
            self.write({field: answers[place % len(answers)] for field, answers in self.answers.items()})
            for place in range(n_texts)
        ]

    def n_tokens(self, count: Callable[[str], int]) -> int:
        """Tokens of the longest text that this form can have, where `count` says how many a text has."""
        return count(self.write({field: max(answers, key=count) for field, answers in self.answers.items()}))

    def read(self, text: str) -> dict[str, str] | None:
        """The answers that a text gives to the fields; None unless the whole of it has the form of the template.

        Spaces, line breaks and capitals do not matter. All else does: a field that is missing, an answer that is none
        of those that can be given, or a word before or after.
        """
        found = self._pattern.fullmatch(_plain(text))
        if found is None:
            return None
        return {
            field: next(each for each in self.answers[field] if _plain(each) == found[f"field_{place}"])
            for place, field in enumerate(self.answers)
        }

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        places = {field: place for place, field in enumerate(self.answers)}
        pattern = ""
        for literal, field, _, _ in Formatter().parse(" ".join(self.template.split())):
            pattern += re.escape(literal.casefold())
            if field is not None:
                choices = "|".join(re.escape(_plain(each)) for each in self.answers[field])
                pattern += f"(?P<field_{places[field]}>{choices})"
        return re.compile(pattern)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


_COHORT_FILES = Path(__file__).with_name("cohorts")
COHORTS = tuple(
    sorted(path.stem for path in _COHORT_FILES.glob("*.yaml"))
)  # whose tasks the package declares

MAX_CLASSES = 10
_WORDINGS = (
    "What is the {label}?",
    "Which {label} does this scan show?",
    "State the {label} of this person.",
)


def is_missing(value: Any) -> bool:
    """Whether a label is not known: None or NaN."""
    return value is None or value != value


def class_name(value: Any) -> str:
    """The name of a class: 1.0, as pandas writes an integer column with gaps, is "1"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True)
class Task:
    """A question about a label column.

    Attributes
    ----------
    name : str
        What the scores are listed under.
    column : str
        Of the scan dataset.
    ask : tuple of str
        Wordings; the first one is used where scans are judged, all of them in training.
    answers : dict of str to str
        The answer to each value (as `class_name` writes it).
    below : dict of float to str
        For numbers, in place of `answers`: the answer below each bound. More than two are also scored as an order.
    regression : bool
        Whether the number itself is scored too. It is estimated by the mean over the answers of `below`, weighted with
        their probabilities; an answer stands for the mean of the training scans that have it.
    hypothesis : dict of str to str
        What is thought to mark the scans of an answer, in words that `parse_hypothesis` reads: such a task can be
        answered without one label (`fmri_lm_hf.evaluation.predictors`).
    forbidden : tuple of str
        Columns that are neighbours of the label, such as a clinical score beside a diagnosis: nothing is predicted
        from them.
    form : Form, optional
        Where the answer is a field of a text that the model writes, and not the most probable of the answers.
    form_field : str
        Which of its fields.
    """

    name: str
    column: str
    ask: tuple[str, ...]
    answers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    below: Mapping[float, str] = dataclasses.field(default_factory=dict)
    regression: bool = False
    forbidden: tuple[str, ...] = ()
    hypothesis: Mapping[str, str] = dataclasses.field(default_factory=dict)
    form: Form | None = None
    form_field: str = ""

    @classmethod
    def from_dict(cls, name: str, declared: Mapping[str, Any]) -> Task:
        """A task from its declaration: `ask` or `about`, `answers` or `below`; `column` where it is not the name.

        `about` is what is asked for, such as ``age group``: its wordings by :func:`wordings_of` follow those of `ask`,
        200 of them or as many as `wordings` says. `forbidden`, `hypothesis` (answer: what marks its scans) and, with
        `below`, `regression: true` may be there too.
        """
        kinds = set(declared) - {"column", "forbidden", "ask", "about", "hypothesis"}
        if "below" in kinds:
            kinds -= {"regression"}
        if "about" in declared:
            kinds -= {"wordings"}
        ask = _names(declared.get("ask", ()))
        if about := declared.get("about"):
            ask = ask or (f"What is the {about}?",)
            ask += wordings_of(str(about), int(declared.get("wordings", MAX_WORDINGS)))
        if kinds not in ({"answers"}, {"below"}) or not ask:
            raise ValueError(
                f"The question about {name!r} has {', '.join(declared) or 'nothing'}: expected `ask` (a list of "
                "wordings) or `about` (what is asked for, with `wordings`, a number), and either `answers` (value: "
                "answer) or `below` (upper bound: answer); besides these `column`, `forbidden` (columns), `hypothesis` "
                "(answer: what marks its scans), and with `below` also `regression`."
            )
        if not isinstance(declared.get("regression", False), bool):
            raise ValueError(
                f"`regression` of the question about {name!r} is {declared['regression']!r}: expected true or false."
            )
        task = cls(
            name=name,
            column=declared.get("column", name),
            ask=tuple(dict.fromkeys(ask)),
            answers={class_name(value): str(answer) for value, answer in declared.get("answers", {}).items()},
            below={
                bound: str(answer)
                for bound, answer in sorted(
                    (float(b), answer) for b, answer in declared.get("below", {}).items()
                )
            },
            regression=declared.get("regression", False),
            forbidden=_names(declared.get("forbidden", ())),
            hypothesis={str(answer): str(text) for answer, text in declared.get("hypothesis", {}).items()},
        )
        if unknown := sorted(set(task.hypothesis) - set(task.classes)):
            raise ValueError(
                f"`hypothesis` of the question about {name!r} is about {', '.join(unknown)}; its answers are "
                f"{', '.join(task.classes)}."
            )
        return task

    def to_dict(self) -> dict[str, Any]:
        """The declaration that `from_dict` reads."""
        kind = {"below": dict(self.below)} if self.below else {"answers": dict(self.answers)}
        declared: dict[str, Any] = {"column": self.column, "ask": list(self.ask), **kind}
        if self.regression:
            declared["regression"] = True
        if self.forbidden:
            declared["forbidden"] = list(self.forbidden)
        if self.hypothesis:
            declared["hypothesis"] = dict(self.hypothesis)
        return declared

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns that say the answer or nearly say it: the task's own and the forbidden ones."""
        return (self.column, *self.forbidden)

    @property
    def kind(self) -> str:
        """How answers are scored: "classification", "ordinal" (as an order, too) or "regression" (as a number, too)."""
        if self.regression:
            return "regression"
        return "ordinal" if len(self.classes) > 2 and self.below else "classification"

    @property
    def classes(self) -> list[str]:
        """The answers to choose from: in the order of the bounds for numbers, else sorted."""
        return list(dict.fromkeys(self.below.values())) if self.below else sorted(set(self.answers.values()))

    def answer(self, value: Any) -> str | None:
        """The answer to a value; None where it is missing or has no answer."""
        if is_missing(value):
            return None
        if self.below:
            return next((answer for bound, answer in self.below.items() if value < bound), None)
        return self.answers.get(class_name(value))

    def answers_of(self, scans: datasets.Dataset) -> list[str | None]:
        """The answer for each scan.

        Raises
        ------
        ValueError
            If the scans have no such column, or none of them has one of the answers.
        """
        if self.column not in scans.column_names:
            raise ValueError(
                f"`questions` ask about {self.column!r}, which the scans do not have: found "
                f"{', '.join(scans.column_names)}."
            )
        values = list(scans[self.column])
        answers = [self.answer(value) for value in values]
        for answer in self.classes:
            if answer not in answers:
                found = sorted({class_name(value) for value in values if not is_missing(value)})
                raise ValueError(
                    f"No scan's {self.column!r} has the answer {answer!r}: found the values "
                    f"{', '.join(found[:10])}. (In YAML, yes, no, on and off need quotes.)"
                )
        return answers


def _names(declared: str | Sequence[str]) -> tuple[str, ...]:
    """One string, or several."""
    return (declared,) if isinstance(declared, str) else tuple(map(str, declared))


def load_tasks(source: str | Path | Mapping[str, Any]) -> dict[str, Task]:
    """Tasks by name, from a YAML file or from a mapping ``{name: {"ask": [...], "answers": {...}}}``.

    One with `fields` in place of `answers` asks for several in one text: it becomes a task for each field, named
    ``name.field``, which share a `Form`. Each field is declared as a task is, without `ask`; `answer` is the template
    of the text, ``"sex: {sex}; diagnosis: {diagnosis}"`` if it is not given.
    """
    declared = source if isinstance(source, Mapping) else _read(Path(source))
    if not isinstance(declared, Mapping) or not declared:
        raise ValueError("Tasks are a mapping from a name to `ask` and `answers` or `below`; found none.")
    tasks: dict[str, Task] = {}
    for name, task in declared.items():
        if isinstance(task, Mapping) and "fields" in task:
            tasks |= _fields(str(name), task)
        else:
            tasks[str(name)] = Task.from_dict(str(name), task)
    return tasks


def forms_of(tasks: Mapping[str, Task]) -> dict[str, Form]:
    """The forms that tasks are fields of, by name."""
    return {task.form.name: task.form for task in tasks.values() if task.form is not None}


def _fields(name: str, declared: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks of a form, one for each field."""
    fields = declared["fields"]
    if (
        set(declared) - {"ask", "fields", "answer"}
        or not declared.get("ask")
        or not isinstance(fields, Mapping)
        or not all(isinstance(each, Mapping) for each in fields.values())
    ):
        raise ValueError(
            f"The form {name!r} has {', '.join(declared)}: expected `ask` (a list of wordings), `fields` (name: "
            "`column`, and `answers` or `below`), and perhaps `answer` (a template, with each field in braces)."
        )
    ask = _names(declared["ask"])
    tasks = {}
    for field_name, each in fields.items():
        if unknown := sorted(set(each) - {"column", "answers", "below", "forbidden"}):
            raise ValueError(
                f"Field {field_name!r} of the form {name!r} has {', '.join(unknown)}: expected `answers` or `below`, "
                "and perhaps `column` and `forbidden`."
            )
        tasks[str(field_name)] = Task.from_dict(
            f"{name}.{field_name}", {"column": str(field_name), **each, "ask": ask}
        )
    form = Form(
        name=name,
        ask=ask,
        template=str(declared.get("answer") or "; ".join(f"{each}: {{{each}}}" for each in tasks)),
        answers={each: tuple(task.classes) for each, task in tasks.items()},
    )
    return {task.name: replace(task, form=form, form_field=each) for each, task in tasks.items()}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(
            f"There is no file of tasks {path}: give a YAML file with `name: {{ask, answers}}`, or where scans are "
            f"judged the name of a cohort: {', '.join(COHORTS)}."
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} is no YAML: {' '.join(str(error).split())}. (Questions in brackets need quotes: "
            '["What is the sex?"].)'
        ) from error


def tasks_of_cohort(name: str, columns: Sequence[str]) -> tuple[dict[str, Task], list[str]]:
    """What the package declares about a public cohort: its tasks, by the names of columns that its releases have.

    Parameters
    ----------
    name : str
        One of `COHORTS`.
    columns : sequence of str
        Of the scan dataset.

    Returns
    -------
    tasks : dict of str to Task
        Those of which the dataset has the column.
    missing : list of str
        For each of the others, a sentence that names the column.

    Raises
    ------
    ValueError
        If there is no such cohort, or the dataset has none of its columns.
    """
    if name not in COHORTS:
        raise ValueError(
            f"No tasks are declared for {name!r}: there are {', '.join(COHORTS)}, or a YAML file of yours."
        )
    tasks, missing = {}, []
    for task, declared in _read(_COHORT_FILES / f"{name}.yaml").items():
        names = _names(declared["column"])
        column = next((each for each in names if each in columns), None)
        if column is None:
            missing.append(
                f"Task {task!r} of {name} is left out: the scans have no column {' or '.join(names)}."
            )
        else:
            tasks[task] = Task.from_dict(task, {**declared, "column": column})
    if not tasks:
        raise ValueError(
            f"The scans have none of the columns that tasks of {name} ask about: {' '.join(missing)} Bring the table "
            "of the release in with `fmri-lm scans ... --participants`."
        )
    return tasks, missing


def tasks_of_columns(
    scans: datasets.Dataset, columns: Sequence[str], train: Sequence[int], test: Sequence[int]
) -> dict[str, Task]:
    """A task for each label column, with the classes that the training scans have.

    Parameters
    ----------
    scans : datasets.Dataset
    columns : sequence of str
    train, test : sequence of int
        Rows.

    Raises
    ------
    ValueError
        If there is no such column, it is no column of 2 to 10 classes, or no test scan has one of them.
    """
    tasks = {}
    for column in columns:
        if column not in scans.column_names:
            raise ValueError(
                f"The scan dataset has no column {column!r}: found {', '.join(scans.column_names)}. "
                "Give `--labels` the columns to ask about."
            )
        values = list(scans[column])
        classes = sorted({class_name(values[row]) for row in train if not is_missing(values[row])})
        if not 2 <= len(classes) <= MAX_CLASSES:
            raise ValueError(
                f"Column {column!r} has {len(classes)} different values among the training scans; expected 2 to "
                f"{MAX_CLASSES} classes. Bin a continuous measure first."
            )
        if not any(class_name(values[row]) in classes for row in test if not is_missing(values[row])):
            raise ValueError(
                f"No test scan has a value of {column!r} that training scans have ({', '.join(classes)}), so there is "
                "nothing to test. Hold out another site, or leave the column out of `--labels`."
            )
        label = column.replace("_", " ")
        tasks[column] = Task(
            column,
            column,
            tuple(form.format(label=label) for form in _WORDINGS),
            {name: name for name in classes},
        )
    return tasks
