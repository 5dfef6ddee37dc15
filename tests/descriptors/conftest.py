from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.models.atlas import Atlas

NETWORKS = ("Visual", "Motor", "Default", "Limbic")


def _atlas(n_rois: int) -> Atlas:
    networks = tuple(NETWORKS[k * len(NETWORKS) // n_rois] for k in range(n_rois))
    return Atlas("toy", tuple(f"roi_{k}" for k in range(n_rois)), networks)


def _bold(n_rois: int, n_timepoints: int = 150, seed: int = 0) -> np.ndarray:
    """Smooth signals with networks, and factors that cross them so that the graph hangs together."""
    rng = np.random.default_rng(seed)
    networks = np.arange(n_rois) * len(NETWORKS) // n_rois
    signals = rng.standard_normal((n_timepoints, len(NETWORKS)))
    factors = rng.standard_normal((n_timepoints, 10)) @ rng.standard_normal((10, n_rois)) * 0.4
    bold = signals[:, networks] + factors + rng.standard_normal((n_timepoints, n_rois))
    bold[1:] += 0.5 * bold[:-1]
    return bold.astype(np.float32)


@pytest.fixture(scope="session")
def atlas() -> Atlas:
    return _atlas(48)


@pytest.fixture(scope="session")
def bold() -> np.ndarray:
    return _bold(48)


@pytest.fixture(scope="session")
def make_bold():
    """A function from n_rois (and n_timepoints, seed) to a scan."""
    return _bold
