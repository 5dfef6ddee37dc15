"""Loading, saving and publishing of models and processors, with the training record of their weights.

The record (`training_info.json`, `results.json`) travels with the model that the weights were loaded into: as the
record of these weights, or, once they have changed, of those that training started from. This file travels with a
checkpoint; if the package is not installed, `push_to_hub` is that of transformers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_TRAINING, _RESULTS = "training_info.json", "results.json"
_NOT_RECORDED = "[not recorded]"
# Options of `from_pretrained` that decide which file is meant.
_LOCATION = ("revision", "cache_dir", "token", "local_files_only", "subfolder")


class PublishedOnHub:
    """Mixin of models and processors; the first base, so that its methods come before those of transformers."""

    _recorded_in: Path | None = None  # the folder that the weights came from

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Publish on the Hub, with code and card, in one commit.

        Parameters
        ----------
        repo_id : str
            `"organisation/name"`, or `"name"` for one of your own; created if it does not exist.
        **options
            As [`fmri_lm_hf.hub.push_to_hub`] takes them: `private`, `revision`, `create_pr`, `token`,
            `commit_message`, `commit_description`, `tags`, `license`, and for a model `processor`, which is published
            in the same commit.

        Returns
        -------
        result : PushResult
            The commit and the files that were uploaded.
        """
        try:
            from fmri_lm_hf.hub import push_to_hub
        except ImportError:
            return super().push_to_hub(repo_id, **options)  # type: ignore[misc]
        return push_to_hub(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Self:
        """Load as transformers does, and remember where the record of the weights is."""
        location = {name: kwargs[name] for name in _LOCATION if kwargs.get(name) is not None}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        if hasattr(model, "state_dict") and pretrained_model_name_or_path is not None:
            model._recorded_in = _folder_of_record(pretrained_model_name_or_path, location)
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save as transformers does, with the record of the weights."""
        record: dict[str, Any] = {}
        if hasattr(self, "state_dict") and kwargs.get("is_main_process", True):
            # before saving: it compares with files that are about to be replaced
            record = self._files_of_record(kwargs.get("state_dict"))
        saved = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        for name, content in record.items():
            path = Path(save_directory) / name
            if content is None:
                path.unlink(missing_ok=True)
            else:
                partial = path.with_name(f".{name}.{os.getpid()}.tmp")
                partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                os.replace(partial, path)
        return saved

    def record_of_weights(self, state_dict: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The training record of the weights; None if nothing is recorded about them or a part of them.

        If the weights have changed since they were loaded, the record is `{"training": "[not recorded]",
        "started_from": ...}`; a model that was joined from loaded parts names their records under `parts`.

        Parameters
        ----------
        state_dict : mapping, optional
            The weights, if the model itself does not hold all of them.
        """
        training = _read(self._recorded_in, _TRAINING)
        if training is not None:
            if self._has_recorded_weights(state_dict or self.state_dict()):  # type: ignore[attr-defined]
                return training
            started_from = {name: value for name, value in training.items() if name != "log_history"}
            return {"training": _NOT_RECORDED, "started_from": started_from}
        parts = {
            name: record
            for name, module in self.named_modules()  # type: ignore[attr-defined]
            if module is not self and isinstance(module, PublishedOnHub) and (record := module.record_of_weights())
        }
        return {"training": _NOT_RECORDED, "parts": parts} if parts else None

    def _files_of_record(self, state_dict: Mapping[str, Any] | None) -> dict[str, Any]:
        """Content of each file to write next to saved weights; None for a file that is about other weights."""
        training = self.record_of_weights(state_dict)
        if training is None:
            return {}
        results = _read(self._recorded_in, _RESULTS)
        is_same = "started_from" not in training and "parts" not in training
        return {_TRAINING: training, _RESULTS: results if is_same else None}

    def _has_recorded_weights(self, weights: Mapping[str, Any]) -> bool:
        """Whether these are the weights in the safetensors files that the model was loaded from."""
        import torch
        from safetensors import safe_open

        # By value: a model that was trained further has the same names and shapes. A checkpoint may hold more than the
        # model, such as the parts of a tokenizer that only training needs.
        beyond = getattr(self, "_keys_to_ignore_on_load_unexpected", None) or ()
        files = sorted(self._recorded_in.glob("model*.safetensors")) if self._recorded_in else []
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (safe_open is not iterable)
                    held = weights.get(name)
                    if held is None and any(re.search(pattern, name) for pattern in beyond):
                        continue
                    if held is None or held.is_meta or not torch.equal(tensors.get_tensor(name), held.cpu()):
                        return False
        return bool(files)


def _folder_of_record(name: Any, location: dict[str, Any]) -> Path | None:
    """The folder of a checkpoint, local or in the cache of the Hub's client, if it holds a training record."""
    from transformers.utils import cached_file

    file = cached_file(
        name,
        _TRAINING,
        **location,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if file is None else Path(file).parent


def _read(folder: Path | None, name: str) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
