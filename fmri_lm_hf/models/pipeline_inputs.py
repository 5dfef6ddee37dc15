"""Scans on their way through a pipeline: lists of them, and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def as_pipeline_input(scans: Any) -> Any:
    """One scan as it is, several as a list: `Pipeline` takes any other sequence for a single input."""
    has_batch_axis = getattr(scans, "ndim", 0) == 3 and not hasattr(scans, "dataobj")
    if not (has_batch_axis or isinstance(scans, (list, tuple))):
        return scans
    if not len(scans):
        raise ValueError("The list of scans is empty: give at least one.")
    return list(scans)


def join_inputs(
    inputs: Mapping[str, torch.Tensor] | list[Mapping[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """The inputs of one scan, or those of the scans of a batch joined along the first axis."""
    batch = inputs if isinstance(inputs, list) else [inputs]
    return {name: torch.cat([each[name] for each in batch]) for name in batch[0]}


__all__ = ["as_pipeline_input", "join_inputs"]
