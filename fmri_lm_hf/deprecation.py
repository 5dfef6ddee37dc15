"""Old names of the release before: each still works, with a warning that states the new name."""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def warn_renamed(old: str, new: str) -> None:
    """Warn in one sentence that a name has changed."""
    warnings.warn(f"`{old}` is now `{new}`; the old name works until the next release.", FutureWarning, stacklevel=3)


def renamed_attributes(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that finds renamed attributes.

    Parameters
    ----------
    module : str
        `__name__` of the module.
    names : mapping of str to str
        Old name -> new name in the same module.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(name, names[name])
        return getattr(sys.modules[module], names[name])

    return find


def renamed_keywords(**names: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let a function take keywords of the release before: old name = new name.

    Examples
    --------
    >>> @renamed_keywords(thing="artifact")
    ... def push_to_hub(artifact, repo_id): ...
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def with_new_names(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            for old in names.keys() & kwargs.keys():
                warn_renamed(old, names[old])
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return with_new_names

    return decorate


class RenamedOption(argparse.Action):
    """Action of an old option: sets the new one, with a warning.

    Examples
    --------
    >>> _ = parser.add_argument("--predictors", nargs="+")
    >>> _ = parser.add_argument("--readers", action=RenamedOption, dest="predictors", nargs="+", help=argparse.SUPPRESS)
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        warn_renamed(str(option), f"--{self.dest.replace('_', '-')}")
        setattr(namespace, self.dest, values)
