"""Check that a label image, its table and its space belong together: `check_atlas`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import nibabel
import numpy as np
from scipy import ndimage

from ..models.atlas import Atlas
from ..models.image_files import is_cifti, load_image, volume_data
from ..models.scan_errors import ScanError

# Names of sides, as whole words between separators or at an end: `Lingual_R` is right, whatever its first letter.
LEFT = re.compile(r"(?:^|[^A-Za-z])(?:LH|L|lh|left|Left|Hem_?L)(?:$|[^A-Za-z])")
RIGHT = re.compile(r"(?:^|[^A-Za-z])(?:RH|R|rh|right|Right|Hem_?R)(?:$|[^A-Za-z])")
MNI_MM = np.array([[-100, -140, -90], [100, 110, 120]])  # bounds of any image in MNI space
FEW_VOXELS = 5


@dataclass(frozen=True)
class AtlasCheck:
    """Findings about a label atlas.

    Attributes
    ----------
    n_voxels : np.ndarray of shape (n_rois,), int
        Voxels of each ROI, or vertices.
    problems : list of str
        One sentence each; empty if nothing is wrong.
    """

    n_voxels: np.ndarray
    problems: list[str]


def check_atlas(atlas: Atlas) -> AtlasCheck:
    """Look for ROIs without voxels or network, exchanged sides, and a space that is not MNI.

    Parameters
    ----------
    atlas : Atlas
        An atlas with its label image.
    """
    if atlas.labels is None or atlas.labels_img is None:
        raise ScanError(f"Atlas {atlas.name!r} has no label image to check: give one.")
    image = load_image(atlas.labels_img)
    on_surface = is_cifti(image)
    values = np.asarray(image.dataobj) if on_surface else volume_data(image)
    values = values.astype(int)
    n_voxels = np.array([np.count_nonzero(values == label) for label in atlas.labels])
    problems = [*_check_sizes(atlas, n_voxels), *_check_networks(atlas)]
    if not on_surface:
        # Only labels that occur: the centre of no voxels is a division by zero.
        centres = np.full((atlas.n_rois, 3), np.nan)  # mm
        present = np.array(atlas.labels)[n_voxels > 0]
        voxels = ndimage.center_of_mass(np.ones(values.shape), values, present)
        centres[n_voxels > 0] = nibabel.affines.apply_affine(image.affine, np.reshape(voxels, (-1, 3)))
        problems += [*_check_sides(atlas, centres[:, 0]), *_check_space(centres)]
    return AtlasCheck(n_voxels, problems)


def _check_sizes(atlas: Atlas, n_voxels: np.ndarray) -> Iterator[str]:
    for is_concerned, problem in (
        (n_voxels == 0, "have no voxel in the label image"),
        ((n_voxels > 0) & (n_voxels < FEW_VOXELS), f"have fewer than {FEW_VOXELS} voxels"),
    ):
        names = [atlas.roi_names[i] for i in np.flatnonzero(is_concerned)]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            yield f"{len(names)} of {atlas.n_rois} ROIs {problem}: {', '.join(names[:5])}{more}."


def _check_networks(atlas: Atlas) -> Iterator[str]:
    n_unassigned = atlas.networks.count("unassigned")
    if n_unassigned:
        yield (
            f"{n_unassigned} of {atlas.n_rois} ROIs belong to no network, so texts do not mention them: give the table "
            "a column `network`."
        )


def _check_sides(atlas: Atlas, x: np.ndarray) -> Iterator[str]:
    """Compare the sides in names with x in mm, which is negative on the left in every template, NaN without voxels."""
    names_left, names_right = (
        np.array([bool(side.search(name)) for name in atlas.roi_names]) for side in (LEFT, RIGHT)
    )
    left, right = (only & np.isfinite(x) for only in (names_left & ~names_right, names_right & ~names_left))
    n_sided = int(left.sum() + right.sum())
    # ROIs at the midline may have their centre a little on the other side, hence 2 mm.
    wrong = np.flatnonzero((left & (x > 2)) | (right & (x < -2)))
    finding = f"{len(wrong)} of {n_sided} ROIs lie on the other side than their names indicate"
    if len(wrong) > n_sided / 2:
        yield f"{finding}: the image is flipped left to right, or the table belongs to another one."
    elif len(wrong):
        yield f"{finding} ({', '.join(atlas.roi_names[i] for i in wrong[:5])}): check the table."


def _check_space(centres: np.ndarray) -> Iterator[str]:
    outside = np.any((centres < MNI_MM[0]) | (centres > MNI_MM[1]), axis=1)
    if outside.any():
        yield (f"{outside.sum()} ROIs lie outside MNI space: the image is in another space, or its affine is wrong.")
