"""Graph measures of the strongest connections."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from .catalogue import feature_name
from .prepared import PreparedScan

__all__ = [
    "average_clustering",
    "find_communities",
    "global_efficiency",
    "graph_features",
    "modularity",
    "strongest_edges",
]

DENSITY = 0.1
SEED = 0
_MIN_GAIN = 1e-7  # in units of Q: smaller gains are rounding errors


def strongest_edges(connectivity: np.ndarray, density: float = DENSITY) -> np.ndarray:
    """Weights (n_rois, n_rois) of the strongest positive edges, zeros elsewhere.

    A share `density` of all pairs of ROIs is kept, fewer where fewer correlations are positive.
    """
    n_rois = len(connectivity)
    pairs = connectivity[np.triu_indices(n_rois, 1)]
    n_kept = max(1, round(density * len(pairs)))
    threshold = np.partition(pairs, len(pairs) - n_kept)[len(pairs) - n_kept]
    weights = np.triu(connectivity, 1)
    weights[(weights < threshold) | (weights < 0)] = 0.0
    return weights + weights.T


def modularity(weights: np.ndarray, communities: np.ndarray) -> float:
    """Newman's weighted modularity Q of a partition [1]_.

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
    return (
        float(np.trace(mixing) / total - ((mixing.sum(axis=0) / total) ** 2).sum())
        if total > 0
        else float("nan")
    )


def find_communities(weights: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Communities of high modularity by the Louvain method [1]_, in an order of visits drawn from `seed`.

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
    """One level of the Louvain method: move single nodes while that raises Q; communities as 0, 1, ...

    `links[c, i]` holds the weight between node i and community c, and `strengths[c]` the strength of c; both are kept
    up to date with each move, so that a visit costs a few operations on vectors. Only nodes that would gain by a move
    are visited.
    """
    node_strengths = graph.sum(axis=0)
    total = node_strengths.sum()
    between = graph - np.diag(np.diag(graph))
    communities = np.arange(len(graph))
    while True:
        links = np.eye(communities.max() + 1)[:, communities] @ between
        strengths = np.bincount(communities, weights=node_strengths)
        gains = links - strengths[:, None] * (node_strengths / total)  # (community, node)
        stays = (
            gains[communities, np.arange(len(graph))] + node_strengths**2 / total
        )  # without the node itself
        candidates = np.flatnonzero(gains.max(axis=0) - stays > _MIN_GAIN * total)
        n_moves = 0
        for node in rng.permutation(candidates):
            old = communities[node]
            share = node_strengths[node] / total
            gain = links[:, node] - strengths * share
            gain[old] += node_strengths[node] * share
            new = gain.argmax()
            if gain[new] - gain[old] > _MIN_GAIN * total:
                communities[node] = new
                links[old] -= between[node]
                links[new] += between[node]
                strengths[old] -= node_strengths[node]
                strengths[new] += node_strengths[node]
                n_moves += 1
        communities = np.unique(communities, return_inverse=True)[1]
        if n_moves == 0:
            return communities


def global_efficiency(weights: np.ndarray) -> float:
    """Mean inverse length of the shortest paths between all pairs of ROIs [1]_.

    The length of an edge is the inverse of its weight, so that the efficiency of a direct connection is its
    correlation; pairs without a path count as 0.

    References
    ----------
    .. [1] Rubinov M, Sporns O (2010). Complex network measures of brain connectivity. NeuroImage 52, 1059-1069.
    """
    n_rois = len(weights)
    lengths = csr_matrix(weights, dtype=np.float64)
    lengths.data = 1 / lengths.data
    distances = dijkstra(lengths)
    np.fill_diagonal(distances, np.inf)
    return float((1 / distances).sum() / (n_rois * (n_rois - 1)))


def average_clustering(weights: np.ndarray) -> float:
    """Mean weighted clustering coefficient of the ROIs [1]_.

    An ROI's coefficient is the geometric mean weight of the triangles around it, relative to the largest weight of
    the graph, divided by the number of its pairs of neighbours; 0 for ROIs with fewer than two neighbours.

    References
    ----------
    .. [1] Onnela JP et al. (2005). Intensity and coherence of motifs in weighted complex networks. Physical Review
       E 71, 065103.
    """
    largest = weights.max()
    if largest <= 0:
        return 0.0
    roots = np.cbrt(weights / largest)
    triangles = ((roots @ roots) * roots).sum(axis=1)
    degrees = (weights > 0).sum(axis=1)
    return float((triangles / np.maximum(degrees * (degrees - 1), 1)).mean())


def graph_features(scan: PreparedScan) -> dict[str, float]:
    """The graph descriptors of a scan, on the strongest 10 % of its edges, weighted by correlation.

    - ``graph/modularity``: Q of the partition that the seeded Louvain method finds.
    - ``graph/global_efficiency``: weighted, in units of correlation.
    - ``graph/average_clustering``: weighted, relative to the largest weight.
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
