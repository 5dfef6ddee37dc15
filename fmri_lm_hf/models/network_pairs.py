"""Network-pair tokens: one for each pair of networks, with the pair's mean connectivity and the networks' names.

A pair's token is the sum of the embeddings of its two names, taken from the language model's own text embeddings,
and of its value. Attention can then look a pair up by the names in a question, and no weight depends on an atlas.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# What a pair token holds beside the names: its connectivity, and its rank among the scan's pairs of the same kind.
PAIR_FEATURES = 2


def pair_indices(n_networks: int) -> torch.Tensor:
    """First and second network of each pair, (2, n_pairs); a network with itself stands for what lies within it."""
    return torch.triu_indices(n_networks, n_networks)


def network_pair_values(
    input_values: torch.Tensor,
    roi_mask: torch.Tensor,
    padding_mask: torch.Tensor,
    roi_networks: torch.Tensor,
    n_networks: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean correlation of the ROIs of every two networks, in units of the scan's RMS correlation.

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
    observed = padding_mask[:, None].to(input_values.dtype)
    mean = (input_values * observed).sum(-1, keepdim=True) / observed.sum(-1, keepdim=True)
    unit = F.normalize((input_values - mean) * observed, dim=-1) * roi_mask[..., None]
    correlation = unit @ unit.transpose(1, 2)
    correlation = correlation - torch.diag_embed(correlation.diagonal(dim1=1, dim2=2))
    n_observed = roi_mask.sum(-1)
    rms = (correlation.square().sum((1, 2)) / (n_observed * (n_observed - 1)).clamp_min(1)).sqrt()
    members = F.one_hot(roi_networks, n_networks).to(unit.dtype).expand(len(unit), -1, -1)
    members = members * roi_mask[..., None]
    sums = members.transpose(1, 2) @ correlation @ members  # (n_scans, n_networks, n_networks)
    sizes = members.sum(1)
    counts = sizes[:, :, None] * sizes[:, None] - torch.diag_embed(sizes)
    first, second = pair_indices(n_networks).to(sums.device)
    counts = counts[:, first, second]
    values = sums[:, first, second] / counts.clamp_min(1) / rms.clamp_min(1e-6)[:, None]
    return values, counts > 0, rms


def pair_ranks(values: torch.Tensor, present: torch.Tensor, n_networks: int) -> torch.Tensor:
    """Rank of each pair among those of its kind (different networks, or within one) in its scan, from 0 to 1."""
    first, second = pair_indices(n_networks).to(values.device)
    within = first == second
    comparable = present[:, None, :] & (within[:, None] == within[None, :])
    below = ((values[:, None, :] < values[:, :, None]) & comparable).sum(-1)
    others = (comparable.sum(-1) - 1).clamp_min(1)
    return (below / others).masked_fill(~present, 0.0)
