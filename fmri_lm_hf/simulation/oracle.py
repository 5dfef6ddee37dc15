"""The oracle: what a reader that knows the planted effects gets out of measured scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..descriptors.fisher_z import fisher_z_connectivity
from ..evaluation.metrics import score_classification
from ..models.atlas import Atlas
from .population import PHENOTYPE_LEVELS, Effect

if TYPE_CHECKING:
    import datasets

__all__ = ["oracle_scores"]


def oracle_scores(
    dataset: datasets.Dataset, atlas: Atlas, effects: Sequence[Effect]
) -> dict[str, dict[str, float | None]]:
    """How well each phenotype can be read by a reader that knows which network pairs it changes, and by how much.

    The oracle measures what any other reader measures, the connectivity of the scan as it is, with noise, motion
    and all, over the time points that were observed. It knows the rest: a scan's score is the mean Fisher z of each
    planted pair's block of ROIs, weighted with the planted strength and summed. Labels are balanced within a site, so
    the threshold is the median score of the site's scans: neither gain nor noise of a site can shift it. What is left
    is the variability of people and the shortness of scans, which no reader that looks at average connectivity can
    remove.

    Returns
    -------
    dict
        For each binary phenotype with an effect `{"accuracy", "balanced_accuracy", "auc"}`; for age `{"pearson"}`,
        the correlation of the score with age within sites.
    """
    tasks = [effect.phenotype for effect in effects]
    columns = [name for name in ("bold", "roi_mask", "sample_mask") if name in dataset.column_names]
    rows = dataset.with_format("numpy", columns=columns)
    scores = np.array([_scan_scores(row, atlas, effects) for row in rows])
    sites = np.array(dataset["site"])
    for site in np.unique(sites):
        scores[sites == site] -= np.median(scores[sites == site], axis=0)
    results: dict[str, dict[str, float | None]] = {}
    for task in dict.fromkeys(tasks):
        score = scores[:, [name == task for name in tasks]].sum(1)
        if task == "age":
            ages = np.array(dataset["age"], dtype=float)
            defined = score.std() > 0 and ages.std() > 0
            results[task] = {"pearson": float(np.corrcoef(score, ages)[0, 1]) if defined else None}
        else:
            levels = PHENOTYPE_LEVELS[task]
            predictions = [levels[int(value > 0)] for value in score]
            results[task] = score_classification(list(dataset[task]), predictions, score, classes=levels)
    return results


def _scan_scores(scan: Mapping[str, Any], atlas: Atlas, effects: Sequence[Effect]) -> list[float]:
    """The weighted sum over each effect's pairs; a pair without a usable ROI adds nothing."""
    z = fisher_z_connectivity(scan["bold"], scan.get("roi_mask"), scan.get("sample_mask"))
    networks = np.array(atlas.networks)
    scores = []
    for effect in effects:
        blocks = [z[np.ix_(networks == first, networks == second)] for first, second in effect.pairs]
        means = [np.nanmean(block) if np.isfinite(block).any() else 0.0 for block in blocks]
        scores.append(float(np.dot(effect.strengths, means)))
    return scores
