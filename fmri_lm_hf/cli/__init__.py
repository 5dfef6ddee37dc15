"""The `fmri-lm` command. Each sub-command is a thin module of `fmri_lm_hf.cli` over the library.

This module imports no library, and the module of a sub-command only when that is called: `fmri-lm --help` is fast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ..__about__ import __version__
from ..registration import register_models

COMMANDS = {
    "ask": "ask questions about a scan in your own words",
    "describe": "describe a scan in sentences, each with the number that it states",
    "demo": "run the three training stages and an evaluation, on a simulated cohort or on your scan dataset",
    "scans": "turn derivative folders, ROI tables or public cohorts into a scan dataset",
    "atlas": "make an atlas from a label image and its table, and check that they fit",
    "corpus": "turn a scan dataset into a dataset of fMRI-text pairs",
    "train": "train a stage from a recipe",
    "evaluate": "score a model on test subjects, next to baselines and controls",
    "benchmark": "ask programs questions in people's own words about scans, and judge the answers by the scans",
    "push": "publish a model, processor, adapter or dataset folder on the Hub",
    "verify": "check a downloaded repository against the checksums that the Hub lists",
    "convert-upstream": "convert a checkpoint of the published fMRI-LM program, safely",
}

# Commands that load no model: they run without torch, which takes seconds to import. `ask` and `describe`
# load one with `--read model` alone, and register the models then.
WITHOUT_MODELS = ("ask", "describe", "scans", "atlas", "corpus", "push", "verify")

# Commands of the release before, which now lie outside the package: the module of each, and how to run it today.
MOVED = {
    "tokens": ("experiments.tokens.__main__", "python -m experiments.tokens"),
    "study": ("experiments.ablation", "python -m experiments.ablation"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fmri-lm`; return its exit code (2: bad input, with one sentence that explains what to do)."""
    if argv is None:
        argv = sys.argv[1:]
        warnings.formatwarning = _as_one_line
        for stream in (sys.stdout, sys.stderr):  # not every console has check marks and accents
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
    command = next((word for word in argv if word in COMMANDS or word in MOVED), "")
    try:
        args = build_parser(command).parse_args(argv)
    except ImportError as error:
        if "--debug" in argv:
            raise
        return _fail(command, error)
    try:
        if command not in WITHOUT_MODELS:
            register_models()
        return int(args.run(args) or 0)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has gone. Python flushes stdout once more at exit, and would
        # report the error again: let it flush into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if args.debug:
            raise
        print(f"fmri-lm {args.command}: stopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        if args.debug:
            raise
        return _fail(args.command, error)


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The argument parser, with the options of `command` filled in (of every command when None)."""
    parser = argparse.ArgumentParser(
        prog="fmri-lm",
        description="Language models that read fMRI scans: ask, describe, train, evaluate, publish.",
        epilog="`fmri-lm COMMAND --help` explains a command and shows examples. Start with: "
        'fmri-lm ask example "Which network pair is the weakest?"',
    )
    parser.add_argument("--version", action="version", version=f"fmri-lm {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if command in (None, name):
            _fill_in(subparser, importlib.import_module(f".{name.replace('-', '_')}", __package__))
    if command in MOVED:
        subparser = subparsers.add_parser(command, formatter_class=argparse.RawDescriptionHelpFormatter)
        _fill_in(subparser, _moved(command))
    return parser


def _fill_in(parser: argparse.ArgumentParser, module: Any) -> None:
    parser.description = (module.__doc__ or parser.description or "").strip()
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _moved(command: str) -> Any:
    from ..deprecation import warn_renamed

    module, successor = MOVED[command]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"This command is now `{successor}`, in a checkout of the repository: it is no part of the package."
        ) from error
    warn_renamed(f"fmri-lm {command}", successor)
    return found


def _fail(command: str, error: Exception) -> int:
    print(f"fmri-lm {command}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _as_one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"fmri-lm: {message}\n"
