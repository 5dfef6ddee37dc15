"""Entrants of the benchmark of questions: the package's own way to answer, and baselines that lack a part of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ..models.atlas import Atlas
from ..questions.answers import answer
from ..questions.query import Query
from .question_benchmark import Entrant, Question
from .question_scans import QuestionScan, measures_of

if TYPE_CHECKING:
    from transformers import Pipeline

TASK = "fmri-question-answering"


def always_decline(scan: Any, question: str) -> dict[str, Any]:
    """Decline every question: right where there is no answer."""
    return {"answer": "That cannot be answered.", "declined": True, "score": 1.0}


def most_common(scan: Any, question: str) -> str:
    """Give the answer that is most often right, whatever the question: the most common level."""
    return "It is moderate."


class FrontDoor:
    """The package's pipeline for questions, with a model adapted to the atlas of each scan.

    Parameters
    ----------
    model : str, optional
        Folder or Hub id; the bundled model when None.
    read : {"numbers", "model"}
        What answers are read from: the scan's numbers; or the language model, whose levels are given as they are,
        without comparing them with the numbers.
    """

    def __init__(self, model: str | None = None, read: Literal["numbers", "model"] = "numbers"):
        self.model = model
        self.options = {"read": read, **({"check": False} if read == "model" else {})}
        self._pipeline_of = cache(self._new_pipeline)

    def __call__(self, scan: Mapping[str, Any] | None, question: str) -> dict[str, Any]:
        """Answer a question about a scan; without a scan, a pipeline of any atlas is asked."""
        if scan is None:
            return self._pipeline_of(None)(None, question=question, **self.options)
        signals = {key: value for key, value in scan.items() if key != "atlas"}
        return self._pipeline_of(scan["atlas"])(signals, question=question, **self.options)

    def _new_pipeline(self, atlas: Atlas | None) -> Pipeline:
        from transformers import pipeline

        model, processor = self._model()
        if atlas is not None:
            from ..bundled import with_atlas

            model, processor = with_atlas(model, processor, atlas)
        return pipeline(TASK, model=model, processor=processor)

    def _model(self) -> tuple[Any, Any]:
        if self.model is None:
            from ..bundled import load_bundled_model

            return load_bundled_model()
        from transformers import AutoModelForCausalLM, AutoProcessor

        return (
            AutoModelForCausalLM.from_pretrained(self.model).eval(),
            AutoProcessor.from_pretrained(self.model),
        )


class TextOnly:
    """A program that understands questions but does not see the scan: it answers about an average one.

    Parameters
    ----------
    entrant : callable
        What understands the questions.
    average : mapping of tuple of str to QuestionScan
        An average scan, by the names of its networks.
    """

    def __init__(self, entrant: Entrant, average: Mapping[tuple[str, ...], QuestionScan]):
        self.entrant, self.average = entrant, average

    def __call__(self, scan: Mapping[str, Any] | None, question: str) -> Any:
        """Answer about the average scan of the atlas."""
        if scan is None:
            return self.entrant(None, question)
        names = tuple(sorted(scan["atlas"].network_names))
        if names not in self.average:
            raise ValueError(
                f"No average scan of the networks {', '.join(names)}, expected one of the benchmark's atlases."
            )
        return self.entrant(self.average[names].scan, question)


class Reference:
    """A program that is told what each question means, and answers from the numbers: the ceiling of the judge.

    Parameters
    ----------
    questions : sequence of Question
    """

    def __init__(self, questions: Sequence[Question]):
        self.meanings = {(each.text, each.atlas): each.queries for each in questions}

    def __call__(self, scan: Mapping[str, Any] | None, question: str) -> dict[str, Any]:
        """Answer a question of the benchmark; one of another atlas, or about noise, is answered as well."""
        meanings = [queries for (text, _), queries in self.meanings.items() if text == question]
        names = () if scan is None else scan["atlas"].network_names
        queries = next((each for each in meanings if names and {*_named(each)} <= {*names}), ())
        if scan is None or not queries:
            return {"answer": "Declined.", "declined": True}
        text = " ".join(answer(query, measures_of(scan)).text for query in queries)
        return {"answer": text, "declined": False, "queries": [query.to_json() for query in queries]}


def _named(queries: Sequence[Query]) -> list[str]:
    return [name for query in queries for name in query.networks]


def load_entrant(name: str) -> Entrant:
    """Import a callable by ``module:name``.

    Raises
    ------
    ValueError
        If there is no such module or callable.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"Entrant {name!r} found, expected module:callable, such as my_program:answer.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Entrant {name!r} cannot be imported ({error}): check the spelling, and that its folder is on PYTHONPATH."
        ) from error
    if not callable(found):
        raise ValueError(f"Entrant {name!r} is a {type(found).__name__}, expected a callable (scan, question).")
    return found
