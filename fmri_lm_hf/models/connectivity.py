"""How the ROIs of a scan go together: correlations over observed time points, and what is made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Means over a network differ less between scans than single correlations do; this brings them to a like scale.
NETWORK_SCALE = 3.0


def unit_series(input_values: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
    """Series with mean 0 and length 1 over the observed time points, zero elsewhere: (batch, n_rois, n_timepoints)."""
    observed = padding_mask[:, None].to(input_values.dtype)  # (batch, 1, n_timepoints)
    centred = (
        input_values - (input_values * observed).sum(-1, keepdim=True) / observed.sum(-1, keepdim=True)
    ) * observed
    return F.normalize(centred, dim=-1)


def connectivity_profiles(
    input_values: torch.Tensor,
    roi_mask: torch.Tensor,
    padding_mask: torch.Tensor,
    roi_networks: list[int] | None = None,
) -> torch.Tensor:
    """Correlation of each ROI with every ROI of the scan, over its observed time points, in units of the scan's RMS.

    Noise that a scanner adds shrinks all correlations of a scan alike; dividing by their root mean square takes
    that out, so that scans of different sites can be compared.

    Parameters
    ----------
    input_values : torch.Tensor of shape (batch, n_rois, n_timepoints)
    roi_mask : torch.BoolTensor of shape (batch, n_rois)
    padding_mask : torch.BoolTensor of shape (batch, n_timepoints)
    roi_networks : list of int, optional
        Network of each ROI.

    Returns
    -------
    torch.Tensor of shape (batch, n_rois, n_rois [+ n_networks])
        Pearson correlations divided by the root mean square of those between different observed ROIs; zero on
        the diagonal and for missing ROIs. With `roi_networks`, then the means over the other observed ROIs of
        each network, times `NETWORK_SCALE`.
    """
    unit = unit_series(input_values, padding_mask) * roi_mask[..., None]
    return profiles_of(unit @ unit.transpose(1, 2), roi_mask, roi_networks)


def profiles_of(
    products: torch.Tensor, roi_mask: torch.Tensor, roi_networks: list[int] | None = None
) -> torch.Tensor:
    """Profiles, as of `connectivity_profiles`, of inner products (batch, n_rois, n_rois), zero for missing ROIs."""
    others = 1 - torch.eye(products.shape[-1], device=products.device, dtype=products.dtype)
    products = products * others
    n_observed = roi_mask.sum(-1)
    n_pairs = (n_observed * (n_observed - 1)).clamp_min(1)
    rms = (products.square().sum((1, 2)) / n_pairs).sqrt().clamp_min(1e-6)
    profiles = products / rms[:, None, None]
    if roi_networks is None:
        return profiles
    members = F.one_hot(torch.tensor(roi_networks, device=profiles.device), max(roi_networks) + 1)
    members = members.to(profiles.dtype)
    n_members = (others * roi_mask[:, None, :]) @ members  # (batch, n_rois, n_networks)
    return torch.cat([profiles, NETWORK_SCALE * (profiles @ members) / n_members.clamp_min(1)], dim=-1)


__all__ = ["NETWORK_SCALE", "connectivity_profiles", "profiles_of", "unit_series"]
