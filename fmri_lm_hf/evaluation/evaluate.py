"""One way to judge: a model and the scans of test subjects in, scores with their baselines and controls out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..scans.splits import SplitManifest
from .judgement import judge
from .readers import OURS, READERS
from .study import Study
from .tasks import Task
from .truth import truth as check_truth

__all__ = ["evaluate", "split_rows"]


def split_rows(scans: datasets.Dataset, splits: SplitManifest) -> dict[str, list[int]]:
    """Rows of the training and of the test subjects; where sites were held out, test scans are those of these sites.

    Raises
    ------
    ValueError
        If one of the two is empty.
    """
    split_of = splits.split_of()
    subjects = [str(subject) for subject in scans["subject_id"]]
    held_out = {str(site) for site in splits.parameters.get("holdout_sites") or ()}
    sites = list(scans["site"])
    rows = {
        "train": [row for row, subject in enumerate(subjects) if split_of.get(subject) == "train"],
        "test": [
            row
            for row, subject in enumerate(subjects)
            if split_of.get(subject) == "test" and (not held_out or str(sites[row]) in held_out)
        ],
    }
    for split, of_split in rows.items():
        if not of_split:
            raise ValueError(
                f"None of {len(subjects)} scans is of a {split} subject by the splits: do scans and splits belong "
                "together?"
            )
    return rows


def evaluate(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: datasets.Dataset,
    tasks: Mapping[str, Task],
    splits: SplitManifest,
    readers: Sequence[str] | None = None,
    n_resamples: int = 200,
    n_truth: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a model on the scans of test subjects.

    Parameters
    ----------
    model : FmriLMForCausalLM
    processor : FmriLMProcessor
    scans : datasets.Dataset
        A scan dataset with the label columns.
    tasks : mapping of str to Task
    splits : SplitManifest
        Test subjects are judged, training subjects are what baselines are fitted to.
    readers : sequence of str, optional
        What stands beside the model, by the names in `READERS`; all that are there when None.
    n_resamples : int
        Of the bootstrap over subjects.
    n_truth : int
        Test scans whose descriptions and answers about network pairs are checked (`truth`); 0 leaves it out. Only for
        a model that sees network pairs.
    seed : int
        Of the bootstrap, and of the controls that draw.

    Returns
    -------
    dict
        ``tasks`` -> task -> reader -> ``accuracy``, ``balanced_accuracy``, ``auc``, ``balanced_accuracy_se`` and
        ``balanced_accuracy_interval``; ``asked`` -> task -> ``question``, ``classes``, ``n_train``, ``n_test``;
        ``left_out`` -> task -> reader -> why it could not be had; ``truth``, as the function of that name returns it;
        ``failures``, test scans that could not be read.

    Raises
    ------
    ValueError
        For an unknown reader, or a task of which no test scan has an answer that training scans have.
    """
    names = _with_ours(readers)
    rows = split_rows(scans, splits)
    study = Study(model, processor, scans, tasks, rows["test"], seed)
    results: dict[str, Any] = {"tasks": {}, "asked": {}, "left_out": {}}
    for name in tasks:
        question = study.question(name, rows)
        judgement = judge(question, names)
        results["tasks"][name] = judgement.scores(n_resamples, seed)
        results["left_out"][name] = judgement.left_out
        results["asked"][name] = {
            "question": question.task.ask[0],
            "classes": list(question.classes),
            "n_train": len(question.train),
            "n_test": len(question.test),
        }
    results["failures"] = [{"scan_id": s, "reason": reason} for s, reason in study.read.failures.items()]
    if n_truth and model.config.reads_network_pairs:
        judged = [scans[row] for row in study.read.rows[:n_truth]]
        results["truth"] = check_truth(model, processor, judged, seed=seed)
    return results


def _with_ours(readers: Sequence[str] | None) -> list[str]:
    """The model and these readers, in the order of the registry."""
    if readers is None:
        return list(READERS)
    if unknown := sorted(set(readers) - set(READERS)):
        raise ValueError(f"Unknown readers {', '.join(unknown)}; expected some of {', '.join(READERS)}.")
    return [name for name in READERS if name == OURS or name in readers]
