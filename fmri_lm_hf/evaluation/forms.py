"""Several questions in one answer: what the model writes is read field by field, or counts as no answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

__all__ = ["Form"]


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
