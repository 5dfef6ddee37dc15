"""From images to ROI signals: opening NIfTI and CIFTI files, and the mean signal of each ROI of an atlas.

nibabel and nilearn are asked for where an image is opened, so that ROI tables need neither.
"""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "ScanError",
    "extract_signals",
    "image_data",
    "is_cifti",
    "load_image",
    "require",
    "sphere_voxels",
    "volume_data",
]


class ScanError(ValueError):
    """A scan or an atlas that cannot be used. The message says what was found, expected, and what to do."""


def require(module: str) -> Any:
    """Import an optional `module`, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"This needs the package {package}: `pip install {package}`.") from error


def load_image(image: Any) -> Any:
    """Open a NIfTI or CIFTI file with nibabel (an image object is returned as it is)."""
    if not isinstance(image, (str, os.PathLike)):
        return image
    nibabel = require("nibabel")
    try:
        return nibabel.load(image)
    except FileNotFoundError as error:
        raise ScanError(f"The image {Path(image).name} does not exist: check the path {image}.") from error
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ScanError(_unreadable(image)) from error


def image_data(image: Any) -> np.ndarray:
    """The values of an image as float32; a truncated file ends in a `ScanError`."""
    proxy = image.dataobj
    try:
        if not hasattr(proxy, "get_unscaled"):
            return np.asanyarray(proxy, dtype=np.float32)
        # nibabel scales integers in float64, which takes ten times as long and twice the memory
        data = np.array(proxy.get_unscaled(), dtype=np.float32)
        data *= np.float32(proxy.slope)
        data += np.float32(proxy.inter)
        return data
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ScanError(_unreadable(image.get_filename() or "The image")) from error


def volume_data(image: Any) -> np.ndarray:
    """The values of a 3D image (also one that has a fourth axis of length one)."""
    if len(image.shape) < 3 or np.prod(image.shape[3:]) != 1:
        raise ScanError(f"The label or mask image has shape {tuple(image.shape)}: expected one 3D volume.")
    return image_data(image).reshape(image.shape[:3])


def _unreadable(path: Any) -> str:
    return (
        f"{Path(path).name} is not a readable image: it may be truncated or in another format. "
        "Copy or export it again."
    )


def is_cifti(image: Any) -> bool:
    """Whether a nibabel image is CIFTI (its header has axes rather than an affine)."""
    return hasattr(image.header, "get_axis")


def sphere_voxels(
    centre: Sequence[float], radius: float, affine: np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of an image within `radius` mm of `centre`, and the voxel that holds the centre.

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
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, np.asarray(shape[:3])).astype(int)
    if np.any(low >= high):
        return np.empty((0, 3), dtype=int), np.empty(0)
    voxels = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1).reshape(-1, 3)
    distances = np.linalg.norm((voxels - middle) @ affine[:3, :3].T, axis=1)
    inside = (distances <= radius) | np.all(voxels == np.round(middle), axis=1)
    return voxels[inside], distances[inside]


def extract_signals(atlas: Any, image: Any, mask_img: Any = None) -> np.ndarray:
    """Mean signal of every ROI of `atlas` in a 4D NIfTI image or a dense CIFTI series.

    Parameters
    ----------
    atlas : Atlas
    image : path or nibabel image
    mask_img : path or nibabel image, optional
        Only voxels of this mask are read (NIfTI).

    Returns
    -------
    np.ndarray of shape (n_timepoints, n_rois), float32
        An ROI without a voxel in the image is a column of NaN.
    """
    image = load_image(image)
    if is_cifti(image):
        signals = _cifti_signals(atlas, image)
    else:
        if len(image.shape) != 4:
            raise ScanError(
                f"The image is {len(image.shape)}D, of shape {tuple(image.shape)}: expected a 4D image "
                "(x, y, z, time). Give the BOLD series, not an anatomical or mean image."
            )
        data = image_data(image)
        if not np.isfinite(data).all():
            data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
        image = require("nibabel").Nifti1Image(data, image.affine)
        signals = (_label_signals if atlas.labels else _sphere_signals)(atlas, image, mask_img)
    if not np.any(np.nan_to_num(signals)):
        raise ScanError(
            f"No ROI of atlas {atlas.name!r} has signal in the image, so they do not overlap: expected a scan in "
            "the space of the atlas (usually MNI). Normalise the scan first, or use an atlas in its space."
        )
    return signals.astype(np.float32)


def _sphere_signals(atlas: Any, image: Any, mask_img: Any) -> np.ndarray:
    if atlas.coordinates is None:
        raise ScanError(
            f"Atlas {atlas.name!r} has neither coordinates nor labels, so it reads ROI tables but no images: "
            "use an atlas from Atlas.load or Atlas.from_labels_img."
        )
    nibabel, maskers = require("nibabel"), require("nilearn.maskers")
    shape, affine = image.shape[:3], image.affine
    inside = np.ones(shape, dtype=bool) if mask_img is None else _on_grid(mask_img, image) > 0
    # The masker searches lists of voxels: the union of the spheres instead of the whole volume keeps that short.
    union, found = np.zeros(shape, dtype=np.uint8), np.zeros(atlas.n_rois, dtype=bool)
    for roi, (centre, radius) in enumerate(zip(atlas.coordinates, atlas.radius_mm, strict=True)):
        voxels, _ = sphere_voxels(centre, radius, affine, shape)
        voxels = voxels[inside[tuple(voxels.T)]]
        union[tuple(voxels.T)] = 1
        found[roi] = len(voxels) > 0
    signals = np.full((image.shape[3], atlas.n_rois), np.nan)
    radii = np.asarray(atlas.radius_mm)
    for radius in np.unique(radii[found]):
        rois = np.flatnonzero(found & (radii == radius))
        masker = maskers.NiftiSpheresMasker(
            [atlas.coordinates[roi] for roi in rois],
            radius=float(radius),
            mask_img=nibabel.Nifti1Image(union, affine),
            allow_overlap=True,  # neighbouring spheres may share voxels: each ROI is a mean of its own
            standardize=None,
            reports=False,
        )
        signals[:, rois] = masker.fit_transform(image)
    return signals


def _label_signals(atlas: Any, image: Any, mask_img: Any) -> np.ndarray:
    labels_img = _labels_img(atlas)
    if is_cifti(labels_img):
        raise ScanError(
            f"Atlas {atlas.name!r} is a CIFTI label atlas, but the scan is a NIfTI volume: give the .dtseries.nii, "
            "or use an atlas with a NIfTI label image."
        )
    values = _on_grid(labels_img, image).astype(np.int32)
    if mask_img is not None:
        values = np.where(_on_grid(mask_img, image) > 0, values, 0)
    # Only labels that have voxels go to the masker, so that its columns are known: ascending values.
    present = np.intersect1d(values, np.asarray(atlas.labels))
    signals = np.full((image.shape[3], atlas.n_rois), np.nan)
    if present.size:
        values = np.where(np.isin(values, present), values, 0).astype(np.int32)
        masker = require("nilearn.maskers").NiftiLabelsMasker(
            require("nibabel").Nifti1Image(values, image.affine),
            resampling_target=None,
            standardize=None,
            reports=False,
        )
        columns = {label: column for column, label in enumerate(atlas.labels)}
        signals[:, [columns[int(label)] for label in present]] = masker.fit_transform(image)
    return signals


def _cifti_signals(atlas: Any, image: Any) -> np.ndarray:
    labels_img = _labels_img(atlas) if atlas.labels else None
    if labels_img is None or not is_cifti(labels_img):
        raise ScanError(
            f"The scan is a dense CIFTI series, which needs a CIFTI label atlas, and atlas {atlas.name!r} is none: "
            "make one with Atlas.from_labels_img('....dlabel.nii')."
        )
    dense, source = image.header.get_axis(1), labels_img.header.get_axis(1)
    given = image_data(labels_img).reshape(-1).astype(int)
    values = np.zeros(len(dense.name), dtype=int)
    for structure in np.unique(source.name):  # the two files may hold different vertices of a surface
        theirs, ours = source.name == structure, dense.name == structure
        if structure in source.nvertices:
            surface = np.zeros(source.nvertices[structure], dtype=int)
            surface[source.vertex[theirs]] = given[theirs]
            values[ours] = surface[dense.vertex[ours]]
        elif source.volume_shape == dense.volume_shape and np.allclose(source.affine, dense.affine):
            volume = np.zeros(source.volume_shape, dtype=int)
            volume[tuple(source.voxel[theirs].T)] = given[theirs]
            values[ours] = volume[tuple(dense.voxel[ours].T)]
    data = image_data(image)
    signals = np.full((len(data), atlas.n_rois), np.nan)
    for roi, label in enumerate(atlas.labels):
        members = values == label
        if members.any():
            signals[:, roi] = data[:, members].mean(axis=1)
    return signals


def _labels_img(atlas: Any) -> Any:
    if atlas.labels_img is None:
        raise ScanError(
            f"Atlas {atlas.name!r} reads images by a label image, which its JSON does not hold: load it with "
            "Atlas.from_json(path, labels_img=...), or add it with atlas.with_labels_img(...)."
        )
    return atlas.labels_img


def _on_grid(labels_img: Any, image: Any) -> np.ndarray:
    """Values of a 3D label or mask image at the voxels of `image`: the nearest one, zero outside."""
    source = load_image(labels_img)
    values = volume_data(source)
    shape, to_source = image.shape[:3], np.linalg.inv(source.affine) @ image.affine
    if values.shape == shape and np.allclose(to_source, np.eye(4)):
        return values
    nearest = to_source[:3, :3] @ np.indices(shape).reshape(3, -1) + to_source[:3, 3:]
    nearest = np.round(nearest).astype(int)
    inside = np.all((nearest >= 0) & (nearest < np.array(values.shape)[:, None]), axis=0)
    found = np.zeros(inside.size, dtype=values.dtype)
    found[inside] = values[tuple(nearest[:, inside])]
    return found.reshape(shape)
