"""Write ROI signals into a 4D NIfTI image, for demonstrations and tests: `write_nifti`."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np

from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from ..models.scan_images import sphere_voxels

# Extent of the MNI152 template in mm.
MNI_LOW, MNI_HIGH = np.array([-90.0, -126.0, -72.0]), np.array([90.0, 90.0, 108.0])
BASELINE, PERCENT = 1000.0, 10.0  # in an arbitrary scanner unit; one SD of a signal is 1 % of the baseline


def write_nifti(
    bold: np.ndarray,
    atlas: Atlas,
    path: str | os.PathLike,
    t_r: float,
    voxel_size: float = 4.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write ROI signals as spheres into a 4D image in MNI space.

    Parameters
    ----------
    bold : np.ndarray of shape (n_timepoints, n_rois)
        Signals in any unit, scaled to an SD of 1 % of a constant baseline.
    atlas : Atlas
        An atlas with coordinates. A voxel in several spheres gets the signal of the nearest centre.
    path : path
        `.nii` or `.nii.gz`.
    t_r : float
        TR in seconds, written into the header.
    voxel_size : float
        Edge length in mm.
    noise : float
        SD of white noise in every voxel of a sphere, in SDs of the signals.
    seed : int
        Seed of the noise.

    Returns
    -------
    Path
        The file.
    """
    bold = np.asarray(bold, dtype=np.float32)
    if atlas.coordinates is None or not isinstance(atlas.radius_mm, tuple):
        raise ScanError(f"Atlas {atlas.name!r} has no coordinates, expected one of spheres such as 'dosenbach_2010'.")
    if bold.ndim != 2 or bold.shape[1] != atlas.n_rois:
        raise ScanError(f"`bold` has shape {bold.shape}, expected (n_timepoints, {atlas.n_rois}).")
    affine = np.diag([voxel_size] * 3 + [1.0])
    affine[:3, 3] = MNI_LOW
    shape = tuple(np.floor((MNI_HIGH - MNI_LOW) / voxel_size).astype(int) + 1)
    # Spheres of neighbouring ROIs may overlap: each voxel keeps the ROI whose centre is nearest so far.
    owner, nearest = np.full(shape, -1), np.full(shape, np.inf)
    for roi, (centre, radius) in enumerate(zip(atlas.coordinates, atlas.radius_mm, strict=True)):
        voxels, distances = sphere_voxels(centre, radius, affine, shape)
        voxels = voxels[distances < nearest[tuple(voxels.T)]]
        where = tuple(voxels.T)
        # Not `distances`, whose last bits differ: voxels halfway between two centres would change their ROI, and with
        # them every image that was made before.
        nearest[where] = np.linalg.norm(voxels @ affine[:3, :3] + affine[:3, 3] - centre, axis=1)
        owner[where] = roi
    painted = owner >= 0
    scale = PERCENT / np.maximum(bold.std(), np.finfo(np.float32).tiny)
    signals = (bold - bold.mean(axis=0)).T[owner[painted]] * scale  # (n_voxels, n_timepoints)
    signals += noise * PERCENT * np.random.default_rng(seed).standard_normal(signals.shape, dtype=np.float32)
    volume = np.zeros((*shape, len(bold)), dtype=np.float32)
    volume[painted] = BASELINE + signals
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_data_dtype(np.int16)  # nibabel sets the scale factor: 16 bits are plenty and compress well
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((voxel_size,) * 3 + (t_r,))
    image.header["qform_code"] = image.header["sform_code"] = 4  # MNI152
    path = Path(path)
    # The temporary name keeps its extension, from which nibabel learns whether to compress.
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    nibabel.save(image, partial)
    os.replace(partial, path)
    return path
