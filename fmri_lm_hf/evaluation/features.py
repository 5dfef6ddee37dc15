"""What linear readers see of scans, each computed once for all tasks.

Whatever has to be fitted (a point of reference, a subspace, the categories of a column) is fitted to training scans
alone.
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
N_REFERENCE = (
    100  # scans that the tangent space's point of reference is the mean of: more cost time and move it little
)
COSKEWNESS_KEPT = 0.7  # share of the co-skewness that the subspace keeps
BATCH = 32

# Signals of scans (n_timepoints, n_rois) and which of their ROIs are usable -> features (n_scans, n_features)
_Transform = Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]


class Unavailable(Exception):
    """A reader that cannot be had for a question; its message says why, and is shown in place of the scores."""


def confound_columns(scans: datasets.Dataset, without: Sequence[str] = ()) -> list[str]:
    """The columns of `CONFOUNDS` (in any case of letters) that a scan dataset has, without some."""
    return [column for column in scans.column_names if column.lower() in CONFOUNDS and column not in without]


class ScanFeatures:
    """Features of the scans of a dataset, by row.

    Parameters
    ----------
    scans : datasets.Dataset
    networks : sequence of str, optional
        The network of each ROI.
    seed : int
        Of the choice of scans where not all are needed.
    """

    def __init__(self, scans: datasets.Dataset, networks: Sequence[str] | None = None, seed: int = 0):
        self.scans, self.networks, self.seed = scans, networks, seed
        self._connectivity: dict[int, np.ndarray] = {}
        self._fitted: dict[tuple[str, tuple[int, ...]], tuple[_Transform, dict[int, np.ndarray]]] = {}

    def connectivity(self, rows: Sequence[int]) -> np.ndarray:
        """Fisher z of every pair of ROIs: (n_rows, n_pairs), NaN where a ROI is not usable."""
        missing = [row for row in rows if row not in self._connectivity]
        if missing:
            chosen = [self.scans[row] for row in missing]
            masks = [
                np.ones(scan["bold"].shape[1], bool) if scan.get("roi_mask") is None else scan["roi_mask"]
                for scan in chosen
            ]
            observed = [scan.get("sample_mask") for scan in chosen]
            bold: Any = tqdm((scan["bold"] for scan in chosen), "Connectivity", len(chosen), unit="scan")
            self._connectivity |= dict(zip(missing, connectivity_features(bold, masks, observed)))
        return np.stack([self._connectivity[row] for row in rows])

    def network_connectivity(self, rows: Sequence[int]) -> np.ndarray:
        """Mean Fisher z of every pair of networks, and within each: (n_rows, n_network_pairs).

        NaN where a pair of networks has no pair of usable ROIs.
        """
        if self.networks is None or len(set(self.networks)) < 2:
            raise Unavailable(
                "The model's atlas names fewer than two networks, so that there are none to average over."
            )
        connectivity = self.connectivity(rows)
        names, network = np.unique(np.array(self.networks), return_inverse=True)
        first, second = np.triu_indices(len(network), 1)
        if connectivity.shape[1] != len(first):
            raise Unavailable(f"The model's atlas has {len(network)} ROIs, and the scans have other ROIs.")
        low, high = np.minimum(network[first], network[second]), np.maximum(network[first], network[second])
        pair = low * len(names) + high
        known = np.isfinite(connectivity)
        means = []
        for each in np.unique(pair):
            of_pair = np.flatnonzero(pair == each)
            n = known[:, of_pair].sum(1)
            total = np.where(known[:, of_pair], connectivity[:, of_pair], 0).sum(1)
            means.append(np.where(n > 0, total / np.maximum(n, 1), np.nan))
        return np.stack(means, axis=1)

    def tangent(self, rows: Sequence[int], pool: Sequence[int]) -> np.ndarray:
        """Covariances in the tangent space at a mean of training scans: (n_rows, n_rois * (n_rois + 1) / 2).

        `nilearn.connectome.ConnectivityMeasure(kind="tangent")` with Ledoit-Wolf covariances, of the ROIs that all
        training scans have. Its point of reference is the geometric mean of up to 100 training scans.

        Parameters
        ----------
        rows : sequence of int
        pool : sequence of int
            Training scans.

        References
        ----------
        Varoquaux G et al. (2010). Detection of brain functional-connectivity difference in post-stroke patients
        using group-level covariance modeling. MICCAI.
        """
        return self._transformed("tangent", rows, pool, self._fit_tangent)

    def _fit_tangent(self, pool: Sequence[int]) -> _Transform:
        from nilearn.connectome import ConnectivityMeasure
        from threadpoolctl import threadpool_limits

        usable = np.all([self._signal(row)[1] for row in pool], axis=0)
        if usable.sum() < 2:
            raise Unavailable(
                f"{usable.sum()} ROIs are usable in all training scans; a tangent space needs two."
            )
        chosen = np.random.default_rng(self.seed).permutation(len(pool))[:N_REFERENCE]
        measure = ConnectivityMeasure(kind="tangent", vectorize=True, standardize=False)
        with threadpool_limits(
            1, user_api="blas"
        ):  # many small matrices: threads that wait for each other cost more
            measure.fit([self._signal(pool[i])[0][:, usable] for i in chosen])

        def transform(signals: list[np.ndarray], _: list[np.ndarray]) -> np.ndarray:
            with threadpool_limits(1, user_api="blas"):
                # a scan that is alone is given twice: nilearn takes a group
                return measure.transform([x[:, usable] for x in [*signals, signals[-1]]])[: len(signals)]

        return transform

    def coskewness(self, rows: Sequence[int], pool: Sequence[int]) -> np.ndarray:
        """Connectivity of scans of which only the subspace with most of the co-skewness is left: (n_rows, n_pairs).

        A reading of the idea of [1]_ by its abstract, which says no more than that signals are projected into the
        subspace that best preserves their co-skewness, and connectivity is computed there: see
        :func:`coskewness_subspace`. Here it is the connectivity of ROIs after the projection; that of the subspace's
        own components read simulated scans far worse.

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
        """What is known of people and scans without looking at the signal: (n_rows, n_features).

        Age, sex, site and mean framewise displacement, as far as the dataset has such columns (in any case of
        letters). Classes have a column each that training scans have; a site that they have not is in none.

        Parameters
        ----------
        rows : sequence of int
        pool : sequence of int
            Training scans.
        without : sequence of str
            Columns to leave out: what is asked for, and its neighbours.
        """
        columns = {column: list(self.scans[column]) for column in confound_columns(self.scans, without)}
        varying = [
            c
            for c, values in columns.items()
            if len({values[row] for row in pool if not is_missing(values[row])}) > 1
        ]
        if not varying:
            among = (
                f"none of {', '.join(columns)} varies"
                if columns
                else f"there are no columns {', '.join(CONFOUNDS)}"
            )
            raise Unavailable(
                f"Among the training scans {among}, so that there are no confounds to predict from."
            )
        parts = []
        for column in varying:
            values = columns[column]
            known = [values[row] for row in pool if not is_missing(values[row])]
            if column.lower() not in _CATEGORIES and all(isinstance(value, (int, float)) for value in known):
                numbers = [np.nan if is_missing(values[row]) else float(values[row]) for row in rows]
                parts.append(np.array(numbers)[:, None])
                continue
            classes = sorted({class_name(value) for value in known})
            names = np.array([None if is_missing(values[row]) else class_name(values[row]) for row in rows])
            one_hot = (names[:, None] == np.array(classes, dtype=object)).astype(float)
            one_hot[[name is None for name in names]] = np.nan
            parts.append(one_hot)
        return np.concatenate(parts, axis=1)

    def _transformed(
        self, kind: str, rows: Sequence[int], pool: Sequence[int], fit: Callable[[Sequence[int]], _Transform]
    ) -> np.ndarray:
        """Features that are fitted to `pool`, each scan's computed once."""
        key = kind, tuple(pool)
        if key not in self._fitted:
            self._fitted[key] = (fit(pool), {})
        transform, done = self._fitted[key]
        missing = [row for row in rows if row not in done]
        for start in tqdm(
            range(0, len(missing), BATCH), f"{kind} features", unit="batch", disable=not missing
        ):
            batch = missing[start : start + BATCH]
            signals, usable = zip(*(self._signal(row) for row in batch), strict=True)
            done |= dict(zip(batch, transform(list(signals), list(usable)).astype(np.float32), strict=True))
        return np.stack([done[row] for row in rows])

    def _signal(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """A scan's observed time points, each ROI with mean 0 and SD 1, or 0 where it is not usable; and which are."""
        scan = self.scans[row]
        bold = np.asarray(scan["bold"])
        if scan.get("sample_mask") is not None:
            bold = bold[np.asarray(scan["sample_mask"], dtype=bool)]
        signal, usable = standardise(bold, scan.get("roi_mask"))
        whole = np.zeros(bold.shape, dtype=np.float32)
        whole[:, usable] = signal
        return whole, usable


def coskewness_subspace(signals: Sequence[np.ndarray], kept: float = COSKEWNESS_KEPT) -> np.ndarray:
    """The directions of ROI space that hold most of the co-skewness of scans.

    The co-skewness tensor of a scan is ``C[i, j, k] = mean_t x[t, i] x[t, j] x[t, k]``. With all scans' tensors (each
    of norm 1) unfolded along their first mode and put side by side, the directions are the leading left singular
    vectors (the first factor of a truncated higher-order SVD [1]_): no other subspace of that size loses less of the
    tensors when their first mode is projected into it. ``C`` itself is never made: what is needed of it,
    ``G[i, l] = sum_jk C[i, j, k] C[l, j, k]``, is ``X.T @ (X @ X.T) ** 2 @ X / n_timepoints ** 2``.

    Parameters
    ----------
    signals : sequence of ndarray of shape (n_timepoints, n_rois)
        Standardised series.
    kept : float
        Share of the squared co-skewness that the directions together hold.

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
        of_scan = x.T @ (x @ x.T) ** 2 @ x
        norm = np.trace(of_scan)
        gram += of_scan / norm if norm > 0 else 0
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    if values[0] <= 0:
        raise Unavailable("No training scan has a usable ROI, so that there is no co-skewness to keep.")
    n = int(np.searchsorted(values.cumsum() / values.sum(), kept)) + 1
    return vectors[:, : max(2, n)]
