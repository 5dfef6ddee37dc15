"""Extraction of ROI signals: the mean signal of each ROI of an atlas in a NIfTI, CIFTI or GIFTI series."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .image_files import check_size, image_data, is_cifti, load_image, series_of, volume_data
from .scan_errors import ScanError, as_scan_error

VOXEL_MM = (0.1, 50.0)  # edges of a voxel; others come from a damaged or unset header
# A volume that lacks more than this share of its voxels' values is censored; fewer are taken out as voxels.
MISSING_SHARE = 0.1


@dataclass(frozen=True)
class Extraction:
    """Signals of the ROIs of an atlas in an image.

    Attributes
    ----------
    signals : np.ndarray of shape (n_timepoints, n_rois), float64
        Mean over the voxels of each ROI; NaN in volumes that were not observed, and for ROIs without a voxel.
    observed : np.ndarray of shape (n_timepoints,), bool
        False for volumes of NaN or of zeros.
    coverage : np.ndarray of shape (n_rois,), float32
        Share of the voxels of each ROI that the image holds and that vary over time, from 0 to 1.
    """

    signals: np.ndarray
    observed: np.ndarray
    coverage: np.ndarray


def sphere_voxels(
    centre: Sequence[float], radius: float, affine: np.ndarray, shape: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the voxels of an image within `radius` mm of `centre`, and the voxel that holds the centre.

    Parameters
    ----------
    centre : (x, y, z)
        In mm.
    radius : float
    affine : np.ndarray of shape (4, 4)
    shape : sequence of int, optional
        Of the image; without it, its grid has no end.

    Returns
    -------
    voxels : np.ndarray of shape (n_voxels, 3)
        Empty where the sphere lies outside the image.
    distances : np.ndarray of shape (n_voxels,)
        Distance of each voxel to the centre, in mm.
    """
    inverse = np.linalg.inv(affine)
    middle = inverse[:3, :3] @ np.asarray(centre, dtype=float) + inverse[:3, 3]
    reach = radius * np.linalg.norm(inverse[:3, :3], axis=1)
    low, high = np.floor(middle - reach), np.ceil(middle + reach) + 1
    if shape is not None:
        low, high = np.maximum(low, 0), np.minimum(high, np.asarray(shape[:3]))
    if np.any(low >= high):
        return np.empty((0, 3), dtype=int), np.empty(0)
    ranges = map(np.arange, low.astype(int), high.astype(int))
    voxels = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    distances = np.linalg.norm((voxels - middle) @ affine[:3, :3].T, axis=1)
    # a sphere smaller than a voxel still has the voxel of its centre
    inside = (distances <= radius) | np.all(voxels == np.round(middle), axis=1)
    return voxels[inside], distances[inside]


def extract(atlas: Any, image: Any, mask_img: Any = None) -> Extraction:
    """Compute the mean signals of the ROIs of `atlas` in an image, with observed volumes and coverage.

    Each volume is read once and summed by ROI in float64, so that memory does not grow with the length of the scan
    and the means agree with those of nilearn's maskers to rounding. A voxel without a number in some volume is left
    out of all of them: means over changing sets of voxels would jump.

    Parameters
    ----------
    atlas : Atlas
    image : path or nibabel image
        4D NIfTI, a dense CIFTI series, or one hemisphere of a GIFTI series (the other one is in the same folder).
    mask_img : path or nibabel image, optional
        Only voxels of this mask are read (NIfTI).

    Returns
    -------
    Extraction

    Raises
    ------
    ScanError
        If the image cannot be read, has another shape, or no ROI lies in it.
    """
    image = load_image(image)
    if is_cifti(image):
        check_size(image)
        where, slots, expected = _grayordinates(atlas, image)
    else:
        _check_image(image)
        voxels_of = _label_voxels if atlas.labels else _sphere_voxels
        where, slots, expected = voxels_of(atlas, image, mask_img)
    extraction = _means(image, where, slots, expected)
    if not np.any(np.nan_to_num(extraction.signals)):
        raise ScanError(
            f"No ROI of atlas {atlas.name!r} has signal in the image, so they do not overlap: expected a scan in "
            "the space of the atlas (usually MNI). Normalise the scan first, or use an atlas in its space."
        )
    return extraction


def _check_image(image: Any) -> None:
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) != 4 or not hasattr(image, "affine"):
        raise ScanError(
            f"The image is {len(shape)}D, of shape {shape}: expected a 4D image "
            "(x, y, z, time). Give the BOLD series, not an anatomical or mean image."
        )
    if min(shape) < 1:
        raise ScanError(f"The image has shape {shape}: expected voxels and volumes. Export it again.")
    kind = np.dtype(image.get_data_dtype() if hasattr(image.dataobj, "get_unscaled") else image.dataobj.dtype)
    if kind.kind not in "fiub":
        raise ScanError(f"The image holds {kind} values: expected real numbers. Export it again.")
    affine = np.asarray(image.affine, dtype=float)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    flat = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * np.prod(edges)
    if flat or not np.all((edges >= VOXEL_MM[0]) & (edges <= VOXEL_MM[1])):
        raise ScanError(
            f"The image's affine gives voxels of {' x '.join(f'{edge:g}' for edge in edges)} mm, which no scan has: "
            "its header is damaged or was never filled in. Export it again."
        )
    check_size(image)


# The voxels of ROIs: `where` are indices into a volume (Fortran order), `slots` the ROI of each of them. `expected`
# counts the voxels of each ROI, also those that the image does not hold.


def _sphere_voxels(atlas: Any, image: Any, mask_img: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if atlas.coordinates is None:
        raise ScanError(
            f"Atlas {atlas.name!r} has neither coordinates nor labels, so it reads ROI tables but no images: "
            "use an atlas from Atlas.load or Atlas.from_labels_img."
        )
    shape, affine = image.shape[:3], np.asarray(image.affine, dtype=float)
    inside = None if mask_img is None else _on_grid(mask_img, image) > 0
    where, slots, expected = [], [], np.zeros(atlas.n_rois)
    for roi, (centre, radius) in enumerate(zip(atlas.coordinates, atlas.radius_mm, strict=True)):
        voxels, _ = sphere_voxels(centre, radius, affine, None)
        expected[roi] = len(voxels)
        voxels = voxels[np.all((voxels >= 0) & (voxels < shape), axis=1)]
        if inside is not None:
            voxels = voxels[inside[tuple(voxels.T)]]
        where.append(np.ravel_multi_index(tuple(voxels.T), shape, order="F"))
        slots.append(np.full(len(voxels), roi))
    return np.concatenate(where), np.concatenate(slots), expected


def _label_voxels(atlas: Any, image: Any, mask_img: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels_img = _labels_img(atlas)
    if is_cifti(labels_img):
        raise ScanError(
            f"Atlas {atlas.name!r} is one of surfaces, but the scan is a NIfTI volume: give the .dtseries.nii or "
            ".func.gii, or use an atlas with a NIfTI label image."
        )
    labels = load_image(labels_img)
    slot_of_voxel = _slots_of(atlas, _on_grid(labels, image)).ravel(order="F")
    # An ROI that the edge of the image cuts is larger than the part that the image holds.
    shown = np.bincount(slot_of_voxel + 1, minlength=atlas.n_rois + 1)[1:]
    expected = shown / np.maximum(_share_in_view(atlas, labels, image), 1e-12)
    if mask_img is not None:
        slot_of_voxel[(_on_grid(mask_img, image) <= 0).ravel(order="F")] = -1
    where = np.flatnonzero(slot_of_voxel >= 0)
    return where, slot_of_voxel[where], np.where(shown > 0, expected, 1)


def _slots_of(atlas: Any, values: np.ndarray) -> np.ndarray:
    """The ROI of each label value, -1 where it is of none."""
    # by binary search: a table from value to ROI would be as long as the largest value, which may be in the millions
    order = np.argsort(atlas.labels)
    ordered = np.asarray(atlas.labels, dtype=float)[order]
    # rounded: label images come as float32, and resampled ones a little off the integer
    values = np.rint(np.nan_to_num(values, posinf=0, neginf=0))
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[place] == values, order[place], -1)


def _share_in_view(atlas: Any, labels: Any, image: Any) -> np.ndarray:
    """Share of the voxels of each ROI of a label image that lie within the bounds of `image`."""
    to_image = np.linalg.inv(image.affine) @ labels.affine

    def in_view(at: Any) -> np.ndarray:
        there = np.asarray(at) @ to_image[:3, :3].T + to_image[:3, 3]
        return np.all((there >= -0.5) & (there <= np.asarray(image.shape[:3]) - 0.5), axis=1)

    if in_view(list(itertools.product(*((0, n - 1) for n in labels.shape[:3])))).all():
        return np.ones(atlas.n_rois)  # if its corners lie within them, the whole image does
    slots = _slots_of(atlas, volume_data(labels))
    inside = in_view(np.argwhere(slots >= 0))
    slots = slots[slots >= 0]
    total = np.bincount(slots, minlength=atlas.n_rois)
    return np.bincount(slots[inside], minlength=atlas.n_rois) / np.maximum(total, 1)


def _grayordinates(atlas: Any, image: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels_img = _labels_img(atlas) if atlas.labels else None
    if labels_img is None or not is_cifti(labels_img):
        raise ScanError(
            f"The scan lies on surfaces, which needs a CIFTI or GIFTI label atlas, and atlas {atlas.name!r} is none: "
            "make one with Atlas.from_labels_img('....dlabel.nii') or '....label.gii'."
        )
    with as_scan_error(image.get_filename() or "The image"):
        dense = image.header.get_axis(1)
        if not hasattr(dense, "nvertices") or not hasattr(dense, "vertex"):
            raise ScanError(f"The CIFTI file holds a series of {type(dense).__name__}: expected dense data.")
        source = labels_img.header.get_axis(1)
        given = image_data(labels_img).reshape(-1)
        # Bring the labels to the grayordinates of the scan, structure by structure. A file without the medial wall has
        # other indices than one with it, so positions in the two files must never be compared directly.
        values = np.zeros(len(dense.name))
        for structure in np.unique(source.name):  # the two files may hold different vertices of a surface
            theirs, ours = source.name == structure, dense.name == structure
            if structure in source.nvertices:
                n_source, n_dense = source.nvertices[structure], dense.nvertices.get(structure)
                if n_dense not in (None, n_source):
                    raise ScanError(
                        f"The scan has {n_dense} vertices in {structure}, atlas {atlas.name!r} has {n_source}: "
                        "expected one surface. Take the atlas on the scan's surface, or resample one of them."
                    )
                surface = np.zeros(source.nvertices[structure])
                surface[source.vertex[theirs]] = given[theirs]
                values[ours] = surface[dense.vertex[ours]]
            elif source.volume_shape == dense.volume_shape and np.allclose(source.affine, dense.affine):
                volume = np.zeros(source.volume_shape)
                volume[tuple(source.voxel[theirs].T)] = given[theirs]
                values[ours] = volume[tuple(dense.voxel[ours].T)]
    slots = _slots_of(atlas, values)
    where = np.flatnonzero(slots >= 0)
    # vertices that the scan does not hold count too
    expected = np.bincount(_slots_of(atlas, given) + 1, minlength=atlas.n_rois + 1)[1:].astype(float)
    return where, slots[where], expected


def _labels_img(atlas: Any) -> Any:
    if atlas.labels_img is None:
        raise ScanError(
            f"Atlas {atlas.name!r} reads images by a label image, which its JSON does not hold: load it with "
            "Atlas.from_json(path, labels_img=...) or `--labels-img`, or add it with atlas.with_labels_img(...)."
        )
    return atlas.labels_img


def _on_grid(labels_img: Any, image: Any) -> np.ndarray:
    """Values of a 3D label or mask image at the voxels of `image`: the nearest one, zero outside.

    Halfway between two voxels the higher one is taken, as scipy and with it nilearn do.
    """
    source = load_image(labels_img)
    values = volume_data(source)
    with as_scan_error(getattr(source, "get_filename", lambda: None)() or "The label or mask image"):
        to_source = np.linalg.inv(source.affine) @ image.affine
    shape = image.shape[:3]
    if values.shape == shape and np.allclose(to_source, np.eye(4)):
        return values
    found = np.zeros(shape, dtype=values.dtype)
    for x in range(shape[0]):  # a slice at a time: the positions of all voxels would take 50 bytes each
        y_z = np.indices(shape[1:]).reshape(2, -1)
        place = to_source[:3, :1] * x + to_source[:3, 1:3] @ y_z + to_source[:3, 3:]
        nearest = np.floor(np.round(place, 9) + 0.5).astype(int)
        inside = np.all((nearest >= 0) & (nearest < np.array(values.shape)[:, None]), axis=0)
        plane = np.zeros(inside.size, dtype=values.dtype)
        plane[inside] = values[tuple(nearest[:, inside])]
        found[x] = plane.reshape(shape[1:])
    return found


def _means(image: Any, where: np.ndarray, slots: np.ndarray, expected: np.ndarray) -> Extraction:
    """Means over ROIs, volume by volume, so that no more than one is in memory."""
    n_rois, n_times = len(expected), int(image.shape[0] if is_cifti(image) else image.shape[3])
    sums = np.zeros((n_times, n_rois))
    n_missing = np.zeros(n_times, dtype=int)  # voxels without a number in each volume
    blank = np.zeros(n_times, dtype=bool)
    incomplete = np.zeros(len(where), dtype=bool)  # voxels without a number in some volume
    still = np.arange(len(where))  # voxels that have not varied so far
    first: np.ndarray | None = None
    for time, values in enumerate(series_of(image, where)):
        sums[time] = np.bincount(slots, values, n_rois)
        if not np.isfinite(sums[time]).all():
            finite = np.isfinite(values)
            n_missing[time] = np.sum(~finite)
            if not finite.any():
                continue
            incomplete |= ~finite
            values = np.where(finite, values, 0)
            sums[time] = np.bincount(slots, values, n_rois)
        blank[time] = not sums[time].any() and not values.any()
        if not blank[time]:
            if first is None:
                first = values
            else:
                still = still[values[still] == first[still]]
    varies = np.ones(len(where), dtype=bool)
    varies[still] = False

    # A volume that lacks more voxels than the others do is censored, and says nothing about voxels.
    usual = int(np.median(n_missing)) if n_times else 0
    observed = (n_missing - usual <= MISSING_SHARE * len(where)) & (n_missing < max(len(where), 1))
    if not blank[observed].all():
        observed &= ~blank
    if not n_missing[observed].any():
        incomplete[:] = False
    elif not np.all(n_missing[observed] == incomplete.sum()):
        # Some voxels lack a number in some volumes only. The sums of the other volumes hold them: find these voxels
        # among the volumes that count, and sum again without them. This is rare, and worth two further passes.
        incomplete[:] = False
        for time, values in enumerate(series_of(image, where)):
            if observed[time]:
                incomplete |= ~np.isfinite(values)
        for time, values in enumerate(series_of(image, where[~incomplete])):
            if observed[time]:
                sums[time] = np.bincount(slots[~incomplete], values, n_rois)
    counts = np.bincount(slots[~incomplete], minlength=n_rois)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, sums / counts, np.nan)
    # A mean of scaled values is the scaled mean: slope and intercept are applied to a few means, not to every voxel.
    proxy = image.dataobj
    if hasattr(proxy, "get_unscaled"):
        means = means * float(proxy.slope) + float(proxy.inter)
    means[~observed] = np.nan
    covered = np.bincount(slots[varies & ~incomplete], minlength=n_rois) / np.maximum(expected, 1)
    return Extraction(means, observed, np.clip(covered, 0, 1).astype(np.float32))
