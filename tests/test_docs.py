"""What README, CONTRIBUTING and guides name is there: links, files, modules, classes and options."""

from __future__ import annotations

import importlib
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "training" / "README.md",
    *sorted((ROOT / "fmri_lm_hf" / "bundled").glob("*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = ("fmri_lm_hf", "experiments", "benchmarks", "training", "tests", "plugins")
# Options of other programs that the pages show.
FOREIGN_OPTIONS = {
    "--config_file",
    "--nproc_per_node",
    "--no-deps",
    "--overrides",
    "--help",
    "--dry-run",
}
_CODE = re.compile(r"`([^`\n]+)`")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def words_of_sources() -> set[str]:
    """Every name and every word of a string in the sources."""
    words: set[str] = set()
    for path in (path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")):
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.NAME:
                    words.add(token.string)
                elif token.type == tokenize.STRING and not token.string.lstrip("rbf").startswith('"""'):
                    words.update(re.findall(r"--[\w-]+|\w+", token.string))
    return words


@cache
def training_options() -> set[str]:
    from transformers import TrainingArguments

    return {f"--{name}" for name in TrainingArguments.__dataclass_fields__}


def inline_code(page: Path) -> list[str]:
    return _CODE.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_and_files_exist(page):
    for code in inline_code(page):
        for dotted in re.findall(r"(?<![\w./-])(?:fmri_lm_hf|experiments)(?:\.[A-Za-z_]\w*)+", code):
            if not dotted.endswith((".yaml", ".jsonl", ".md")):
                assert resolves(dotted), f"{name_of(page)} names {dotted}"
        if re.fullmatch(r"[\w.*/-]+\.(py|yaml|toml|md)", code) and "/" in code:
            places = (ROOT, ROOT / "fmri_lm_hf", ROOT / "training", page.parent)
            assert any(list(place.glob(code)) for place in places), f"{name_of(page)} names the file {code}"
        elif re.fullmatch(r"(fmri_lm_hf|training|tests|docs|benchmarks|experiments|model_cards)/[\w/-]*", code):
            assert (ROOT / code).exists(), f"{name_of(page)} names the folder {code}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_classes_constants_and_options_exist(page):
    words = words_of_sources()
    for code in inline_code(page):
        for name in re.findall(r"\b(?:[A-Z][a-z0-9]+(?:[A-Z][A-Za-z0-9]*)+|[A-Z]{2,}(?:_[A-Z0-9]+)+)\b", code):
            assert name in words, f"{name_of(page)} names {name}"
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", code):
            known = option in words or option.split(".")[0] in words
            own = option.removeprefix("--").split(".")[0] in words
            assert known or own or option in FOREIGN_OPTIONS | training_options(), (
                f"{name_of(page)} names the option {option}"
            )
