"""A configuration file holds numbers and names; one that would load foreign code or kernels is refused.

This file uses the standard library alone: a checkpoint carries it beside its configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["check_config_is_inert"]

# Attention that is part of transformers and torch. Anything else, such as "org/kernel", is compiled code fetched
# from the Hub when the model is built; whoever wants it can ask for it with `attn_implementation=` at loading.
_BUILT_IN_ATTENTION = ("eager", "sdpa", "flex_attention")
_BUILT_IN_EXPERTS = ("eager", "grouped_mm", "batched_mm")
# Quantization that an installed library does; other methods fetch kernels from the Hub.
_LIBRARY_QUANTIZATION = ("bitsandbytes",)

_IMPLEMENTATIONS = {
    "_attn_implementation": _BUILT_IN_ATTENTION,
    "_attn_implementation_internal": _BUILT_IN_ATTENTION,
    "attn_implementation": _BUILT_IN_ATTENTION,
    "_experts_implementation": _BUILT_IN_EXPERTS,
    "experts_implementation": _BUILT_IN_EXPERTS,
}
_SWITCHES = ("use_kernels", "kernel_config", "trust_remote_code", "custom_generate", "allow_all_kernels")


def check_config_is_inert(config: Mapping[str, Any], name: str = "config.json") -> None:
    """Refuse a configuration that would load foreign kernels or code when a model is built from it.

    Parameters
    ----------
    config : mapping
        A configuration as read from JSON; nested configurations may be dicts or configuration objects.
    name : str, default="config.json"
        What to call it in the error.

    Raises
    ------
    ValueError
        For `auto_map` or `custom_pipelines` in a nested configuration, an attention or experts implementation
        that is not part of transformers, kernels, or a quantization method that fetches kernels. The message
        names the key, the value and what to do.
    """
    _check(config, name, is_top=True)


def _check(config: Mapping[str, Any], where: str, is_top: bool) -> None:
    for key, value in config.items():
        place = f"{where}: `{key}`"
        if key in _IMPLEMENTATIONS:
            for implementation in value.values() if isinstance(value, Mapping) else (value,):
                if implementation is not None and implementation not in _IMPLEMENTATIONS[key]:
                    raise _refusal(place, implementation, f"one of {', '.join(_IMPLEMENTATIONS[key])}")
        elif key in _SWITCHES and value:
            raise _refusal(place, value, "no such key")
        elif key in ("auto_map", "custom_pipelines"):
            # At the top these name the files of the checkpoint itself, which run with `trust_remote_code=True` only.
            if value and not is_top:
                raise _refusal(place, value, "none in a nested configuration")
        elif key == "quantization_config" and value:
            method = value.get("quant_method") if isinstance(value, Mapping) else value
            if method not in _LIBRARY_QUANTIZATION:
                raise _refusal(place, method, f"one of {', '.join(_LIBRARY_QUANTIZATION)}")
        elif isinstance(value, Mapping) or hasattr(value, "to_dict"):
            nested = value if isinstance(value, Mapping) else value.to_dict()
            _check(nested, f"{where}: {key}", is_top=False)
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, Mapping):
                    _check(item, f"{where}: {key}", is_top=False)


def _refusal(place: str, found: Any, expected: str) -> ValueError:
    return ValueError(
        f"{place} is {found!r}, which would load foreign code or kernels; expected {expected}. "
        "Remove it from the file if you trust the rest, or load from another repository."
    )
