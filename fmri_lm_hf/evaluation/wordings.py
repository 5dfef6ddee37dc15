"""Many ways to ask for the same thing, from a seeded grammar that trainings and evaluations share."""

from __future__ import annotations

import random
from itertools import product

__all__ = ["MAX_WORDINGS", "wordings_of"]

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
