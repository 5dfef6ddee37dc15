"""Maps of a cohort that single scans are compared through: its gradients and the components of its group ICA."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from .catalogue import check_families
from .connectivity import GroupConnectivity
from .gradients import diffusion_gradients
from .ica import fit_group_ica

MAP_FAMILIES = ("gradients", "ica")  # the descriptor families whose features depend on these maps


@dataclass(frozen=True, eq=False)
class ReferenceMaps:
    """Gradients and ICA maps of the mean connectivity of training scans.

    Parameters
    ----------
    atlas : Atlas
    gradients : numpy.ndarray of shape (n_rois, 3), or None
        Gradients of the mean connectivity; None where the family is not wanted. Zeros where no scan had the ROI.
    ica_maps : numpy.ndarray of shape (n_components, n_rois), or None
        Maps of the group ICA; None where the family is not wanted.
    """

    atlas: Atlas
    gradients: np.ndarray | None = None
    ica_maps: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        group: GroupConnectivity,
        atlas: Atlas,
        families: Sequence[str],
        n_components: int = 20,
        seed: int = 0,
    ) -> ReferenceMaps:
        """Fit the maps that some families need to the mean connectivity of scans.

        Parameters
        ----------
        group : GroupConnectivity
            Of scans of training subjects.
        atlas : Atlas
        families : sequence of {"connectivity", "gradients", "graph", "ica"}
        n_components : int
            Components of the group ICA, at most a third of the ROIs.
        seed : int
            Of the group ICA.

        Raises
        ------
        ScanError
            If no scan has any ROI.
        """
        families = check_families(families)
        known = group.known_rois
        if not known.any():
            raise ScanError(
                "No training scan could be used for the cohort reference. Check the scans with compute_features: its "
                "errors say what is wrong with them."
            )
        mean = group.mean[np.ix_(known, known)]
        gradients = ica_maps = None
        if "gradients" in families:
            gradients = np.zeros((atlas.n_rois, 3))
            gradients[known] = diffusion_gradients(mean)
        if "ica" in families:
            n_components = max(2, min(n_components, int(known.sum()) // 3))
            ica_maps = np.zeros((n_components, atlas.n_rois))
            ica_maps[:, known] = fit_group_ica(mean, n_components, seed)
        return cls(atlas, gradients, ica_maps)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the maps and of the atlas: features computed with equal fingerprints are comparable."""
        parts = [repr((self.atlas.roi_names, self.atlas.networks)).encode()]
        parts += [m.astype("<f4").tobytes() for m in (self.gradients, self.ica_maps) if m is not None]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def check_atlas(self, atlas: Atlas) -> None:
        """Refuse an atlas with other ROIs or networks than the reference's, naming what differs."""
        for what in ("roi_names", "networks"):
            ours, theirs = tuple(getattr(self.atlas, what)), tuple(getattr(atlas, what))
            if ours == theirs:
                continue
            if len(ours) != len(theirs):
                found = f"{len(theirs)} ROIs instead of {len(ours)}"
            else:
                k = next(k for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
                found = f"{theirs[k]!r} instead of {ours[k]!r} at position {k}"
            raise ValueError(
                f"The reference was fitted with atlas {self.atlas.name!r}; atlas {atlas.name!r} differs in its {what}: "
                f"{found}. Extract the scans with the reference's atlas, or fit a reference for this one."
            )
