"""Experiments with the method: ablation studies and reports on tokens. Not a part of the installed package.

python -m experiments.ablation data --out study_data
python -m experiments.tokens report output/tokenizer --scans my_scans --out tokens
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence


def run_command(
    prog: str,
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
) -> None:
    """Run an experiment from the command line; bad input ends in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
