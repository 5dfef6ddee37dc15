"""Reference maps of a cohort, shared by all of its scans: gradients and components of the group ICA."""

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
        Gradients of the mean connectivity, with zeros for ROIs that no scan has; None without this family.
    ica_maps : numpy.ndarray of shape (n_components, n_rois), or None
        Maps of the group ICA; None without this family.
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
        """Fit maps to the mean connectivity of training scans.

        Parameters
        ----------
        group : GroupConnectivity
            Scans of training subjects only: maps that have seen a test scan leak it into every feature.
        atlas : Atlas
        families : sequence of {"connectivity", "gradients", "graph", "ica"}
        n_components : int
            Components of the group ICA, at most a third of the ROIs.
        seed : int
            Seed of the group ICA.

        Raises
        ------
        ScanError
            If no scan has any ROI.
        """
        families = check_families(families)
        # ROIs without data in every scan would be zeros that look like an ROI connected to nothing: they are left out.
        known = group.known_rois
        if not known.any():
            raise ScanError(
                "No training scan could be used for the cohort reference, expected at least one. Check single scans "
                "with compute_features, whose errors name the problem."
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
        """Refuse an atlas whose ROIs or networks differ from those of the reference; name the first difference."""
        for field in ("roi_names", "networks"):
            expected, given = tuple(getattr(self.atlas, field)), tuple(getattr(atlas, field))
            if expected == given:
                continue
            if len(expected) != len(given):
                difference = f"{len(given)} ROIs instead of {len(expected)}"
            else:
                k = next(k for k, (a, b) in enumerate(zip(expected, given, strict=True)) if a != b)
                difference = f"{given[k]!r} instead of {expected[k]!r} at position {k}"
            raise ValueError(
                f"The reference was fitted with atlas {self.atlas.name!r}; atlas {atlas.name!r} differs in its "
                f"{field}: {difference}. Extract the scans with the reference's atlas, or fit a reference for this one."
            )
