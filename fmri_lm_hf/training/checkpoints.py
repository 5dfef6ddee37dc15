"""Which checkpoint an interrupted training goes on from: the last one that was written to its end."""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

__all__ = ["last_complete_checkpoint"]

logger = logging.get_logger(__name__)


def last_complete_checkpoint(folder: str | os.PathLike, world_size: int = 1) -> str | None:
    """The latest checkpoint in a training's output folder that nothing interrupted; None where there is none.

    Parameters
    ----------
    folder : path
    world_size : int, default=1
        Processes of the training: each has written its state of randomness.

    Notes
    -----
    A training that was killed while it saved leaves a folder without a whole `trainer_state.json`, which is written
    last. Such a folder is passed over, with a warning, and overwritten when the training comes to its step again.
    """
    found = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdecimal():
            found[int(step)] = path
    for _, path in sorted(found.items(), reverse=True):
        if _is_complete(path, world_size):
            return str(path)
        logger.warning(f"{path.name} was not written to its end and is passed over.")
    return None


def _is_complete(checkpoint: Path, world_size: int) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if world_size == 1 or not any(checkpoint.glob("rng_state*.pth")):  # none where only models are saved
        return True
    return all((checkpoint / f"rng_state_{rank}.pth").is_file() for rank in range(world_size))
