"""A baseline from which confounds are taken out by regression, fitted to training scans alone [1]_.

References
----------
.. [1] Snoek L, Miletić S, Scholte HS (2019). How to control for confounds in decoding analyses of neuroimaging data.
   NeuroImage 184, 741-760. doi:10.1016/j.neuroimage.2018.09.074
"""

from __future__ import annotations

import numpy as np

from .baselines import fit_logistic
from .readers import reader
from .study import Answer, Question

__all__ = ["regressed_out"]


def regressed_out(
    train: np.ndarray, train_confounds: np.ndarray, test: np.ndarray, test_confounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features less what confounds predict of them, by least squares fitted to the training scans alone.

    Fitted to all scans, the regression would carry what test scans have in common into training [1]_. A confound
    that is not known of a scan counts as the training mean.

    Parameters
    ----------
    train, test : ndarray of shape (n_train or n_test, n_features)
        NaN where a feature is not known; such a feature of a scan stays NaN.
    train_confounds, test_confounds : ndarray of shape (n_train or n_test, n_confounds)

    Returns
    -------
    train, test : ndarray
    """
    centre = np.nanmean(train_confounds, axis=0)
    scale = np.nanstd(train_confounds, axis=0)
    scale = np.where(scale > 0, scale, 1)

    def design(confounds: np.ndarray) -> np.ndarray:
        filled = np.nan_to_num((confounds - centre) / scale)
        return np.column_stack([np.ones(len(filled)), filled])

    mean = np.nan_to_num(np.nanmean(np.where(np.isfinite(train), train, np.nan), axis=0))
    filled = np.where(np.isfinite(train), train, mean)
    weights = np.linalg.lstsq(design(train_confounds), filled, rcond=None)[0]
    return train - design(train_confounds) @ weights, test - design(test_confounds) @ weights


@reader("connectivity_regressed", "logistic regression, confounds regressed out", "baseline")
def _connectivity_regressed(question: Question) -> Answer:
    features, without = question.study.features, question.task.label_columns
    train, test = regressed_out(
        features.connectivity(question.train),
        features.confounds(question.train, question.train, without),
        features.connectivity(question.test),
        features.confounds(question.test, question.train, without),
    )
    found = fit_logistic(train, question.labels(question.train), test, question.subjects(question.train))
    return Answer(found.scores_of(question.classes))
