"""When a pipeline declines: a scan that is not readable, or an answer that the checkpoint was not trained to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .atlas_names import is_network
from .feature_extraction_fmri import FmriFeatureExtractor
from .readable_scan import unreadable_reason
from .scan_files import read_scan

N_NAMED = 3  # questions that a reason names


class Declined(TypedDict):
    """What a declined result has beside its other keys."""

    declined: bool
    reason: str


def declined(reason: str) -> Declined:
    """Mark a result as declined."""
    return {"declined": True, "reason": reason}


def read_or_decline(
    extractor: FmriFeatureExtractor, scan: Any, t_r: float | None = None
) -> tuple[dict[str, Any], str | None]:
    """Read a scan once, before it is resampled, and say why it is not readable.

    Parameters
    ----------
    extractor : FmriFeatureExtractor
    scan : scan
        As `read_scan` takes it.
    t_r : float, optional
        Repetition time in seconds, if the scan does not carry it.

    Returns
    -------
    row : dict
        `bold`, `t_r` and masks for the extractor, and `scan_id` if there is one.
    reason : str or None
        None for a readable scan.

    Raises
    ------
    ScanError
        If the scan cannot be used at all.
    """
    atlas = extractor.atlas
    found = read_scan(scan, atlas, t_r, n_rois=extractor.n_rois, max_masked=extractor.max_masked)
    masks = {"roi_mask": found.roi_mask, "sample_mask": found.sample_mask}
    networks = None if atlas is None else [name if is_network(name) else None for name in atlas.networks]
    reason = unreadable_reason(found.bold, found.t_r, networks=networks, **masks)
    named = {"scan_id": scan["scan_id"]} if isinstance(scan, Mapping) and "scan_id" in scan else {}
    return {**named, "bold": found.bold, "t_r": found.t_r, **masks}, reason


def recorded_answers(model: Any, processor: Any) -> Mapping[str, Sequence[str]] | None:
    """Return the questions that weights were trained on, with their answers; None where nothing is recorded."""
    # An adapter is saved without the configuration of its model, but with a processor.
    return getattr(model.config, "answers", None) or getattr(processor, "answers", None)


def untrained_reason(
    recorded: Mapping[str, Sequence[str]] | None, question: str | None, labels: Sequence[str]
) -> str | None:
    """Say why a checkpoint cannot answer a question with these labels; None where it was trained to.

    Parameters
    ----------
    recorded : mapping of str to sequence of str, optional
        From `recorded_answers`. Case, spaces and the last punctuation mark do not matter.
    question : str, optional
        When None, any question whose answers have all labels.
    labels : sequence of str
    """
    if not recorded:
        return (
            "This checkpoint records no labels: nothing says that it was trained to tell "
            f"{_listed(labels)} apart. Train it with `fmri-lm train instruction`, which records them."
        )
    known = {_plain(asked): {_plain(answer) for answer in answers} for asked, answers in recorded.items()}
    asked = {_plain(label) for label in labels}
    if question is None:
        if any(asked <= answers for answers in known.values()):
            return None
        return f"This checkpoint was not trained to tell {_listed(labels)} apart. {_trained_on(recorded)}"
    if _plain(question) not in known:
        return f"This checkpoint was not trained on the question {question!r}. {_trained_on(recorded)}"
    unknown = [label for label in labels if _plain(label) not in known[_plain(question)]]
    if unknown:
        return (
            f"This checkpoint was not trained to answer {question!r} with {_listed(unknown)}. {_trained_on(recorded)}"
        )
    return None


def _trained_on(recorded: Mapping[str, Sequence[str]]) -> str:
    # one wording for each set of answers
    wordings = {tuple(answers): asked for asked, answers in reversed(list(recorded.items()))}
    named = [f"{asked!r} ({', '.join(answers)})" for answers, asked in reversed(list(wordings.items()))]
    more = f" and {len(named) - N_NAMED} more" if len(named) > N_NAMED else ""
    return f"It was trained on {', '.join(named[:N_NAMED])}{more}."


def _listed(labels: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(map(repr, labels[:-1])), repr(labels[-1]))))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .?!:")
