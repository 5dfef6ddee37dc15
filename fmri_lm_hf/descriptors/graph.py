"""Graph measures of the strongest connections.

Own code on numpy arrays, tested against networkx: of 400 ROIs, the family takes a thirtieth of the time that it takes
with networkx (`benchmarks/descriptors.py`), which a corpus of ten thousand scans feels.
"""

from __future__ import annotations

import numpy as np

from .catalogue import feature_name
from .prepared import PreparedScan

DENSITY = 0.1
SEED = 0
_MIN_GAIN = 1e-7  # in units of Q: smaller gains are rounding errors


def strongest_edges(connectivity: np.ndarray, density: float = DENSITY) -> np.ndarray:
    """Keep the weights (n_rois, n_rois) of the strongest positive edges, zeros elsewhere.

    A share `density` of all pairs of ROIs is kept, or fewer if fewer correlations are positive.
    """
    n_rois = len(connectivity)
    pairs = connectivity[np.triu_indices(n_rois, 1)]
    n_kept = max(1, round(density * len(pairs)))
    threshold = np.partition(pairs, len(pairs) - n_kept)[len(pairs) - n_kept]
    # Edges that tie with the threshold all stay; none is chosen by the order of the ROIs.
    weights = np.triu(connectivity, 1)
    weights[(weights < threshold) | (weights < 0)] = 0.0
    return weights + weights.T


def modularity(weights: np.ndarray, communities: np.ndarray) -> float:
    """Compute Newman's weighted modularity Q of a partition [1]_.

    ``Q = sum_c (within_c / 2m - (strength_c / 2m) ** 2)``: the share of edge weight inside communities minus the
    share expected if edges fell at random between ROIs of the same strengths. NaN for a graph without edges.

    Parameters
    ----------
    weights : numpy.ndarray of shape (n_rois, n_rois)
        Symmetric, without self-connections.
    communities : numpy.ndarray of shape (n_rois,), int

    References
    ----------
    .. [1] Newman MEJ (2004). Analysis of weighted networks. Physical Review E 70, 056131.
    """
    indicator = communities[:, None] == np.unique(communities)
    mixing = indicator.T.astype(np.float64) @ weights @ indicator
    total = mixing.sum()
    if total <= 0:
        return float("nan")
    return float(np.trace(mixing) / total - ((mixing.sum(axis=0) / total) ** 2).sum())


def find_communities(weights: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Find communities of high modularity by the Louvain method [1]_, visiting nodes in an order drawn from `seed`.

    ROIs move one by one to the community that raises Q most; then communities become the nodes of a smaller graph
    and the same is repeated, until nothing moves.

    Returns
    -------
    numpy.ndarray of shape (n_rois,), int
        Community numbers 0, 1, ...

    References
    ----------
    .. [1] Blondel VD et al. (2008). Fast unfolding of communities in large networks. Journal of Statistical
       Mechanics 2008, P10008.
    """
    # networkx walks dictionaries of neighbours; here a visit is a few vector operations (see `_move_nodes`).
    rng = np.random.default_rng(seed)
    graph = weights.astype(np.float64)
    communities = np.arange(len(graph))
    while graph.any():
        moved = _move_nodes(graph, rng)
        n_communities = moved.max() + 1
        communities = moved[communities]
        if n_communities == len(graph):
            break
        indicator = np.eye(n_communities)[moved]
        graph = indicator.T @ graph @ indicator
    return communities


def _move_nodes(graph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move single nodes between communities while that raises Q; return community numbers 0, 1, ...

    `links[c, i]` holds the weight between node i and community c, and `strengths[c]` the strength of c. Both are
    updated with each move, so that a visit costs a few operations on vectors. Only nodes that would gain by a move are
    visited.
    """
    node_strengths = graph.sum(axis=0)
    total = node_strengths.sum()
    shares = node_strengths / total
    least = _MIN_GAIN * total
    between = graph - np.diag(np.diag(graph))
    nodes = np.arange(len(graph))
    communities, links, strengths = nodes.copy(), between.copy(), node_strengths.copy()
    while True:
        # Q of node i in community c grows with links[c, i] - strengths[c] * share of i. In its present community, its
        # own strength is part of strengths[c]: uncorrected, every node would seem to gain by leaving.
        gains = links - strengths[:, None] * shares  # (community, node)
        stays = gains[communities, nodes] + node_strengths * shares  # without the node itself
        candidates = np.flatnonzero(gains.max(axis=0) - stays > least)
        n_moves = 0
        for node in rng.permutation(candidates).tolist():
            old = communities[node]
            # Computed anew: moves since the candidates were chosen have changed links and strengths.
            gain = links[:, node] - strengths * shares[node]
            gain[old] += node_strengths[node] * shares[node]
            new = gain.argmax()
            if gain[new] - gain[old] > least:
                communities[node] = new
                links[old] -= between[node]
                links[new] += between[node]
                strengths[old] -= node_strengths[node]
                strengths[new] += node_strengths[node]
                n_moves += 1
        remaining, communities = np.unique(communities, return_inverse=True)
        if n_moves == 0:
            return communities
        links, strengths = links[remaining], strengths[remaining]  # drop empty communities


def global_efficiency(weights: np.ndarray) -> float:
    """Compute the mean inverse number of steps of the shortest paths between all pairs of ROIs [1]_.

    Weights are ignored: at a fixed density they mostly measure the noise of a scan, and the number of steps how the
    graph is connected. Pairs without a path count as 0.

    References
    ----------
    .. [1] Latora V, Marchiori M (2001). Efficient behavior of small-world networks. Physical Review Letters 87, 198701.
    """
    n_rois = len(weights)
    sources, targets = np.nonzero(weights > 0)
    if not len(sources):
        return 0.0
    nodes, starts = np.unique(sources, return_index=True)
    # All breadth-first searches at once, one bit for each pair of ROIs: in one more step, a node reaches what its
    # neighbours have reached. With 400 ROIs: 2 ms, with `scipy.sparse.csgraph.shortest_path` 22 ms.
    n_words = -(-n_rois // 64)
    reached = np.zeros((n_rois, 64 * n_words), dtype=bool)
    reached[np.arange(n_rois), np.arange(n_rois)] = True
    packed = np.packbits(reached, axis=1).view(np.uint64)
    efficiency, n_reached, steps = 0.0, n_rois, 0
    while True:
        steps += 1
        packed[nodes] |= np.bitwise_or.reduceat(packed[targets], starts, axis=0)
        n_now = int(np.unpackbits(packed.view(np.uint8)).sum())
        if n_now == n_reached:
            return efficiency / (n_rois * (n_rois - 1))
        efficiency += (n_now - n_reached) / steps
        n_reached = n_now


def average_clustering(weights: np.ndarray) -> float:
    """Compute the mean weighted clustering coefficient of the ROIs [1]_.

    An ROI's coefficient is the mean, over the pairs of its neighbours, of the geometric mean weight of the triangle
    that they form (0 for pairs that are no edge, and for ROIs with fewer than two neighbours). Unlike in networkx,
    weights are not divided by the largest one, which is a single, uncertain number.

    References
    ----------
    .. [1] Onnela JP et al. (2005). Intensity and coherence of motifs in weighted complex networks. Physical Review
       E 71, 065103.
    """
    # A matrix product sums over all triangles at once. Cube roots of the edges alone: most of the matrix is zero.
    roots = np.zeros_like(weights)
    edges = weights > 0
    roots[edges] = np.cbrt(weights[edges])
    triangles = ((roots @ roots) * roots).sum(axis=1)
    degrees = edges.sum(axis=1)
    return float((triangles / np.maximum(degrees * (degrees - 1), 1)).mean())


def graph_features(scan: PreparedScan) -> dict[str, float]:
    """Compute the graph descriptors of a scan, on the strongest 10 % of its edges.

    Edges are weighted by their correlation, unless stated otherwise.

    - ``graph/modularity``: Q of the partition that the seeded Louvain method finds.
    - ``graph/global_efficiency``: unweighted, in inverse steps.
    - ``graph/average_clustering``: in units of correlation.
    - ``graph/node_strength``, for each network: mean over its ROIs of the summed weights of their edges.
    """
    weights = strongest_edges(scan.connectivity)
    features = {
        "graph/modularity": modularity(weights, find_communities(weights)),
        "graph/global_efficiency": global_efficiency(weights),
        "graph/average_clustering": average_clustering(weights),
    }
    for network, strength in zip(scan.network_names, scan.network_means(weights.sum(axis=1)), strict=True):
        features[feature_name("graph/node_strength", network)] = float(strength)
    return features
