"""Hashes of what was computed from and with: values, and the weights of models."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["content_hash", "weights_hash"]


def content_hash(*parts: Any) -> str:
    """Hash of JSON values, bytes and arrays, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def weights_hash(model: torch.nn.Module) -> str:
    """Hash of a model's parameters and buffers and, where it has one, its configuration."""
    import torch

    config = getattr(model, "config", None)
    parts: list[Any] = [] if config is None else [config.to_diff_dict()]
    for name, values in sorted(model.state_dict().items()):
        flat = values.detach().cpu().reshape(-1).contiguous()  # bytes, since numpy knows no bfloat16
        parts += [name, str(values.dtype), list(values.shape), flat.view(torch.uint8).numpy()]
    return content_hash(*parts)
