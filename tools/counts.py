"""Print how large the package is, so that growth is seen.

    python tools/counts.py

Code lines are lines with code: no docstrings, comments or blank lines.
"""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fmri_lm_hf"
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def main() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    lines = [text.count("\n") for text in texts]
    functions = [length for text in texts for length in function_lengths(text)]
    comments = sum(line.lstrip().startswith("#") for text in texts for line in text.splitlines())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, count in {
        "modules": f"{len(files)}",
        "code lines": f"{sum(map(code_lines, texts)):,}",
        "lines of a file, median": f"{statistics.median(lines):.0f}",
        "lines of a function, median": f"{statistics.median(functions):.0f}",
        "lines that are comments": f"{comments / sum(lines):.1%}",
        "public names": f"{sum(n_public_names(text) for text in texts)}",
        "README, lines / words": f"{len(readme.splitlines())} / {len(readme.split()):,}",
    }.items():
        print(f"{name:<30}{count:>12}")


def code_lines(text: str) -> int:
    """Number of lines of a module that hold code."""
    lines: set[int] = set()
    # a token may span lines, such as a string; a docstring is one, too, and is taken out again
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def function_lengths(text: str) -> list[int]:
    """Lines of each function and method of a module, docstring included."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def n_public_names(text: str) -> int:
    """Number of names in the `__all__` of a module."""
    return sum(
        len(node.value.elts)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.List)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["__all__"]
    )


if __name__ == "__main__":
    main()
