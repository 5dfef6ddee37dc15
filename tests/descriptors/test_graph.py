from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from fmri_lm_hf.descriptors import compute_features
from fmri_lm_hf.descriptors.graph import (
    average_clustering,
    find_communities,
    global_efficiency,
    modularity,
    strongest_edges,
)


def sets_of(communities: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(communities == c).tolist()) for c in np.unique(communities)]


@pytest.fixture(scope="module", params=[(48, 0), (120, 1), (120, 2)])
def graph(request, make_bold):
    n_rois, seed = request.param
    weights = strongest_edges(np.corrcoef(make_bold(n_rois, seed=seed).T).astype(np.float32))
    return weights, nx.from_numpy_array(weights.astype(np.float64))


def test_a_tenth_of_the_pairs_is_kept_and_they_are_the_strongest(make_bold):
    connectivity = np.corrcoef(make_bold(60).T)
    weights = strongest_edges(connectivity)
    pairs = connectivity[np.triu_indices(60, 1)]
    kept = weights[np.triu_indices(60, 1)]
    assert (kept > 0).sum() == round(0.1 * len(pairs))
    np.testing.assert_array_equal(np.sort(kept[kept > 0]), np.sort(pairs)[-(kept > 0).sum() :])
    np.testing.assert_array_equal(weights, weights.T)
    assert not np.diag(weights).any()


def test_negative_correlations_are_no_edges():
    connectivity = np.full((10, 10), -0.2)
    connectivity[0, 1] = connectivity[1, 0] = 0.5
    assert (strongest_edges(connectivity, density=0.5) > 0).sum() == 2


def test_modularity_of_a_partition_agrees_with_networkx(graph):
    weights, expected = graph
    for seed in range(3):
        communities = np.random.default_rng(seed).integers(0, 5, len(weights))
        theirs = nx.community.modularity(expected, sets_of(communities))
        assert modularity(weights, communities) == pytest.approx(theirs, abs=1e-6)


def test_the_partition_found_is_as_good_as_that_of_networkx(graph):
    weights, expected = graph
    found = modularity(weights, find_communities(weights))
    theirs = [nx.community.modularity(expected, nx.community.louvain_communities(expected, seed=s)) for s in range(5)]
    assert found >= np.median(theirs) - 0.01


def test_planted_communities_are_found_exactly():
    planted = np.repeat(np.arange(4), 15)
    weights = np.where(planted[:, None] == planted, 0.8, 0.05).astype(np.float32)
    np.fill_diagonal(weights, 0)
    assert sorted(map(sorted, sets_of(find_communities(weights)))) == sorted(map(sorted, sets_of(planted)))


def test_the_seed_decides_the_partition(graph):
    weights, _ = graph
    np.testing.assert_array_equal(find_communities(weights, seed=3), find_communities(weights, seed=3))


def test_efficiency_agrees_with_networkx_and_takes_edges_alike(graph):
    weights, _ = graph
    unweighted = (weights > 0).astype(np.float32)
    theirs = nx.global_efficiency(nx.from_numpy_array(unweighted))
    assert global_efficiency(weights) == pytest.approx(theirs, rel=1e-9)
    assert global_efficiency(0.6 * weights) == global_efficiency(weights)  # noise lowers all correlations


def test_efficiency_of_separate_parts_and_lone_nodes():
    weights = np.zeros((70, 70), dtype=np.float32)  # more than the bits of one word
    for first, second in [(0, 1), (1, 2), (65, 66)]:
        weights[first, second] = weights[second, first] = 0.5
    assert global_efficiency(weights) == pytest.approx(2 * (3 + 0.5) / (70 * 69))


def test_clustering_agrees_with_networkx(graph):
    weights, expected = graph
    theirs = nx.average_clustering(expected, weight="weight") * weights.max()  # networkx divides by the largest
    assert average_clustering(weights) == pytest.approx(theirs, rel=1e-5)


def test_node_strength_agrees_with_networkx(bold, atlas):
    features = compute_features(bold, 2.0, atlas, families=("graph",))
    weights = strongest_edges(np.corrcoef(bold.T.astype(np.float64)))
    degrees = dict(nx.from_numpy_array(weights).degree(weight="weight"))
    for network in atlas.network_names:
        strengths = [degrees[k] for k in range(atlas.n_rois) if atlas.networks[k] == network]
        assert features[f"graph/node_strength/{network}"] == pytest.approx(np.mean(strengths), rel=1e-4)


def test_a_graph_without_edges_has_no_modularity_and_no_efficiency():
    empty = np.zeros((10, 10), dtype=np.float32)
    assert np.isnan(modularity(empty, find_communities(empty)))
    assert global_efficiency(empty) == 0
    assert average_clustering(empty) == 0


def test_separate_networks_raise_modularity_and_lower_efficiency(atlas):
    rng = np.random.default_rng(0)
    networks = np.repeat(np.arange(4), 12)
    signals, noise = rng.standard_normal((200, 4)), rng.standard_normal((200, 48))
    separate = signals[:, networks] + noise
    mixed = separate + 2 * rng.standard_normal((200, 8)) @ rng.standard_normal((8, 48))
    ours, theirs = (compute_features(b, 2.0, atlas, families=("graph",)) for b in (separate, mixed))
    assert ours["graph/modularity"] > theirs["graph/modularity"]
    assert ours["graph/global_efficiency"] < theirs["graph/global_efficiency"]
