"""Measure the time of the descriptors of one scan, on one thread: 400 ROIs, 490 time points.

    python benchmarks/descriptors.py

The median of repeated runs, for each family and for all together, is compared with a straightforward implementation
with networkx and dense linear algebra in the same run. The goal is 0.08 s for all families. Results go to
benchmarks/results/descriptors.json.
"""

from __future__ import annotations

import argparse
import platform
import sys
from functools import partial
from pathlib import Path

import networkx as nx
import numpy as np
import scipy
from scipy.signal import periodogram
from threadpoolctl import threadpool_limits
from timing import median_seconds

from fmri_lm_hf.corpus import CohortReference
from fmri_lm_hf.descriptors import FAMILIES, compute_features
from fmri_lm_hf.files import write_json
from fmri_lm_hf.models.atlas import Atlas

GOAL_SECONDS = 0.08
N_ROIS, N_TIMEPOINTS, T_R = 400, 490, 1.2
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default", "Subcortex")


def make_scan(seed: int) -> np.ndarray:
    """Simulate networks, factors across them, and noise, smooth in time: their graph is connected, as real ones are."""
    rng = np.random.default_rng(seed)
    membership = np.arange(N_ROIS) * len(NETWORKS) // N_ROIS
    loadings = np.random.default_rng(0).standard_normal((40, N_ROIS)) * 0.3
    signals = rng.standard_normal((N_TIMEPOINTS, 40))
    bold = signals @ loadings + 0.5 * signals[:, membership] + rng.standard_normal((N_TIMEPOINTS, N_ROIS))
    bold[1:] += 0.6 * bold[:-1]
    return bold.astype(np.float32)


def plain_connectivity(bold: np.ndarray, atlas: Atlas) -> None:
    fisher_z = np.arctanh(np.clip(np.corrcoef(bold.T), -0.999999, 0.999999))
    networks = np.array(atlas.networks)
    for k, first in enumerate(atlas.network_names):
        for second in atlas.network_names[k:]:
            block = fisher_z[np.ix_(networks == first, networks == second)]
            block[~np.eye(len(block), dtype=bool)].mean() if first == second else block.mean()


def plain_gradients(bold: np.ndarray, atlas: Atlas) -> None:
    connectivity = np.corrcoef(bold.T)
    np.fill_diagonal(connectivity, 0)
    profiles = np.where(connectivity >= np.percentile(connectivity, 90, axis=1)[:, None], connectivity, 0)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    affinity = 1 - np.arccos(np.clip(profiles @ profiles.T, -1, 1)) / np.pi
    density = affinity.sum(axis=1)
    kernel = affinity / np.sqrt(np.outer(density, density))
    np.linalg.eig(kernel / kernel.sum(axis=1, keepdims=True))


def plain_graph(bold: np.ndarray, atlas: Atlas) -> None:
    connectivity = np.corrcoef(bold.T)
    threshold = np.percentile(connectivity[np.triu_indices(N_ROIS, 1)], 90)
    weights = np.where(connectivity >= threshold, connectivity, 0)
    np.fill_diagonal(weights, 0)
    graph = nx.from_numpy_array(weights)
    nx.community.modularity(graph, nx.community.louvain_communities(graph, seed=0))
    nx.average_clustering(graph, weight="weight")
    # strong connections are short
    for _, _, edge in graph.edges(data=True):
        edge["length"] = 1 / edge["weight"]
    lengths = nx.all_pairs_dijkstra_path_length(graph, weight="length")
    sum(1 / length for _, row in lengths for length in row.values() if length)
    dict(graph.degree(weight="weight"))


def plain_ica(bold: np.ndarray, atlas: Atlas, maps: np.ndarray) -> None:
    standardised = (bold - bold.mean(axis=0)) / bold.std(axis=0)
    time_courses = np.linalg.lstsq(maps.T, standardised.T, rcond=None)[0]
    for course in time_courses:
        frequencies, power = periodogram(course, 1 / T_R)
        low, high = (
            (frequencies >= 0.01) & (frequencies <= 0.1),
            (frequencies >= 0.15) & (frequencies <= 0.25),
        )
        np.log10(power[low].sum() / power[high].sum())
        np.sqrt(power[low]).sum() / np.sqrt(power[1:]).sum()
        np.corrcoef(course[1:], course[:-1])
        np.mean(np.abs(course - np.median(course)) > 3 * np.median(np.abs(course - np.median(course))))
        np.std([window.std() for window in np.array_split(course, 9)])
    np.corrcoef(time_courses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "descriptors.json")
    args = parser.parse_args()

    networks = tuple(NETWORKS[k * len(NETWORKS) // N_ROIS] for k in range(N_ROIS))
    atlas = Atlas("benchmark", tuple(f"roi_{k}" for k in range(N_ROIS)), networks)
    training = [{"bold": make_scan(seed), "t_r": T_R, "subject_id": str(seed)} for seed in range(1, 5)]
    reference = CohortReference.fit(training, atlas)
    assert reference.maps.ica_maps is not None
    bold, maps = make_scan(0), reference.maps.ica_maps
    plain = {
        "connectivity": lambda: plain_connectivity(bold, atlas),
        "gradients": lambda: plain_gradients(bold, atlas),
        "graph": lambda: plain_graph(bold, atlas),
        "ica": lambda: plain_ica(bold, atlas, maps),
    }
    rows = {}
    for name in (*FAMILIES, "all"):
        families = FAMILIES if name == "all" else (name,)
        seconds, processor = median_seconds(
            partial(compute_features, bold, T_R, atlas, families, reference.maps), args.repeats
        )
        plain_seconds = sum(median_seconds(plain[family], 3)[0] for family in families)
        rows[name] = {
            "seconds": round(seconds, 5),
            "processor_seconds": round(processor, 5),
            "plain_seconds": round(plain_seconds, 5),
            "ratio": round(plain_seconds / seconds, 1),
        }
        print(
            f"{name:13s}{1e3 * seconds:8.1f} ms (processor {1e3 * processor:.1f} ms)   "
            f"plain {1e3 * plain_seconds:8.1f} ms   {plain_seconds / seconds:6.1f} times faster"
        )
    met = rows["all"]["seconds"] <= GOAL_SECONDS
    print(f"goal of at most {GOAL_SECONDS} s for all families: {'met' if met else 'NOT met'}")
    result = {
        "command": "python benchmarks/descriptors.py",
        "n_rois": N_ROIS,
        "n_timepoints": N_TIMEPOINTS,
        "threads": 1,
        "repeats": args.repeats,
        "goal_seconds": GOAL_SECONDS,
        "goal_met": met,
        "median": rows,
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (np, scipy, nx)},
        },
    }
    write_json(result, args.out)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
