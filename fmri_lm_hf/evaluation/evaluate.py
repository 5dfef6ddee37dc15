"""One way to judge: a model and the scans of test subjects in, scores with their baselines and controls out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..descriptors.fisher_z import connectivity_features
from ..models.answers import answer_log_probabilities, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..models.scan_images import ScanError
from ..scans.splits import SplitManifest
from .baselines import fit_logistic, majority
from .metrics import score_classification
from .tasks import Task
from .truth import truth as check_truth
from .uncertainty import bootstrap_by_subject

__all__ = ["BASELINES", "READER_TITLES", "ReadScans", "evaluate", "split_rows"]

READER_TITLES = {
    "fmri_lm": "fMRI-LM (zero-shot question)",
    "connectivity_logistic": "logistic regression on connectivity",
    "majority": "majority class",
    "without_scan": "fMRI-LM without the scan",
    "other_scan": "fMRI-LM shown another scan",
    "oracle": "oracle (knows what was planted)",
}
BASELINES = ("connectivity_logistic", "majority", "without_scan", "other_scan")


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

    @classmethod
    @torch.inference_mode()
    def read(
        cls,
        model: FmriLMForCausalLM,
        processor: FmriLMProcessor,
        scans: datasets.Dataset,
        rows: Sequence[int],
        batch_size: int = 32,
    ) -> ReadScans:
        """Read scans of a scan dataset with a model's own extractor and tokenizer."""
        extractor = processor.feature_extractor
        extracted, usable, failures = [], [], {}
        for row in tqdm(rows, desc="Reading scans", unit="scan"):
            try:
                extracted.append(extractor(scans[row]))
            except ScanError as error:
                failures[str(scans[row]["scan_id"])] = str(error)
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

    def probabilities(
        self,
        model: FmriLMForCausalLM,
        processor: FmriLMProcessor,
        question: str,
        answers: Sequence[str],
        places: Sequence[int],
        batch_size: int = 32,
    ) -> np.ndarray:
        """Probability of each answer, as the zero-shot pipeline gives it: (n_places, n_answers).

        Parameters
        ----------
        model, processor
        question : str
        answers : sequence of str
        places : sequence of int
            Which of the scans that were read, by their place in `rows`.
        batch_size : int
        """
        prompt, answer_ids = encode_question(processor, question, answers)
        parts = []
        for start in tqdm(range(0, len(places), batch_size), desc=question, unit="batch"):
            chosen = list(places[start : start + batch_size])
            batch = {name: values[chosen] for name, values in self.inputs.items()}
            parts.append(answer_log_probabilities(model, prompt, answer_ids, **batch).double().softmax(-1))
        return torch.cat(parts).cpu().numpy()


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


@torch.inference_mode()
def evaluate(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: datasets.Dataset,
    tasks: Mapping[str, Task],
    splits: SplitManifest,
    baselines: Sequence[str] = BASELINES,
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
    baselines : sequence of {"connectivity_logistic", "majority", "without_scan", "other_scan"}
        What stands beside the model: logistic regression on connectivity and the majority class of the training
        scans; the model asked without a scan; the model shown the scan of another test subject.
    n_resamples : int
        Of the bootstrap over subjects.
    n_truth : int
        Test scans whose descriptions and answers about network pairs are checked (`truth`); 0 leaves it out. Only for
        a model that sees network pairs.
    seed : int
        Of the bootstrap, and of who is shown in place of whom.

    Returns
    -------
    dict
        ``tasks`` -> task -> reader -> ``accuracy``, ``balanced_accuracy``, ``auc``, and for the model
        ``balanced_accuracy_se`` and ``balanced_accuracy_interval``; ``asked`` -> task -> ``question``, ``classes``,
        ``n_train``, ``n_test``; ``truth``, as the function of that name returns it; ``failures``, test scans that
        could not be read.

    Raises
    ------
    ValueError
        For an unknown baseline, or a task of which no test scan has an answer that training scans have.
    """
    if unknown := sorted(set(baselines) - set(BASELINES)):
        raise ValueError(f"Unknown baselines {', '.join(unknown)}; expected some of {', '.join(BASELINES)}.")
    model.eval()
    rows = split_rows(scans, splits)
    read = ReadScans.read(model, processor, scans, rows["test"])
    place_of = {row: place for place, row in enumerate(read.rows)}
    subjects = [str(subject) for subject in scans["subject_id"]]
    connectivity = _Connectivity(scans)
    scored: dict[str, dict[str, Any]] = {}
    asked: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        answers = task.answers_of(scans)
        train = [row for row in rows["train"] if answers[row] is not None]
        classes = [each for each in task.classes if each in {answers[row] for row in train}]
        test = [row for row in read.rows if answers[row] in classes]
        if len(classes) < 2 or not test:
            raise ValueError(
                f"Task {name!r}: {len(train)} training scans with {len(classes)} different answers and {len(test)} "
                "test scans that have one of them; expected at least two answers and one test scan."
            )
        known, truth = [str(answers[row]) for row in train], [str(answers[row]) for row in test]
        question = task.ask[0]
        ask = partial(read.probabilities, model, processor, question, classes)
        score = partial(_score, truth, classes)
        of_test = [subjects[row] for row in test]
        ours = ask([place_of[row] for row in test])
        readers = {"fmri_lm": score(ours) | _uncertainty(ours, truth, classes, of_test, n_resamples, seed)}
        for reader in baselines:
            if reader == "connectivity_logistic":
                fitted = fit_logistic(
                    connectivity(train), known, connectivity(test), [subjects[row] for row in train]
                )
                readers[reader] = fitted.score(truth)
            elif reader == "majority":
                readers[reader] = majority(known, len(test)).score(truth)
            elif reader == "without_scan":
                prompt, answer_ids = encode_question(processor, question, classes, with_scan=False)
                blind = answer_log_probabilities(model, prompt, answer_ids).double().softmax(-1).cpu().numpy()
                readers[reader] = score(np.repeat(blind, len(test), axis=0))
            elif len(set(of_test)) > 1:
                others = other_subjects(of_test, seed)
                readers[reader] = score(ask([place_of[test[i]] for i in others]))
        scored[name] = readers
        asked[name] = {"question": question, "classes": classes, "n_train": len(train), "n_test": len(test)}
    failures = [{"scan_id": scan_id, "reason": reason} for scan_id, reason in read.failures.items()]
    results = {"tasks": scored, "asked": asked, "failures": failures}
    if n_truth and model.config.reads_network_pairs:
        results["truth"] = check_truth(
            model, processor, [scans[row] for row in read.rows[:n_truth]], seed=seed
        )
    return results


def other_subjects(subjects: Sequence[str], seed: int) -> list[int]:
    """For each scan the place of a scan of another subject, each scan used as evenly as chance and subjects allow."""
    whose, draw = np.asarray(subjects), np.random.default_rng(seed)
    return [int(draw.choice(np.flatnonzero(whose != subject))) for subject in subjects]


class _Connectivity:
    """Connectivity of scans by row, computed once for all tasks."""

    def __init__(self, scans: datasets.Dataset):
        self.scans = scans
        self._rows: dict[int, np.ndarray] = {}

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        missing = [row for row in rows if row not in self._rows]
        if missing:
            chosen = [self.scans[row] for row in missing]
            masks = [
                np.ones(scan["bold"].shape[1], bool) if scan.get("roi_mask") is None else scan["roi_mask"]
                for scan in chosen
            ]
            observed = [scan.get("sample_mask") for scan in chosen]
            bold: Any = tqdm((scan["bold"] for scan in chosen), "Connectivity", len(chosen), unit="scan")
            self._rows |= dict(zip(missing, connectivity_features(bold, masks, observed)))
        return np.stack([self._rows[row] for row in rows])


def _score(truth: Sequence[str], classes: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    predicted = [classes[best] for best in probabilities.argmax(-1)]
    return score_classification(truth, predicted, probabilities, classes)


def _uncertainty(
    probabilities: np.ndarray,
    truth: Sequence[str],
    classes: Sequence[str],
    subjects: Sequence[str],
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Bootstrap over subjects of the balanced accuracy; nothing where it is not defined."""
    if len(set(subjects)) < 2 or len(set(truth)) < 2:
        return {}
    labels = np.array(truth)

    def statistic(rows: np.ndarray) -> float | None:
        return _score(labels[rows].tolist(), classes, probabilities[rows])["balanced_accuracy"]

    interval = bootstrap_by_subject(statistic, subjects, n_resamples=n_resamples, seed=seed)
    return {
        "balanced_accuracy_se": interval.standard_error,
        "balanced_accuracy_interval": [interval.low, interval.high],
    }
