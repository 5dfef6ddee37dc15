"""What the demo learns from: scans, labels, descriptions, questions and answers, split by subject and site."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..corpus import CohortReference, verbalise
from ..descriptors import compute_features
from ..models.atlas import Atlas
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.scan_images import ScanError

logger = logging.getLogger(__name__)

MAX_CLASSES = 10
DESCRIBE = (
    "Describe this scan.",
    "What does the connectivity of this scan look like?",
    "Summarise this scan.",
)
ASK_LABEL = (
    "What is the {label}?",
    "Which {label} does this scan show?",
    "State the {label} of this person.",
)
ASK_PAIR = "Connectivity of {pair}?"


@dataclass
class DemoData:
    """Scans of a cohort, ready for the models; arrays have one row a usable scan.

    Attributes
    ----------
    dataset : datasets.Dataset
        The usable scans, in order.
    atlas : Atlas
    extractor : FmriFeatureExtractor
    inputs : dict of torch.Tensor
        `input_values` (n_scans, n_rois, n_timepoints), `roi_mask` and `padding_mask`.
    labels : dict of str to list
        Values of each label column as strings, None where missing.
    train, test : numpy.ndarray of int
        Rows; no subject is in both.
    failures : list of dict
        Scans that cannot be used, with the reason.
    """

    dataset: datasets.Dataset
    atlas: Atlas
    extractor: FmriFeatureExtractor
    inputs: dict[str, torch.Tensor]
    labels: dict[str, list[str | None]]
    train: np.ndarray
    test: np.ndarray
    failures: list[dict[str, str]]

    def classes(self, label: str) -> list[str]:
        """The answers to choose from, as the training scans know them."""
        return sorted(
            {str(self.labels[label][row]) for row in self.train if self.labels[label][row] is not None}
        )

    def labelled(self, label: str, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` whose label is known and one that training scans have."""
        known = set(self.classes(label))
        return np.array([row for row in rows if self.labels[label][row] in known], dtype=int)


def prepare(
    dataset: datasets.Dataset,
    atlas: Atlas,
    labels: Sequence[str],
    holdout_site: str,
    n_timepoints: int,
    t_r: float,
) -> DemoData:
    """Extract all scans and split them: one site is held out, the others train.

    A subject who was scanned at the held-out site takes no part in training.

    Parameters
    ----------
    dataset : datasets.Dataset
        From `load_scan_dataset`.
    atlas : Atlas
    labels : sequence of str
        Columns of classes to ask about.
    holdout_site : str
    n_timepoints, t_r : int, float
        Length and repetition time (seconds) of the model's input.
    """
    for column in labels:
        if column not in dataset.column_names:
            raise ScanError(
                f"The scan dataset has no column {column!r}: found {', '.join(dataset.column_names)}. "
                "Give `--labels` the columns to ask about."
            )
    sites = dataset.unique("site")
    if holdout_site not in sites or len(sites) < 2:
        raise ScanError(
            f"Site {holdout_site!r} cannot be held out: the scans come from {', '.join(map(repr, sites))}. "
            "Give `--holdout-site` one of at least two sites."
        )
    extractor = FmriFeatureExtractor(atlas=atlas, n_timepoints=n_timepoints, t_r=t_r)
    extracted, usable, failures = [], [], []
    for row, scan in enumerate(tqdm(dataset, desc="Reading scans", unit="scan")):
        try:
            extracted.append(extractor(scan))
            usable.append(row)
        except ScanError as error:
            failures.append({"scan_id": str(scan["scan_id"]), "reason": str(error)})
            logger.warning(f"Scan {scan['scan_id']} is left out: {error}")
    dataset = dataset.select(usable)
    if not extracted:
        raise ScanError(f"None of the scans can be used; the first: {failures[0]['reason']}")

    site, subject = np.array(dataset["site"]), np.array(dataset["subject_id"])
    test = np.flatnonzero(site == holdout_site)
    train = np.flatnonzero((site != holdout_site) & ~np.isin(subject, subject[test]))
    if not len(test) or not len(train):
        raise ScanError(
            f"{len(train)} scans are left to train on and {len(test)} to test on; both are needed. Subjects of the "
            "held-out site take no part in training."
        )
    data = DemoData(
        dataset=dataset,
        atlas=atlas,
        extractor=extractor,
        inputs={name: torch.cat([scan[name] for scan in extracted]) for name in extractor.model_input_names},
        labels={column: [_class_name(value) for value in dataset[column]] for column in labels},
        train=train,
        test=test,
        failures=failures,
    )
    for label in labels:
        n_classes = len(data.classes(label))
        if not 2 <= n_classes <= MAX_CLASSES:
            raise ScanError(
                f"Column {label!r} has {n_classes} different values among the training scans; expected 2 to "
                f"{MAX_CLASSES} classes. Bin a continuous measure first."
            )
        if not len(data.labelled(label, data.test)):
            raise ScanError(
                f"No scan of site {holdout_site!r} has a value of {label!r} that training scans have "
                f"({', '.join(data.classes(label))}), so there is nothing to test. Hold out another site, or leave "
                "the column out of `--labels`."
            )
    return data


def _class_name(value: object) -> str | None:
    if value is None or value != value:  # missing, or NaN
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass
class Descriptions:
    """Texts about the connectivity of scans, relative to the training subjects.

    Attributes
    ----------
    sentences : dict of int to list of str
        Some descriptions of each training scan.
    pairs : list of str
        The network pairs that can be asked about.
    answers : dict of int to list of str
        For each training scan, "lowered", "typical" or "raised" for each of the pairs.
    """

    sentences: dict[int, list[str]]
    pairs: list[str]
    answers: dict[int, list[str]]


def describe(data: DemoData, n_wordings: int, seed: int) -> Descriptions:
    """Describe the training scans; nothing is computed from the held-out ones."""
    rows = {}
    for row in tqdm(data.train.tolist(), desc="Describing scans", unit="scan"):
        scan = data.dataset[row]
        mask = data.inputs["roi_mask"][row].numpy()
        rows[row] = (
            str(scan["subject_id"]),
            compute_features(
                scan["bold"], scan["t_r"], data.atlas, families=("connectivity",), roi_mask=mask
            ),
        )
    reference = CohortReference.fit_maps([], data.atlas, ("connectivity",)).fit_statistics(rows.values())
    facts = {row: reference.facts(features) for row, (_, features) in rows.items()}
    sentences = {
        row: [verbalise(facts[row], "sentence", seed=seed + i) for i in range(n_wordings)] for row in rows
    }
    by_pair = {
        row: {
            " and ".join(fact["network"]): fact
            for fact in facts[row]
            if fact["feature"].startswith("connectivity/mean/")
        }
        for row in rows
    }
    pairs = sorted(set.intersection(*(set(named) for named in by_pair.values())))
    z = np.array([[by_pair[row][pair]["z"] for pair in pairs] for row in rows])
    return Descriptions(
        sentences=sentences,
        pairs=pairs,
        answers={row: [_tercile(value) for value in z[i]] for i, row in enumerate(rows)},
    )


def _tercile(z: float) -> str:
    # thirds of a normal distribution, so that each answer is right equally often
    return "lowered" if z < -0.43 else "raised" if z > 0.43 else "typical"


__all__ = ["DemoData", "Descriptions", "describe", "prepare"]
