"""What pyproject.toml declares is what the package needs, and what its page on a package index can show."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fmri_lm_hf

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fmri_lm_hf"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RELATIVE_LINK = re.compile(r"\]\((?!https?:|#)[^)]*\)|(?:src|href)=[\"'](?!https?:|#)")


def names_of(requirements: list[str]) -> set[str]:
    """Distributions of requirements, as they are compared: lower case, with hyphens."""
    return {_normal(re.split(r"[\s\[<>=!~;]", each)[0]) for each in requirements}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports_of(text: str) -> tuple[set[str], set[str]]:
    """Top-level names that a module imports when it is imported, and those that its functions import."""
    tree = _WithoutTyping().visit(ast.parse(text))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    eager: set[str] = set()
    lazy: set[str] = set()
    for node in ast.walk(tree):
        found = lazy if id(node) in inside else eager
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require" and node.args:
            found |= {node.args[0].value.partition(".")[0]} if isinstance(node.args[0], ast.Constant) else set()
    return eager, lazy


class _WithoutTyping(ast.NodeTransformer):
    """Leaves out what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if getattr(node.test, "id", "") == "TYPE_CHECKING" else self.generic_visit(node)


def imported() -> tuple[set[str], set[str]]:
    """Distributions that the package imports at once, and all that it ever imports."""
    distributions = importlib.metadata.packages_distributions()
    eager, lazy = set(), set()
    for path in PACKAGE.rglob("*.py"):
        at_once, later = imports_of(path.read_text(encoding="utf-8"))
        eager |= at_once
        lazy |= later

    def of(modules: set[str]) -> set[str]:
        others = modules - set(sys.stdlib_module_names) - {"fmri_lm_hf"}
        return {_normal(distributions.get(name, [name])[0]) for name in others}

    return of(eager), of(eager | lazy)


def test_what_is_imported_is_declared_and_the_other_way_round():
    declared = names_of(PROJECT["project"]["dependencies"])
    extras = names_of([each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra])
    eager, ever = imported()
    assert eager - declared == set(), "a module imports what no dependency brings"
    assert ever - declared - extras == set(), "a function imports what no dependency and no extra brings"
    assert declared - ever == set(), "declared, but imported nowhere"


def test_extras_are_imported_where_they_are_used_alone():
    eager, _ = imported()
    assert not {"captum", "crepes", "distributed", "brainmarks"} & eager


def test_what_an_extra_brings_is_asked_for(monkeypatch):
    from fmri_lm_hf.evaluation.attribution import integrated_gradients
    from fmri_lm_hf.evaluation.features import Unavailable

    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(Unavailable, match=re.escape("pip install 'fmri-lm-hf[evaluation]'")):
        integrated_gradients(None, None, {}, [], "", [])
    assert {"captum", "crepes"} == names_of(PROJECT["project"]["optional-dependencies"]["evaluation"])


def test_constraints_hold_every_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    held = names_of([line for line in lines if line and not line.startswith("#")])
    assert names_of(PROJECT["project"]["dependencies"]) <= held


def test_the_readme_has_no_relative_link_on_the_package_index():
    """The substitutions of pyproject.toml, as the build applies them."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / "README.md").read_text(encoding="utf-8") + "\n[a](docs/x.md) ![b](docs/x.png) [c](#c)\n"
    for each in hook["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    assert RELATIVE_LINK.findall(text) == []
    home = PROJECT["project"]["urls"]["Repository"]
    assert text.endswith(f"[a]({home}/blob/main/docs/x.md) ![b]({home}/raw/main/docs/x.png) [c](#c)\n")


def test_only_pyproject_names_the_home_of_the_project():
    """A card in somebody's repository outlives the address of ours."""
    home = PROJECT["project"]["urls"]["Repository"].removeprefix("https://")
    pages = [
        path for end in ("md", "jinja", "py", "cff") for path in ROOT.rglob(f"*.{end}") if ".venv" not in path.parts
    ]
    assert [str(path) for path in pages if home in path.read_text(encoding="utf-8", errors="ignore")] == []


def test_every_tested_python_has_its_classifier():
    declared = PROJECT["project"]["classifiers"]
    versions = [each.rpartition(" ")[2] for each in declared if re.search(r":: 3\.\d+$", each)]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert {"3.10", "3.13"} <= set(re.findall(r'"(3\.\d+)"', workflow))


def test_the_counts_are_printed():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "counts.py")], capture_output=True, text=True, check=True
    )
    counts = {line[:30].strip(): line[30:].strip() for line in done.stdout.splitlines()}
    assert int(counts["modules"]) == len(list(PACKAGE.rglob("*.py")))
    assert 5_000 < int(counts["code lines"].replace(",", "")) < 40_000
    assert int(counts["public names"]) >= len(fmri_lm_hf.__all__)
    assert counts["lines that are comments"].endswith("%")


@pytest.mark.parametrize(
    "text, expected",
    [
        ('"""Doc\nstring."""\n\nx = 1  # why\n', 1),
        ("# note\n\nx = (\n    1,\n)\n", 3),
        ('def f():\n    """Doc."""\n    return """a\nb"""\n', 3),
    ],
)
def test_code_lines_are_counted_without_docstrings_comments_and_blanks(monkeypatch, text, expected):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from counts import code_lines

    assert code_lines(text) == expected
