"""Tasks: questions about label columns, with the answer to each value of the column.

A task is declared in YAML (`load_tasks`), by the package for a public cohort (`tasks_of_cohort`), or made from the
classes of a column (`tasks_of_columns`). A `Form` joins several tasks into one text that the model writes. A seeded
grammar (`wordings_of`) makes the wordings of questions for training and evaluation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any

import datasets
import yaml

_COHORT_FILES = Path(__file__).with_name("cohorts")
COHORTS = tuple(sorted(path.stem for path in _COHORT_FILES.glob("*.yaml")))  # whose tasks the package declares

MAX_CLASSES = 10
MAX_WORDINGS = 200


def is_missing(value: Any) -> bool:
    """Whether a label is missing: None or NaN."""
    return value is None or value != value  # NaN alone differs from itself


def class_name(value: Any) -> str:
    """Name the class of a value."""
    # pandas reads an integer column with gaps as floats: the 1 of a task file is 1.0 there
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True)
class Task:
    """A question about a label column.

    Attributes
    ----------
    name : str
        In tables and `results.json`.
    column : str
        Of the scan dataset.
    ask : tuple of str
        Wordings; evaluation uses the first one, training all of them.
    answers : dict of str to str
        The answer to each value (as `class_name` writes it).
    below : dict of float to str
        For numbers, in place of `answers`: the answer below each bound. More than two are also scored as ordinal.
    regression : bool
        Whether the number itself is scored, too. Its estimate is the mean over the answers of `below`, weighted by
        their probabilities; an answer counts as the mean of the training scans that have it.
    hypothesis : dict of str to str
        Expected connectivity of the scans of an answer, in words that `parse_hypothesis` reads: such a task can be
        answered without labels (the predictors `hypothesis` and `hypothesis_direct`).
    forbidden : tuple of str
        Columns that would give the label away, such as the clinical score behind a diagnosis: nothing is predicted
        from them.
    form : Form, optional
        Where the answer is a field of a text that the model writes, in place of the most probable of the answers.
    form_field : str
        The field.
    """

    name: str
    column: str
    ask: tuple[str, ...]
    answers: Mapping[str, str] = field(default_factory=dict)
    below: Mapping[float, str] = field(default_factory=dict)
    regression: bool = False
    forbidden: tuple[str, ...] = ()
    hypothesis: Mapping[str, str] = field(default_factory=dict)
    form: Form | None = None
    form_field: str = ""

    @classmethod
    def from_dict(cls, name: str, declared: Mapping[str, Any]) -> Task:
        """Read a declaration: `ask` or `about`, `answers` or `below`, and `column` where it is not the name.

        `about` names the label, such as ``age group``: its wordings by :func:`wordings_of` follow those of `ask`, 200
        of them or as many as `wordings` says. Optional: `forbidden`, `hypothesis` (answer: statement about its scans)
        and, with `below`, `regression: true`.
        """
        kinds = set(declared) - {"column", "forbidden", "ask", "about", "hypothesis"}
        kinds -= {"regression"} if "below" in kinds else set()
        kinds -= {"wordings"} if "about" in declared else set()
        ask = _names(declared.get("ask", ()))
        if about := declared.get("about"):
            ask = ask or (f"What is the {about}?",)
            ask += wordings_of(str(about), int(declared.get("wordings", MAX_WORDINGS)))
        if kinds not in ({"answers"}, {"below"}) or not ask:
            raise ValueError(
                f"The question about {name!r} has {', '.join(declared) or 'nothing'}: expected `ask` (a list of "
                "wordings) or `about` (what is asked for, with `wordings`, a number), and either `answers` (value: "
                "answer) or `below` (upper bound: answer); optionally `column`, `forbidden` (columns), `hypothesis` "
                "(answer: what is expected of its scans), and with `below` also `regression`."
            )
        regression = declared.get("regression", False)
        if not isinstance(regression, bool):
            raise ValueError(f"`regression` of the question about {name!r} is {regression!r}: expected true or false.")
        below = {float(bound): str(answer) for bound, answer in declared.get("below", {}).items()}
        task = cls(
            name=name,
            column=declared.get("column", name),
            ask=tuple(dict.fromkeys(ask)),
            answers={class_name(value): str(answer) for value, answer in declared.get("answers", {}).items()},
            below=dict(sorted(below.items())),
            regression=regression,
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
        """Return the declaration that `from_dict` reads."""
        kind = {"below": dict(self.below)} if self.below else {"answers": dict(self.answers)}
        optional = {
            "regression": self.regression,
            "forbidden": list(self.forbidden),
            "hypothesis": dict(self.hypothesis),
        }
        declared = {"column": self.column, "ask": list(self.ask), **kind}
        return declared | {key: value for key, value in optional.items() if value}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns that give the answer away: the task's own and the forbidden ones."""
        return (self.column, *self.forbidden)

    @property
    def kind(self) -> str:
        """How answers are scored: "classification", or also as an order ("ordinal") or as a number ("regression")."""
        if self.regression:
            return "regression"
        return "ordinal" if len(self.classes) > 2 and self.below else "classification"

    @property
    def classes(self) -> list[str]:
        """The answers to choose from: in the order of the bounds for numbers, else sorted."""
        return list(dict.fromkeys(self.below.values())) if self.below else sorted(set(self.answers.values()))

    def answer(self, value: Any) -> str | None:
        """Return the answer to a value; None where it is missing or has no answer."""
        if is_missing(value):
            return None
        if self.below:
            # The bounds are sorted, and a number at a bound has the answer above it.
            return next((answer for bound, answer in self.below.items() if value < bound), None)
        return self.answers.get(class_name(value))

    def answers_of(self, scans: datasets.Dataset) -> list[str | None]:
        """Return the answer for each scan.

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
        # An answer without scans is nearly always a misspelt value in the task file: its scans would be left out, and
        # nobody would notice.
        for answer in self.classes:
            if answer not in answers:
                found = sorted({class_name(value) for value in values if not is_missing(value)})
                raise ValueError(
                    f"No scan's {self.column!r} has the answer {answer!r}: found the values "
                    f"{', '.join(found[:10])}. (In YAML, yes, no, on and off need quotes.)"
                )
        return answers


def _names(declared: str | Sequence[str]) -> tuple[str, ...]:
    """Read one string, or several."""
    return (declared,) if isinstance(declared, str) else tuple(map(str, declared))


def load_tasks(source: str | Path | Mapping[str, Any]) -> dict[str, Task]:
    """Read tasks by name, from a YAML file or from a mapping ``{name: {"ask": [...], "answers": {...}}}``.

    A declaration with `fields` in place of `answers` asks for several labels in one text. It becomes a task for each
    field, named ``name.field``, and these share a `Form`. Each field is declared like a task, without `ask`; `answer`
    is the template of the text, by default ``"sex: {sex}; diagnosis: {diagnosis}"``.
    """
    declared = source if isinstance(source, Mapping) else _read_yaml(Path(source))
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
    """Return the forms that tasks are fields of, by name."""
    return {task.form.name: task.form for task in tasks.values() if task.form is not None}


def _fields(name: str, declared: Mapping[str, Any]) -> dict[str, Task]:
    """Read the tasks of a form, one for each field."""
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


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(
            f"The task file {path} does not exist: give a YAML file with `name: {{ask, answers}}`, or for an "
            f"evaluation the name of a cohort: {', '.join(COHORTS)}."
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}. (Questions in brackets need quotes: "
            '["What is the sex?"].)'
        ) from error


def tasks_of_cohort(name: str, columns: Sequence[str]) -> tuple[dict[str, Task], list[str]]:
    """Read the tasks that the package declares for a public cohort, by the column names of its releases.

    Parameters
    ----------
    name : str
        One of `COHORTS`.
    columns : sequence of str
        Of the scan dataset.

    Returns
    -------
    tasks : dict of str to Task
        The tasks whose column the dataset has.
    missing : list of str
        For each other task, a sentence that names the column.

    Raises
    ------
    ValueError
        If there is no such cohort, or the dataset has none of its columns.
    """
    if name not in COHORTS:
        raise ValueError(f"No tasks are declared for {name!r}: expected one of {', '.join(COHORTS)}, or a YAML file.")
    tasks, missing = {}, []
    for task, declared in _read_yaml(_COHORT_FILES / f"{name}.yaml").items():
        names = _names(declared["column"])
        column = next((each for each in names if each in columns), None)
        if column is None:
            missing.append(f"Task {task!r} of {name} is left out: the scans have no column {' or '.join(names)}.")
        else:
            tasks[task] = Task.from_dict(task, {**declared, "column": column})
    if not tasks:
        raise ValueError(
            f"The scans have none of the columns that tasks of {name} ask about: {' '.join(missing)} Add the table of "
            "the release with `fmri-lm scans ... --participants`."
        )
    return tasks, missing


def tasks_of_columns(
    scans: datasets.Dataset, columns: Sequence[str], train: Sequence[int], test: Sequence[int]
) -> dict[str, Task]:
    """Make a task for each label column, with the classes that the training scans have.

    Parameters
    ----------
    scans : datasets.Dataset
    columns : sequence of str
    train, test : sequence of int
        Rows of the scans.

    Raises
    ------
    ValueError
        If a column does not exist, does not have 2 to 10 classes, or has none of them among the test scans.
    """
    tasks = {}
    for column in columns:
        if column not in scans.column_names:
            raise ValueError(
                f"The scan dataset has no column {column!r}: found {', '.join(scans.column_names)}. "
                "Give `--labels` columns of the dataset."
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
        ask = (
            f"What is the {label}?",
            f"Which {label} does this scan show?",
            f"State the {label} of this person.",
        )
        tasks[column] = Task(column, column, ask, {name: name for name in classes})
    return tasks


# Forms: several labels in one text, which is read field by field, or counts as no answer.


@dataclass(frozen=True)
class Form:
    """A template of a text that answers several questions at once.

    Parameters
    ----------
    name : str
    ask : tuple of str
        Wordings of the request; evaluation uses the first one, training all of them.
    template : str
        The answer, with each field in braces once: ``"Sex: {sex}. Diagnosis: {diagnosis}."``
    answers : mapping of str to tuple of str
        The answers of each field.

    Raises
    ------
    ValueError
        If the template does not hold each field once, two fields touch, or two answers of a field differ by case only.
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
                f"`answer` of {self.name!r} is not a valid template: {error} in {self.template!r}."
            ) from error
        found = [field for _, field, _, _ in parts if field is not None]
        if sorted(found) != sorted(self.answers) or any(form or kind for _, _, form, kind in parts):
            raise ValueError(
                f"`answer` of {self.name!r} is {self.template!r}: expected each field once, in braces and as it is: "
                f"{', '.join(f'{{{field}}}' for field in self.answers)}."
            )
        if any(not literal.strip() for literal, field, _, _ in parts[1:] if field is not None):
            raise ValueError(
                f"`answer` of {self.name!r} is {self.template!r}: expected text between two fields, so that it is "
                "clear where one ends."
            )
        for name, answers in self.answers.items():
            if not name.isidentifier():
                raise ValueError(
                    f"Field {name!r} of {self.name!r}: expected letters, digits and _, so that it can stand in the "
                    "template; the name of its column goes into `column`."
                )
            if len({_plain(each) for each in answers}) < len(answers):
                raise ValueError(
                    f"Answers of field {name!r} of {self.name!r} differ by case alone: {', '.join(answers)}."
                )

    def write(self, answers: Mapping[str, str]) -> str:
        """Write the text with these answers in its fields."""
        return self.template.format(**answers)

    def examples(self) -> list[str]:
        """Write texts that hold each answer of each field at least once."""
        n_texts = max(len(answers) for answers in self.answers.values())
        return [
            self.write({field: answers[place % len(answers)] for field, answers in self.answers.items()})
            for place in range(n_texts)
        ]

    def n_tokens(self, count: Callable[[str], int]) -> int:
        """Count the tokens of the longest text of this form, where `count` counts those of a text."""
        return count(self.write({field: max(answers, key=count) for field, answers in self.answers.items()}))

    def read(self, text: str) -> dict[str, str] | None:
        """Read the answers in the fields of a text; None unless the whole text has the form of the template.

        Spaces, line breaks and case do not matter. All else does: a missing field, an unknown answer, or a word before
        or after.
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
        places = {name: place for place, name in enumerate(self.answers)}
        pattern = ""
        for literal, name, _, _ in Formatter().parse(" ".join(self.template.split())):
            # Case-folded here, not by `re.IGNORECASE`: that knows no ß, and texts are folded by `_plain`.
            pattern += re.escape(literal.casefold())
            if name is not None:
                # Where one answer begins another, `fullmatch` goes back and tries the longer one.
                choices = "|".join(re.escape(_plain(each)) for each in self.answers[name])
                pattern += f"(?P<field_{places[name]}>{choices})"
        return re.compile(pattern)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


# Wordings: many ways to ask for the same thing, from a seeded grammar.

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
    """Make different wordings of a question.

    Parameters
    ----------
    about : str
        Name of the label, without an article, such as ``age group``.
    n_wordings : int
        At most `MAX_WORDINGS`. Fewer are the first of more.
    seed : int
        Of the selection and its order.

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
    # One sentence form after the other: the forms with many combinations would otherwise be most of the wordings.
    rng = random.Random(f"{seed}/{about}")
    of_forms = [rng.sample(each, len(each)) for form in _QUESTIONS if (each := _filled(form, words))]
    rng.shuffle(of_forms)
    longest = max(map(len, of_forms))
    mixed = [each[place] for place in range(longest) for each in of_forms if place < len(each)]
    return tuple(mixed[:n_wordings])


def _filled(form: str, words: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(form.format(**each) for each in words))
