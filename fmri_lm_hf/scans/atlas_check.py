"""Whether a label image, its table and its space belong together: what a wrong pairing would show."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..models.atlas import Atlas
from ..models.image_files import is_cifti, load_image, volume_data
from ..models.scan_errors import ScanError

# How names say on which side an ROI lies, as whole words between separators or at an end.
LEFT = re.compile(r"(?:^|[^A-Za-z])(?:LH|L|lh|left|Left|Hem_?L)(?:$|[^A-Za-z])")
RIGHT = re.compile(r"(?:^|[^A-Za-z])(?:RH|R|rh|right|Right|Hem_?R)(?:$|[^A-Za-z])")
MNI_MM = np.array([[-100, -140, -90], [100, 110, 120]])  # what any image in MNI space stays within
FEW_VOXELS = 5


@dataclass(frozen=True)
class AtlasCheck:
    """What was found of a label atlas.

    Attributes
    ----------
    n_voxels : np.ndarray of shape (n_rois,), int
        Voxels of each ROI, or vertices.
    problems : list of str
        One sentence each; none where nothing is wrong.
    """

    n_voxels: np.ndarray
    problems: list[str]


def check_atlas(atlas: Atlas) -> AtlasCheck:
    """Look for ROIs without voxels, sides that are swapped, networks that are missing, and a space that is not MNI.

    Parameters
    ----------
    atlas : Atlas
        With its label image.
    """
    if atlas.labels is None or atlas.labels_img is None:
        raise ScanError(f"Atlas {atlas.name!r} has no label image to check: give one.")
    image = load_image(atlas.labels_img)
    labels = np.asarray(atlas.labels)
    if is_cifti(image):
        values = np.asarray(image.dataobj).reshape(-1).astype(int)
        centres = None
    else:
        values = volume_data(image).astype(int)
        places = np.argwhere(np.isin(values, labels))
        slots = np.searchsorted(np.sort(labels), values[tuple(places.T)])
        in_mm = places @ image.affine[:3, :3].T + image.affine[:3, 3]
        sums = np.stack([np.bincount(slots, axis, len(labels)) for axis in in_mm.T], axis=1)
        counts = np.maximum(np.bincount(slots, minlength=len(labels)), 1)
        centres = (sums / counts[:, None])[np.argsort(np.argsort(labels))]
    n_voxels = np.array([np.count_nonzero(values == label) for label in labels])
    problems = _sizes(atlas, n_voxels) + _networks(atlas)
    if centres is not None:
        problems += _sides(atlas, centres[:, 0], n_voxels > 0) + _space(centres[n_voxels > 0])
    return AtlasCheck(n_voxels, problems)


def _sizes(atlas: Atlas, n_voxels: np.ndarray) -> list[str]:
    problems = []
    small = (n_voxels > 0) & (n_voxels < FEW_VOXELS)
    for fits, what in (
        (n_voxels == 0, "have no voxel in the label image"),
        (small, f"have fewer than {FEW_VOXELS} voxels"),
    ):
        names = [atlas.roi_names[i] for i in np.flatnonzero(fits)]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            problems.append(f"{len(names)} of {atlas.n_rois} ROIs {what}: {', '.join(names[:5])}{more}.")
    return problems


def _networks(atlas: Atlas) -> list[str]:
    n_unassigned = atlas.networks.count("unassigned")
    if not n_unassigned:
        return []
    return [
        f"{n_unassigned} of {atlas.n_rois} ROIs are of no network: texts cannot speak of them. Give the table a column "
        "`network`."
    ]


def _sides(atlas: Atlas, x: np.ndarray, present: np.ndarray) -> list[str]:
    """Left is negative x in the space of every template."""
    left = (
        np.array([bool(LEFT.search(name)) and not RIGHT.search(name) for name in atlas.roi_names]) & present
    )
    right = (
        np.array([bool(RIGHT.search(name)) and not LEFT.search(name) for name in atlas.roi_names]) & present
    )
    n_sided = int(left.sum() + right.sum())
    if not n_sided:
        return []
    wrong = np.flatnonzero((left & (x > 2)) | (right & (x < -2)))
    if len(wrong) > n_sided / 2:
        return [
            f"{len(wrong)} of {n_sided} ROIs lie on the other side than their names say: the image is flipped left to "
            "right, or the table belongs to another one."
        ]
    if len(wrong):
        names = ", ".join(atlas.roi_names[i] for i in wrong[:5])
        return [
            f"{len(wrong)} of {n_sided} ROIs lie on the other side than their names say ({names}): check the table."
        ]
    return []


def _space(centres: np.ndarray) -> list[str]:
    outside = np.any((centres < MNI_MM[0]) | (centres > MNI_MM[1]), axis=1)
    if not outside.any():
        return []
    return [
        f"{outside.sum()} ROIs lie outside of MNI space: the image is in another space, or its affine is wrong."
    ]
