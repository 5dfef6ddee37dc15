"""Checkpoints of other programs, read safely and turned into those of this package."""

from .checkpoint import read_checkpoint
from .pickle_data import CheckpointError, InertObject, UnsafeCheckpointError, to_plain

__all__ = ["CheckpointError", "InertObject", "UnsafeCheckpointError", "read_checkpoint", "to_plain"]
