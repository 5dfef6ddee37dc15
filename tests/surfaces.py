"""GIFTI files of one hemisphere, as nibabel writes them."""

from __future__ import annotations

import nibabel
import numpy as np
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable, GiftiMetaData


def write_series(path, values, meta=(), intent="NIFTI_INTENT_TIME_SERIES", as_table=False):
    """`values` (n_timepoints, n_vertices): an array a time point, or one table."""
    rows = [values.T] if as_table else values
    arrays = [
        GiftiDataArray(np.float32(row), intent=intent, datatype="NIFTI_TYPE_FLOAT32", meta=GiftiMetaData(meta))
        for row in rows
    ]
    nibabel.save(GiftiImage(darrays=arrays), path)


def write_labels(path, keys, names, n_maps=1):
    table = GiftiLabelTable()
    for key, name in {0: "Background+FreeSurfer_Defined_Medial_Wall", **names}.items():
        label = GiftiLabel(key, 1, 1, 1, 1)
        label.label = name
        table.labels.append(label)
    array = GiftiDataArray(np.int32(keys), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
    nibabel.save(GiftiImage(darrays=[array] * n_maps, labeltable=table), path)
