"""The `fmri-lm` command. Each sub-command is a thin module of `fmri_lm_hf.cli` over the library.

A sub-command's module is imported only when it is called, so that no command waits for another's libraries.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ..__about__ import __version__
from ..registration import register

COMMANDS = {
    "demo": "the three training stages and a prediction, on a simulated cohort or on your scan dataset",
    "scans": "turn derivative folders, ROI tables or public cohorts into a scan dataset",
    "atlas": "make an atlas from a label image and its table, and check that they fit",
    "corpus": "turn a scan dataset into a dataset of fMRI-text pairs",
    "train": "train one of the stages from a recipe",
    "tokens": "report on the tokens of a tokenizer: what they keep of scans, and what can be read from them",
    "evaluate": "judge a model on test subjects, with baselines and controls beside every score",
    "study": "ask what a part of the method is worth: the demo's stages with one thing changed at a time",
    "convert-upstream": "turn a checkpoint of the published fMRI-LM program into one of this package, safely",
    "push": "publish a model, processor, adapter or dataset folder on the Hub",
    "verify": "check a downloaded repository against the checksums that the Hub lists",
}

MODULES = {"tokens": "experiments.tokens.__main__", "study": "experiments.ablation"}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The argument parser, with the options of `command` filled in (of every command when None)."""
    parser = argparse.ArgumentParser(
        prog="fmri-lm",
        description="Language models that read fMRI scans: prepare data, train, predict, publish.",
        epilog="`fmri-lm COMMAND --help` explains a command and shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"fmri-lm {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if command in (None, name):
            module = importlib.import_module(MODULES.get(name, f".{name.replace('-', '_')}"), __package__)
            subparser.description = (module.__doc__ or summary).strip()
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fmri-lm`; return its exit code (2: bad input, with one sentence that says what to do)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in argv if word in COMMANDS), "")
    args = build_parser(command).parse_args(argv)
    register()
    try:
        return int(args.run(args) or 0)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
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
        print(f"fmri-lm {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
