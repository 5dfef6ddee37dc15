"""Network-pair tokens: one for each pair of networks, with the pair's mean connectivity and the networks' names.

The token of a pair is the sum of an embedding of its value and of those of its two names, which are text embeddings of
the language model itself. Attention can then find a pair by the names in a question, and no weight depends on an atlas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_fmri_lm import FmriLMConfig
from .fmri_transformer import unit_series

# Columns of `network_pair_features`: whether the scan has the pair; its connectivity; its rank among the scan's pairs
# of the same kind, and the rank of its magnitude. The row of the scan as a whole holds RMS correlation, mean and SD
# over pairs of networks, and the mean within networks.
PRESENT, VALUE, RANK, MAGNITUDE_RANK = range(N_FEATURES := 4)
MAX_NAME_TOKENS = 8


def pair_indices(n_networks: int) -> Tensor:
    """List first and second network of each pair, (2, n_pairs); a network with itself is the connectivity within it."""
    return torch.triu_indices(n_networks, n_networks)


def network_pair_values(
    input_values: Tensor, roi_mask: Tensor, padding_mask: Tensor, roi_networks: Tensor, n_networks: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the mean correlation of the ROIs of every two networks, in units of the scan's RMS correlation.

    Parameters
    ----------
    input_values : torch.Tensor of shape (n_scans, n_rois, n_timepoints)
    roi_mask : torch.BoolTensor of shape (n_scans, n_rois)
    padding_mask : torch.BoolTensor of shape (n_scans, n_timepoints)
    roi_networks : torch.LongTensor of shape (n_rois,) or (n_scans, n_rois)
        Number of each ROI's network.
    n_networks : int

    Returns
    -------
    values : torch.Tensor of shape (n_scans, n_pairs)
        Mean over pairs of different observed ROIs; zero where there is none.
    present : torch.BoolTensor of shape (n_scans, n_pairs)
        Whether there is any.
    rms : torch.Tensor of shape (n_scans,)
        Root mean square of the correlations of different observed ROIs.
    """
    unit = unit_series(input_values, padding_mask) * roi_mask[..., None]
    correlation = unit @ unit.transpose(1, 2)
    # Without the diagonal: an ROI's correlation with itself is 1, and would raise small networks above large ones.
    correlation = correlation - torch.diag_embed(correlation.diagonal(dim1=1, dim2=2))
    n_observed = roi_mask.sum(-1)
    rms = (correlation.square().sum((1, 2)) / (n_observed * (n_observed - 1)).clamp_min(1)).sqrt()
    members = F.one_hot(roi_networks, n_networks).to(unit.dtype).expand(len(unit), -1, -1)
    members = members * roi_mask[..., None]
    sums = members.transpose(1, 2) @ correlation @ members  # (n_scans, n_networks, n_networks)
    # Pairs of different ROIs: within a network of n ROIs there are n (n - 1), since the diagonal was taken out.
    sizes = members.sum(1)
    counts = sizes[:, :, None] * sizes[:, None] - torch.diag_embed(sizes)
    first, second = pair_indices(n_networks).to(sums.device)
    counts = counts[:, first, second]
    values = sums[:, first, second] / counts.clamp_min(1) / rms.clamp_min(1e-6)[:, None]
    return values, counts > 0, rms


def pair_ranks(values: Tensor, present: Tensor, n_networks: int) -> Tensor:
    """Rank each pair among those of its kind (between networks, or within one) in its scan, from 0 to 1."""
    first, second = pair_indices(n_networks).to(values.device)
    within = first == second
    comparable = present[:, None, :] & (within[:, None] == within[None, :])
    # Within a network correlations are higher than between two: ranked together, the strongest pair between networks
    # would never come out on top.
    below = ((values[:, None, :] < values[:, :, None]) & comparable).sum(-1)
    others = (comparable.sum(-1) - 1).clamp_min(1)
    return (below / others).masked_fill(~present, 0.0)


def network_pair_features(
    input_values: Tensor, roi_mask: Tensor, padding_mask: Tensor, roi_networks: Tensor, n_networks: int
) -> Tensor:
    """Compute features of a scan and its network pairs, without names: (n_scans, 1 + n_pairs, N_FEATURES).

    Parameters are those of `network_pair_values`.
    """
    values, present, rms = network_pair_values(input_values, roi_mask, padding_mask, roi_networks, n_networks)
    return pair_features(values, present, rms, n_networks)


def pair_features(values: Tensor, present: Tensor, rms: Tensor, n_networks: int) -> Tensor:
    """Compute `network_pair_features` from the results of `network_pair_values`."""
    features = values.new_zeros(len(values), 1 + values.shape[1], N_FEATURES)
    features[:, 1:, PRESENT] = present.to(values.dtype)
    features[:, 1:, VALUE] = values
    features[:, 1:, RANK] = pair_ranks(values, present, n_networks)
    features[:, 1:, MAGNITUDE_RANK] = pair_ranks(values.abs(), present, n_networks)
    first, second = pair_indices(n_networks).to(values.device)
    between, within = present & (first != second), present & (first == second)
    mean = (values * between).sum(1) / between.sum(1).clamp_min(1)
    spread = ((values - mean[:, None]).square() * between).sum(1) / between.sum(1).clamp_min(1)
    inside = (values * within).sum(1) / within.sum(1).clamp_min(1)
    features[:, 0] = torch.stack([rms, mean, spread.sqrt(), inside], dim=-1)
    return features


def observed_pairs(roi_mask: Tensor, roi_networks: Tensor, n_networks: int) -> Tensor:
    """Compute which tokens have observed data, (n_scans, 1 + n_pairs); the one of the scan as a whole always has."""
    # Counts by a product of matrices, in floating point: no GPU multiplies matrices of integers.
    sizes = roi_mask.float() @ F.one_hot(roi_networks, n_networks).float()
    first, second = pair_indices(n_networks).to(sizes.device)
    counts = sizes[:, first] * (sizes[:, second] - (first == second).float())
    return F.pad(counts > 0, (1, 0), value=True)


def pad_name_ids(name_ids: Sequence[Sequence[int]]) -> Tensor:
    """Pad ids of names of different lengths to one tensor (n_names, longest), -1 after the end of a name."""
    longest = max(map(len, name_ids))
    return torch.tensor([[*ids, *[-1] * (longest - len(ids))] for ids in name_ids])


class NetworkPairEmbedding(nn.Module):
    """Embeddings of network-pair tokens, from their features and the text embeddings of the networks' names.

    Connectivity is encoded as its position among fixed points (soft thresholds), from which bins are easily read.
    Names and values enter with equal weight.
    """

    def __init__(self, config: FmriLMConfig):
        super().__init__()
        size = config.text_config.hidden_size
        # a factor for each place marks the order of the tokens of a name
        self.name_order = nn.Parameter(torch.ones(MAX_NAME_TOKENS, size))
        # and one for each name distinguishes the first of a pair from the second: a pair is named in this order
        self.name_place = nn.Parameter(torch.empty(2, size))
        self.within = nn.Parameter(torch.empty(size))
        # Fixed. If it is learnt, training turns the names down at first, since values alone already help, and the model
        # does not come to find pairs by name.
        self.scale = 1.25 * config.initializer_range
        self.value_in = nn.Linear(len(_value_points()) + 2 * _rank_points().shape[1], size)
        self.value_out = nn.Linear(size, size)
        self.scan = nn.Linear(N_FEATURES, size)

    def forward(self, features: Tensor, names: Tensor, is_id: Tensor) -> Tensor:
        """Embed tokens.

        Parameters
        ----------
        features : torch.Tensor of shape (n_scans, 1 + n_pairs, N_FEATURES)
        names : torch.Tensor of shape (1 or n_scans, n_networks, n_ids, hidden_size)
            Text embeddings of the tokens of each network's name.
        is_id : torch.BoolTensor of shape (1 or n_scans, n_networks, n_ids)
            False after the end of a name.

        Returns
        -------
        torch.Tensor of shape (n_scans, 1 + n_pairs, hidden_size)
        """
        dtype = self.value_in.weight.dtype  # which may be higher than the language model's
        features = features[..., :N_FEATURES].float()
        values = self.value_out(self.value_features(features[:, 1:]))

        names, is_id = names[:, :, :MAX_NAME_TOKENS].to(dtype), is_id[:, :, :MAX_NAME_TOKENS, None]
        ordered = names * self.name_order[: names.shape[2]]
        n_ids = is_id.sum(-2).clamp_min(1)
        # by the root of their number, so that names of one token and of several are about equally long vectors
        names = (ordered * is_id).sum(-2) / n_ids.sqrt()  # (1 or n_scans, n_networks, hidden)
        first, second = pair_indices(names.shape[1]).to(names.device)
        others = names[:, second] * self.name_place[1]
        others = torch.where((first == second)[:, None], self.within.expand_as(others), others)
        names = _unit(names[:, first] * self.name_place[0] + others)
        pairs = self.scale * (names + _unit(values))
        return torch.cat([self.scan(features[:, :1].to(dtype)), pairs], dim=1)

    def value_features(self, features: Tensor) -> Tensor:
        """Compute hidden features of the values of pairs (..., N_FEATURES), before `value_out`: (..., hidden_size)."""
        value, *ranks = (features[..., column, None] for column in (VALUE, RANK, MAGNITUDE_RANK))
        points = [torch.tanh((value - _value_points().to(value)) / 0.1)]
        at, width = _rank_points().to(value)
        points += [torch.tanh((rank - at) / width) for rank in ranks]
        return F.gelu(self.value_in(torch.cat(points, dim=-1).to(self.value_in.weight.dtype)))


def place_factors(size: int) -> Tensor:
    """Make the initial `name_place`, (2, size): every other dimension holds the first name, the rest the second."""
    of_first = torch.arange(size) % 2 == 0
    return torch.stack([of_first, ~of_first]).float()


def _unit(vectors: Tensor) -> Tensor:
    """Vectors scaled to a root mean square of one."""
    return vectors * torch.rsqrt(vectors.square().mean(-1, keepdim=True) + 1e-6)


def _value_points() -> Tensor:
    return torch.linspace(-1.6, 3.0, 47)


def _rank_points() -> Tensor:
    """Points between 0 and 1 and the widths around them, (2, n_points): narrow at the ends, so that the strongest and
    the weakest of many pairs stand out."""
    below = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4])
    width = torch.tensor([0.01, 0.01, 0.02, 0.05, 0.1, 0.1, 0.1])
    half, last = torch.stack([below, width]), torch.tensor([[0.5], [0.1]])
    return torch.cat([half, last, torch.stack([1 - below, width]).flip(1)], dim=1)
