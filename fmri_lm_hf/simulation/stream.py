"""Endless stream of random scans, each with its own covariance, noise, motion and length, and optionally its own atlas.

Everything that varies between real scans is drawn anew (domain randomisation), and a model sees each scan once: it can
only learn to read the scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from scipy import fft

from ..models.atlas import Atlas
from .population import motion_artefact, simulate_displacement

if TYPE_CHECKING:
    import datasets

ATLAS, SIZE, SCAN = range(3)  # purposes of independent random generators
Range = tuple[float, float]
ScanKind = Literal["brain", "noise", "shuffled"]


@dataclass(frozen=True)
class ScanRanges:
    """Bounds of the properties of random scans, drawn uniformly between them.

    Attributes
    ----------
    n_timepoints : (int, int)
    t_r : (float, float)
        Repetition time in seconds.
    low_edge, high_edge : (float, float)
        Edges of the band of the BOLD signal, in Hz; the upper one never exceeds 0.9 of the Nyquist frequency.
    spectral_slope : (float, float)
        Exponent of the decrease of power with frequency.
    shared_factors : (int, int)
        Independent sources that the network signals mix.
    source_scale : (float, float)
        SD of the weights of that mixture.
    network_signal : (float, float)
        SD of the signal that a network does not share.
    network_strength : (float, float)
        Scale of all signals of a network.
    common_signal : (float, float)
        SD of a signal that all networks share, such as arousal.
    loading : (float, float)
        Weight of its network's signal in an ROI.
    overlap : (float, float)
        SD of the weights of other networks' signals in an ROI.
    roi_signal : (float, float)
        SD of the signal that an ROI does not share, inside the band.
    global_signal : (float, float)
        SD of a signal in all ROIs, such as breathing; a fifth of the scans have it regressed out.
    white_noise : (float, float)
        SD of the measurement noise.
    motion : (float, float)
        Typical displacement in mm.
    gain : (float, float)
        Logarithm of the scale of the scanner.
    missing : (float, float)
        Share of ROIs without signal.
    """

    n_timepoints: tuple[int, int] = (80, 280)
    t_r: Range = (0.6, 3.0)
    low_edge: Range = (0.005, 0.02)
    high_edge: Range = (0.08, 0.2)
    spectral_slope: Range = (0.0, 1.5)
    shared_factors: tuple[int, int] = (1, 8)
    source_scale: Range = (0.1, 1.0)
    network_signal: Range = (0.2, 1.0)
    network_strength: Range = (0.3, 1.3)
    common_signal: Range = (0.0, 1.0)
    loading: Range = (0.2, 1.0)
    overlap: Range = (0.0, 0.35)
    roi_signal: Range = (0.2, 1.0)
    global_signal: Range = (0.0, 0.8)
    white_noise: Range = (0.1, 1.2)
    motion: Range = (0.0, 0.3)
    gain: Range = (-1.0, 5.0)
    missing: Range = (0.0, 0.08)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"ScanRanges({name}=({low}, {high})) found, expected the lower bound first.")
        if self.n_timepoints[0] < 20 or self.t_r[0] <= 0 or self.missing[1] >= 1:
            raise ValueError(
                f"ScanRanges with n_timepoints={self.n_timepoints}, t_r={self.t_r}, missing={self.missing} found, "
                "expected at least 20 time points, a t_r above 0 and fewer than all ROIs missing."
            )


class RandomScan(TypedDict):
    """A random scan as a row of a scan dataset."""

    scan_id: str
    subject_id: str
    t_r: float
    n_timepoints: int
    bold: np.ndarray
    roi_mask: np.ndarray


class RandomScans:
    """A stream of random scans: scan `index` depends on the seed and the index only.

    Parameters
    ----------
    atlas : Atlas, optional
        The ROIs of all scans. When None, every `scans_per_atlas` scans have a new random atlas.
    seed : int
    ranges : ScanRanges, optional
    scans_per_atlas : int, default=4
    atlases_per_size : int, default=8
        Consecutive atlases with the same number of networks, so that their scans can be batched without padding.
    n_networks : (int, int)
        Fewest and most networks of random atlases.

    Examples
    --------
    >>> stream = RandomScans(Atlas.load("dosenbach_2010"), seed=1)
    >>> stream[7]["scan_id"]
    'random-1-7'
    """

    def __init__(
        self,
        atlas: Atlas | None = None,
        seed: int = 0,
        ranges: ScanRanges | None = None,
        scans_per_atlas: int = 4,
        atlases_per_size: int = 8,
        n_networks: tuple[int, int] = (4, 12),
    ) -> None:
        self.atlas, self.seed, self.ranges = atlas, seed, ScanRanges() if ranges is None else ranges
        self.scans_per_atlas, self.atlases_per_size = scans_per_atlas, atlases_per_size
        self.n_networks = n_networks

    def atlas_of(self, index: int) -> Atlas:
        """Return the atlas of a scan."""
        if self.atlas is not None:
            return self.atlas
        return random_atlas(self.seed, index // self.scans_per_atlas, self.n_networks, self.atlases_per_size)

    def __getitem__(self, index: int) -> RandomScan:
        return random_scan(self.atlas_of(index), self.seed, index, self.ranges)

    def iterable(self, n_scans: int, num_shards: int = 1) -> datasets.IterableDataset:
        """Make a dataset of the first scans of a stream with one atlas.

        Parameters
        ----------
        n_scans : int
        num_shards : int, default=1
            Number of parts, which the workers of a `DataLoader` share; scans of the parts alternate.

        Returns
        -------
        datasets.IterableDataset
            With rows as of `random_scan`; it can be resumed (`state_dict`, `load_state_dict`).
        """
        import datasets

        if self.atlas is None:
            raise ValueError(
                "A stream of random atlases has no common columns, expected one atlas for a dataset: give the stream "
                "an `atlas`, or index it."
            )
        features = datasets.Features(
            {
                **dict.fromkeys(("scan_id", "subject_id"), datasets.Value("string")),
                "t_r": datasets.Value("float64"),
                "n_timepoints": datasets.Value("int64"),
                "bold": datasets.Array2D((None, self.atlas.n_rois), "float32"),
                "roi_mask": datasets.List(datasets.Value("bool")),
            }
        )
        shards = [list(range(first, n_scans, num_shards)) for first in range(num_shards)]
        return datasets.IterableDataset.from_generator(
            _rows, features=features, gen_kwargs={"stream": [self] * num_shards, "indices": shards}
        )


def _rows(stream: Sequence[RandomScans], indices: Sequence[Sequence[int]]) -> Iterator[RandomScan]:
    for scans, chosen in zip(stream, indices, strict=True):
        for index in chosen:
            yield scans[index]


def random_scan(
    atlas: Atlas, seed: int, index: int, ranges: ScanRanges | None = None, kind: ScanKind = "brain"
) -> RandomScan:
    """Simulate a scan; equal arguments give equal bytes.

    Parameters
    ----------
    atlas : Atlas
    seed, index : int
    ranges : ScanRanges, optional
    kind : {"brain", "noise", "shuffled"}
        ``"noise"`` omits all signals that ROIs share, and ``"shuffled"`` permutes the ROIs: a model should describe
        neither.

    Returns
    -------
    RandomScan
        A dict with `scan_id`, `subject_id`, `t_r` (seconds), `n_timepoints`, `bold` (n_timepoints, n_rois) float32 with
        zeros for missing ROIs, and `roi_mask` (n_rois,) bool.
    """
    ranges = ScanRanges() if ranges is None else ranges
    rng = _generator(seed, SCAN, index)

    def draw(name: str, size: Any = None) -> Any:
        low, high = getattr(ranges, name)
        return rng.uniform(low, high, size)

    names = list(atlas.network_names)
    own = np.array([names.index(network) for network in atlas.networks])
    n_rois, n_networks = atlas.n_rois, len(names)
    n_timepoints = int(rng.integers(ranges.n_timepoints[0], ranges.n_timepoints[1] + 1))
    t_r = round(float(draw("t_r")), 3)

    # The order of draws is part of the format: moving, adding or dropping one changes every scan of a seed, and models
    # were trained on these scans.
    # Network signals: shared sources, one of their own, and one in common.
    n_sources = int(rng.integers(ranges.shared_factors[0], ranges.shared_factors[1] + 1))
    mixing = np.concatenate(
        [
            draw("source_scale") * rng.standard_normal((n_networks, n_sources)),
            np.diag(draw("network_signal", n_networks)),
            np.full((n_networks, 1), draw("common_signal")),
        ],
        axis=1,
    )
    mixing *= draw("network_strength", n_networks)[:, None]
    # ROIs: their network, some of the others, one signal of their own, and the global one.
    loadings = draw("overlap") * rng.standard_normal((n_rois, n_networks))
    loadings[np.arange(n_rois), own] += draw("loading", n_rois)
    roi_signal = draw("roi_signal", n_rois)
    global_weights = draw("global_signal") * (1 + 0.2 * rng.standard_normal(n_rois))

    if kind == "noise":
        loadings[:], global_weights[:] = 0, 0

    spectrum, n_long, inside = _band(ranges, draw, n_timepoints, t_r)
    waves = rng.standard_normal((2, len(inside), mixing.shape[1] + 1 + n_rois), dtype=np.float32)
    waves = (waves[0] + 1j * waves[1]) * spectrum[:, None]
    n_shared = mixing.shape[1]
    shared = waves[:, :n_shared] @ (loadings @ mixing).T.astype(np.float32)
    shared += waves[:, n_shared : n_shared + 1] * global_weights.astype(np.float32)
    shared += waves[:, n_shared + 1 :] * roi_signal.astype(np.float32)
    padded = np.zeros((n_long // 2 + 1, n_rois), dtype=np.complex64)
    padded[inside] = shared
    bold = fft.irfft(padded, n_long, axis=0)[:n_timepoints]

    bold += draw("white_noise") * rng.standard_normal(bold.shape, dtype=np.float32)
    if kind != "noise" and rng.random() < 0.5:
        displacement = simulate_displacement(draw("motion"), n_timepoints, rng)
        bold += motion_artefact(displacement, n_rois, rng)
    if rng.random() < 0.2:
        bold = _without_global_signal(bold)
    bold = bold * np.exp(draw("gain") + 0.15 * rng.standard_normal(n_rois))
    if kind == "shuffled":
        bold = bold[:, rng.permutation(n_rois)]
    roi_mask = rng.random(n_rois) >= draw("missing") * (rng.random() < 0.5)
    if not roi_mask.any():
        roi_mask[:] = True
    return {
        "scan_id": f"random-{seed}-{index}",
        "subject_id": f"random-{seed}-{index}",
        "t_r": t_r,
        "n_timepoints": n_timepoints,
        "bold": np.where(roi_mask, bold, 0).astype(np.float32),
        "roi_mask": roi_mask,
    }


def _band(ranges: ScanRanges, draw: Any, n_timepoints: int, t_r: float) -> tuple[np.ndarray, int, np.ndarray]:
    """Compute amplitudes of the frequencies in the band, for SD 1 in time; length of the inverse FFT; their indices."""
    # An inverse FFT is periodic: a longer series is made and its end cut off, or the last volumes of a scan would
    # predict the first ones.
    n_long = fft.next_fast_len(n_timepoints + round(40 / t_r), real=True)
    n_long += n_long % 2
    frequencies = fft.rfftfreq(n_long, t_r)
    high = min(draw("high_edge"), 0.45 / t_r)
    inside = np.flatnonzero((frequencies >= draw("low_edge")) & (frequencies <= high))
    amplitude = frequencies[inside] ** (-draw("spectral_slope") / 2)
    amplitude *= n_long / (2 * np.sqrt((amplitude**2).sum()))
    return amplitude.astype(np.float32), n_long, inside


def _without_global_signal(bold: np.ndarray) -> np.ndarray:
    """Regress the mean over ROIs out of each ROI."""
    bold = bold - bold.mean(0)
    signal = bold.mean(1)
    return bold - np.outer(signal, signal @ bold / (signal @ signal))


def _generator(seed: int, purpose: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, index)))


# Atlases and the names of their networks

# As atlases spell them: Yeo 2011 in Schaefer's short form and in words, Dosenbach 2010, Power 2011, Gordon 2016, Tian
# 2020, cerebral lobes.
PUBLISHED_NAMES = (
    *("default", "Default", "default mode", "visual", "Vis", "SomMot", "somatomotor", "sensorimotor"),
    *("DorsAttn", "dorsal attention", "ventral attention", "SalVentAttn", "salience", "Limbic"),
    *("limbic", "Cont", "control", "fronto-parietal", "frontoparietal", "cingulo-opercular"),
    *("cerebellum", "occipital", "auditory", "subcortical", "frontal", "temporal", "parietal"),
    *("thalamus", "striatum", "hippocampus", "amygdala", "brainstem", "language", "memory", "VisCent"),
    *("VisPeri", "SomMotA", "SomMotB", "DorsAttnA", "DorsAttnB", "SalVentAttnA", "SalVentAttnB"),
    *("LimbicA", "LimbicB", "ContA", "ContB", "ContC", "DefaultA", "DefaultB", "DefaultC", "TempPar"),
)
_TERMS = (
    "anterior posterior dorsal ventral lateral medial left right superior inferior primary secondary "
    "central frontal temporal parietal occipital cingulate insular motor sensory visual auditory "
    "attention control memory language executive emotion reward cortex nucleus gyrus pole area lobe hub "
    "core system cluster"
)
_MARKS = "A B C 1 2 3 4 5 6 7 8"
_ONSETS = ["b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "br", "cr", "st", "tr"]
_VOWELS = ["a", "e", "i", "o", "u", "ea", "ai"]


def random_atlas(seed: int, index: int, n_networks: tuple[int, int] = (4, 12), same_size: int = 1) -> Atlas:
    """Make an atlas of 40 to 140 ROIs in networks of random sizes (2 ROIs or more) with random names.

    Names are those of published atlases, random combinations of anatomical terms, and made-up words, so that a model
    has to read them.

    Parameters
    ----------
    seed, index : int
        Equal ones give equal atlases.
    n_networks : (int, int)
        Fewest and most networks.
    same_size : int, default=1
        Number of consecutive atlases with the same number of networks.
    """
    # The number of networks has a generator of its own, with which `same_size` atlases share it.
    size = int(_generator(seed, SIZE, index // same_size).integers(n_networks[0], n_networks[1] + 1))
    rng = _generator(seed, ATLAS, index)
    names = draw_network_names(size, rng)
    n_rois = int(rng.integers(max(40, 2 * len(names)), 141))
    shares = rng.dirichlet(np.full(len(names), 3.0))
    sizes = 2 + rng.multinomial(n_rois - 2 * len(names), shares)
    networks = np.repeat(names, sizes)
    return Atlas(f"random_{seed}_{index}", tuple(f"roi_{i + 1:03d}" for i in range(n_rois)), tuple(networks))


def draw_network_names(n: int, rng: np.random.Generator) -> list[str]:
    """Draw `n` different names: on average half published ones, the rest joined terms and made-up words.

    No two names differ in case only.
    """
    names: dict[str, str] = {}
    share_published = rng.choice([0.0, 0.5, 1.0])
    while len(names) < n:
        kind = rng.random()
        if kind < share_published:
            name = str(rng.choice(PUBLISHED_NAMES))
        elif kind < share_published + 0.6 * (1 - share_published):
            name = " ".join(rng.choice(_TERMS.split(), int(rng.integers(1, 3)), replace=False))
            if rng.random() < 0.3:
                name += f" {rng.choice(_MARKS.split())}"
        else:
            name = "".join(f"{rng.choice(_ONSETS)}{rng.choice(_VOWELS)}" for _ in range(int(rng.integers(2, 4))))
        names.setdefault(name.lower(), name)
    return list(names.values())
