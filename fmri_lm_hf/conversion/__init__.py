"""Read checkpoints without running them, and convert those of the published fMRI-LM program (upstream)."""

from .checkpoint import read_checkpoint
from .pickle_data import CheckpointError, InertObject, UnsafeCheckpointError, to_plain
from .published_inputs import published_atlas
from .published_model import Conversion, convert_upstream

__all__ = [
    "CheckpointError",
    "Conversion",
    "InertObject",
    "UnsafeCheckpointError",
    "convert_upstream",
    "published_atlas",
    "read_checkpoint",
    "to_plain",
]
