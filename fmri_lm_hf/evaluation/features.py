"""Features of scans for the linear baselines, each computed once for all tasks.

What has to be fitted (the reference point of a tangent space, a subspace, the categories of a column) is fitted to
training scans alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..descriptors.connectivity import connectivity_features, standardise
from .tasks import class_name, is_missing

CONFOUNDS = ("age", "sex", "site", "mean_fd")
_CATEGORIES = ("sex", "site")  # classes even where they are written as numbers
N_REFERENCE = 100  # scans whose mean is the reference point of the tangent space; more scans move it little
COSKEWNESS_KEPT = 0.7  # share of the co-skewness that the subspace keeps
BATCH = 32

# Series of scans (n_timepoints, n_rois) and masks of their usable ROIs -> features (n_scans, n_features)
_Transform = Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]


class Unavailable(Exception):
    """A predictor or measure cannot be computed; the message gives the reason and is reported in place of scores."""


def confound_columns(scans: datasets.Dataset, without: Sequence[str] = ()) -> list[str]:
    """List the columns of a scan dataset that are `CONFOUNDS` (in upper or lower case), except those in `without`."""
    return [column for column in scans.column_names if column.lower() in CONFOUNDS and column not in without]


class ScanFeatures:
    """Features of the scans of a dataset, by row number.

    Parameters
    ----------
    scans : datasets.Dataset
    networks : sequence of str, optional
        The network of each ROI.
    seed : int
        For the choice of scans for the reference point of the tangent space.
    """

    def __init__(self, scans: datasets.Dataset, networks: Sequence[str] | None = None, seed: int = 0):
        self.scans, self.networks, self.seed = scans, networks, seed
        self._connectivity: dict[int, np.ndarray] = {}
        self._fitted: dict[tuple[str, tuple[int, ...]], tuple[_Transform, dict[int, np.ndarray]]] = {}

    def connectivity(self, rows: Sequence[int]) -> np.ndarray:
        """Compute Fisher z of all pairs of ROIs: (n_rows, n_pairs), NaN where an ROI is not usable."""
        missing = [row for row in rows if row not in self._connectivity]
        if missing:
            scans = [self.scans[row] for row in missing]
            masks = [
                np.ones(scan["bold"].shape[1], bool) if scan.get("roi_mask") is None else scan["roi_mask"]
                for scan in scans
            ]
            observed = [scan.get("sample_mask") for scan in scans]
            bold: Any = tqdm((scan["bold"] for scan in scans), "Connectivity", len(scans), unit="scan")
            self._connectivity |= dict(zip(missing, connectivity_features(bold, masks, observed)))
        return np.stack([self._connectivity[row] for row in rows])

    def network_connectivity(self, rows: Sequence[int]) -> np.ndarray:
        """Compute the mean Fisher z of every network pair, within networks included: (n_rows, n_network_pairs).

        NaN where a network pair has no pair of usable ROIs.
        """
        if self.networks is None or len(set(self.networks)) < 2:
            raise Unavailable(
                "The model's atlas has fewer than two networks: there are no network pairs to average over."
            )
        connectivity = self.connectivity(rows)
        names, network = np.unique(np.array(self.networks), return_inverse=True)
        first, second = np.triu_indices(len(network), 1)
        if connectivity.shape[1] != len(first):
            raise Unavailable(
                f"The scans have {connectivity.shape[1]} pairs of ROIs, expected the {len(first)} of the "
                f"{len(network)} ROIs of the model's atlas."
            )
        # ROIs need not be in the order of their networks: a pair of networks has one number, whichever comes first
        low, high = np.sort([network[first], network[second]], axis=0)
        pair = low * len(names) + high
        means = []
        for number in np.unique(pair):  # not nanmean, which warns where a pair has no usable ROIs
            values = connectivity[:, np.flatnonzero(pair == number)]
            known = np.isfinite(values)
            n_known = known.sum(1)
            total = np.where(known, values, 0).sum(1)
            means.append(np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan))
        return np.stack(means, axis=1)

    def tangent(self, rows: Sequence[int], pool: Sequence[int]) -> np.ndarray:
        """Project covariances into the tangent space at a mean of training scans [1]_.

        `nilearn.connectome.ConnectivityMeasure(kind="tangent")` with Ledoit-Wolf covariances, of the ROIs that are
        usable in all training scans. The reference point is the geometric mean of up to 100 training scans.

        Parameters
        ----------
        rows : sequence of int
        pool : sequence of int
            Training scans.

        Returns
        -------
        ndarray of shape (n_rows, n_usable_rois * (n_usable_rois + 1) / 2)

        References
        ----------
        .. [1] Varoquaux G et al. (2010). Detection of brain functional-connectivity difference in post-stroke patients
           using group-level covariance modeling. MICCAI.
        """
        return self._transformed("tangent", rows, pool, self._fit_tangent)

    def _fit_tangent(self, pool: Sequence[int]) -> _Transform:
        from nilearn.connectome import ConnectivityMeasure
        from threadpoolctl import threadpool_limits

        # an ROI without signal has a covariance of zeros, which has no logarithm
        usable = np.all([self._signal(row)[1] for row in pool], axis=0)
        if usable.sum() < 2:
            raise Unavailable(
                f"{usable.sum()} ROIs are usable in all training scans: a tangent space needs at least two."
            )
        chosen = np.random.default_rng(self.seed).permutation(len(pool))[:N_REFERENCE]
        measure = ConnectivityMeasure(kind="tangent", vectorize=True, standardize=False)
        with threadpool_limits(1, user_api="blas"):  # many small matrices: threads cost more than they gain
            measure.fit([self._signal(pool[i])[0][:, usable] for i in chosen])

        def transform(signals: list[np.ndarray], _: list[np.ndarray]) -> np.ndarray:
            with threadpool_limits(1, user_api="blas"):
                # nilearn refuses a batch of one scan: the last one is given twice
                return measure.transform([x[:, usable] for x in [*signals, signals[-1]]])[: len(signals)]

        return transform

    def coskewness(self, rows: Sequence[int], pool: Sequence[int]) -> np.ndarray:
        """Compute connectivity after a projection into the subspace of co-skewness [1]_: (n_rows, n_pairs).

        The abstract of [1]_ says only that signals are projected into the subspace that best preserves their
        co-skewness, and that connectivity is computed there; see :func:`coskewness_subspace`. Here it is the
        connectivity of ROIs after the projection; that of the subspace's own components was far worse on simulated
        scans.

        References
        ----------
        .. [1] The variance brain foundation models forgot: third-order statistics predict cognition where
           billion-parameter models fail (2026). arXiv 2606.04010.
        """
        return self._transformed("coskewness", rows, pool, self._fit_coskewness)

    def _fit_coskewness(self, pool: Sequence[int]) -> _Transform:
        basis = coskewness_subspace([self._signal(row)[0] for row in pool]).astype(np.float32)

        def transform(signals: list[np.ndarray], usable: list[np.ndarray]) -> np.ndarray:
            return connectivity_features((signal @ basis @ basis.T for signal in signals), usable)

        return transform

    def confounds(self, rows: Sequence[int], pool: Sequence[int], without: Sequence[str] = ()) -> np.ndarray:
        """Encode age, sex, site and mean framewise displacement, where the dataset has them: (n_rows, n_features).

        Classes are one-hot encoded by the classes of the training scans; a class that they lack is all zero.

        Parameters
        ----------
        rows : sequence of int
        pool : sequence of int
            Training scans.
        without : sequence of str
            Columns to leave out: the label and columns close to it.
        """
        columns = confound_columns(self.scans, without)
        parts = []
        for column in columns:
            values = list(self.scans[column])
            known = [values[row] for row in pool if not is_missing(values[row])]
            if len(set(known)) < 2:
                continue
            chosen = [values[row] for row in rows]
            # sites and sexes coded as 1, 2, 3 are classes, not quantities
            if column.lower() not in _CATEGORIES and all(isinstance(value, (int, float)) for value in known):
                parts.append(np.array([np.nan if is_missing(v) else float(v) for v in chosen])[:, None])
                continue
            classes = sorted({class_name(value) for value in known})
            names = np.array([None if is_missing(value) else class_name(value) for value in chosen])
            one_hot = (names[:, None] == np.array(classes, dtype=object)).astype(float)
            # unknown is not "none of the classes": NaN becomes the mean of the training scans when standardised
            one_hot[[name is None for name in names]] = np.nan
            parts.append(one_hot)
        if not parts:
            reason = (
                f"None of {', '.join(columns)} varies among the training scans"
                if columns
                else f"The scans have none of the columns {', '.join(CONFOUNDS)}"
            )
            raise Unavailable(f"{reason}: there are no confounds to predict from.")
        return np.concatenate(parts, axis=1)

    def _transformed(
        self, kind: str, rows: Sequence[int], pool: Sequence[int], fit: Callable[[Sequence[int]], _Transform]
    ) -> np.ndarray:
        """Compute features that are fitted to `pool`; each scan is transformed once."""
        # few-shot draws and left-out sites fit to other pools: what was fitted to one must not serve another
        key = kind, tuple(pool)
        if key not in self._fitted:
            self._fitted[key] = (fit(pool), {})
        transform, done = self._fitted[key]
        missing = [row for row in rows if row not in done]
        for start in tqdm(range(0, len(missing), BATCH), f"{kind} features", unit="batch", disable=not missing):
            batch = missing[start : start + BATCH]
            signals, usable = zip(*(self._signal(row) for row in batch), strict=True)
            done |= dict(zip(batch, transform(list(signals), list(usable)).astype(np.float32), strict=True))
        return np.stack([done[row] for row in rows])

    def _signal(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Standardise the observed time points of a scan, zero in unusable ROIs; also return the usable ROIs."""
        scan = self.scans[row]
        bold = np.asarray(scan["bold"])
        if scan.get("sample_mask") is not None:
            bold = bold[np.asarray(scan["sample_mask"], dtype=bool)]
        signal, usable = standardise(bold, scan.get("roi_mask"))
        of_all_rois = np.zeros(bold.shape, dtype=np.float32)
        of_all_rois[:, usable] = signal
        return of_all_rois, usable


def coskewness_subspace(signals: Sequence[np.ndarray], kept: float = COSKEWNESS_KEPT) -> np.ndarray:
    """Find the directions of ROI space that hold most of the co-skewness of scans.

    The co-skewness tensor of a scan is ``C[i, j, k] = mean_t x[t, i] x[t, j] x[t, k]``. With the tensors of all scans
    (each of norm 1) unfolded along their first mode and concatenated, the directions are the leading left singular
    vectors, the first factor of a truncated higher-order SVD [1]_: no other subspace of that size loses less when the
    first mode is projected into it. ``C`` itself is never computed, since
    ``G[i, l] = sum_jk C[i, j, k] C[l, j, k]`` is ``X.T @ (X @ X.T) ** 2 @ X / n_timepoints ** 2``.

    Parameters
    ----------
    signals : sequence of ndarray of shape (n_timepoints, n_rois)
        Standardised series.
    kept : float
        Share of the squared co-skewness that the directions hold.

    Returns
    -------
    ndarray of shape (n_rois, n_components)
        Orthonormal; at least two.

    References
    ----------
    .. [1] De Lathauwer L, De Moor B, Vandewalle J (2000). A multilinear singular value decomposition. SIAM Journal on
       Matrix Analysis and Applications 21, 1253-1278.
    """
    gram = np.zeros((signals[0].shape[1],) * 2)
    for signal in signals:
        x = signal.astype(np.float64)
        # time by time, since the tensor itself has n_rois ** 3 numbers; the power is of each element
        of_scan = x.T @ (x @ x.T) ** 2 @ x
        # of norm 1 each: otherwise a few scans with spikes would decide the subspace
        norm = np.trace(of_scan)
        gram += of_scan / norm if norm > 0 else 0
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    if values[0] <= 0:
        raise Unavailable("No training scan has a usable ROI: there is no co-skewness to keep.")
    n = int(np.searchsorted(values.cumsum() / values.sum(), kept)) + 1
    return vectors[:, : max(2, n)]
