"""Simulated scans for the benchmark of questions: of any atlas that is known by the names of its networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..evaluation.question_scans import QuestionScan, ScanSet, average_scan
from ..models.atlas import Atlas
from .stream import ScanRanges, random_scan

FIRST_SEED = 7_300_000_011  # far from the seeds that models are trained with
AVERAGE_SEED = 7_200_000_017
# Of a repetition time and a length that models take as they are: no truth depends on how a program resamples or cuts.
RANGES = ScanRanges(n_timepoints=(120, 160), t_r=(2.0, 2.0), missing=(0.0, 0.0))


def named_atlas(name: str, networks: Sequence[str], seed: int = 0) -> Atlas:
    """Make an atlas of 4 to 16 ROIs for each network; equal arguments give equal atlases."""
    rng = np.random.default_rng([FIRST_SEED, seed, len(networks), *name.encode()])
    sizes = rng.integers(4, 17, len(networks))
    return Atlas(
        f"{name}_{seed}",
        tuple(f"roi_{number + 1:03d}" for number in range(sizes.sum())),
        tuple(np.repeat(networks, sizes)),
    )


def simulated_scans(atlases: Mapping[str, Sequence[str]], seeds: Iterable[int], n_scans: int = 4) -> list[ScanSet]:
    """Simulate the scans of a benchmark.

    Parameters
    ----------
    atlases : mapping of str to sequence of str
        Name -> names of its networks.
    seeds : iterable of int
        Of each set; all its scans are drawn anew.
    n_scans : int, default=4
        Scans of each atlas in a set.

    Returns
    -------
    list of ScanSet
        With noise for each atlas.
    """
    return [
        ScanSet(
            seed,
            {name: _drawn(name, networks, seed, n_scans) for name, networks in atlases.items()},
            {name: _scan(named_atlas(name, of, seed), seed, n_scans, noise=True) for name, of in atlases.items()},
        )
        for seed in seeds
    ]


def average_scans(atlases: Mapping[str, Sequence[str]], n_scans: int = 8) -> dict[str, QuestionScan]:
    """Simulate an average scan of each atlas: what is known of scans without the one that is asked about."""
    offset = AVERAGE_SEED - FIRST_SEED
    return {name: average_scan(_drawn(name, networks, offset, n_scans)) for name, networks in atlases.items()}


def _drawn(name: str, networks: Sequence[str], seed: int, n_scans: int) -> list[QuestionScan]:
    atlas = named_atlas(name, networks, abs(seed))
    return [_scan(atlas, seed, number) for number in range(n_scans)]


def _scan(atlas: Atlas, seed: int, number: int, noise: bool = False) -> QuestionScan:
    drawn = random_scan(atlas, FIRST_SEED + seed, number, RANGES, "noise" if noise else "brain")
    kept = {key: drawn[key] for key in ("scan_id", "bold", "t_r", "roi_mask")}
    return QuestionScan({**kept, "atlas": atlas})
