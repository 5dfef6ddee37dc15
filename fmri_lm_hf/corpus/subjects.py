"""High-level descriptions of subjects: demographics and cognition, apart from what their scans show."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

__all__ = ["DEMOGRAPHICS", "SUBJECT_TEXT_COLUMN", "describe_subject"]

SUBJECT_TEXT_COLUMN = "subject_description"
DEMOGRAPHICS = ("age", "sex", "handedness", "education_years", "diagnosis")

_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_OPENINGS = (
    "The participant is {person}.",
    "This is a scan of {person}.",
    "The scan was taken from {person}.",
)
_SENTENCES = {
    "handedness": ("Handedness: {value}.", "The handedness of the participant is {value}."),
    "education_years": ("Education: {value} years.", "The participant had {value} years of education."),
    "diagnosis": ("Diagnosis: {value}.", "The diagnosis of the participant is {value}."),
}
_OTHER = ("{name}: {value}.", "For {name}, the value is {value}.", "The participant's {name} is {value}.")


def describe_subject(
    row: Mapping[str, Any],
    columns: Collection[str] = DEMOGRAPHICS,
    exclude: Collection[str] = (),
    seed: int = 0,
) -> str:
    """Describe the subject of a scan, for a column of its own (`SUBJECT_TEXT_COLUMN`).

    A prompt that asks for a label must not contain it: name the label, and every column that gives it away, in
    `exclude`. The text does not depend on excluded columns in any way.

    Parameters
    ----------
    row : mapping
        A row of a scan dataset.
    columns : collection of str
        What to say, such as ``(*DEMOGRAPHICS, "fluid_intelligence")``. Demographic columns that the dataset does not
        have, and values that are missing in a row, are passed over; any other column must exist.
    exclude : collection of str
        Columns that the text must not tell.
    seed : int
        Chooses the wording.

    Returns
    -------
    str
        Empty if nothing is known.

    Examples
    --------
    >>> describe_subject({"age": 31, "sex": "F", "diagnosis": "control"}, exclude=["diagnosis"])
    'This is a scan of a 31-year-old female participant.'
    """
    absent = [column for column in columns if column not in row and column not in DEMOGRAPHICS]
    if absent:
        raise ValueError(f"The row has no column {', '.join(absent)}; it has {', '.join(row)}.")
    known = {
        column: _readable(row[column])
        for column in columns
        if column in row and column not in exclude and not _is_missing(row[column])
    }
    rng = random.Random(seed)
    sentences = []
    age, sex = known.pop("age", ""), known.pop("sex", "")
    if age or sex:
        words = [f"{age}-year-old"] if age else []
        words += [_SEXES.get(sex.lower(), f"(sex: {sex})")] if sex else []
        article = "an" if age.startswith("8") or age.split(".")[0] in ("11", "18") else "a"
        sentences.append(rng.choice(_OPENINGS).format(person=f"{article} {' '.join(words)} participant"))
    for column, value in known.items():
        name = column.replace("_", " ")
        sentence = rng.choice(_SENTENCES.get(column, _OTHER)).format(name=name, value=value)
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


def _is_missing(value: Any) -> bool:
    return value is None or value != value or str(value).strip().lower() in ("", "n/a", "nan", "none")


def _readable(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, Real) else str(value).strip()
