"""README and guides as a list of steps: their shell commands and Python examples, in an order in which they can run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = [
    ROOT / "docs" / "guides" / f"{name}.md"
    for name in ("scans", "corpus", "training", "models", "evaluation", "hub", "published_weights")
]
PROGRAMS = ("fmri-lm", "python", "make", "pip", "hf", "accelerate", "git", "pytest")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(rf"`((?:\w+=\S+ )?(?:{'|'.join(PROGRAMS)})\s[^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, or a command inside its prose."""

    line: int  # of its first line of code, counted from 1
    language: str  # "bash", "python", or what is written behind the fence
    code: str
    page: str = "README.md"

    @property
    def commands(self) -> list[str]:
        """The shell commands of the block, one line each, without comments."""
        lines = re.sub(r"\\\n\s*", "", self.code).splitlines()
        commands = (line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#"))
        return [command for command in commands if not _PATTERN.search(command)]

    @property
    def makes(self) -> set[str]:
        """The folders that the commands of the block make."""
        made = set(re.findall(r"--out (\w+)(?:\s|$)", self.code)) if self.language == "bash" else set()
        return made | ({"demo_output"} if "make demo" in self.code else set())


# Words in capitals, or dots, stand for something else: such a command is a pattern and cannot run.
_PATTERN = re.compile(r"(?<![\w-])(MODEL|STAGE|RECIPE|NAME|DIR|FILE|N)(?![\w-])|\.\.\.(?!$)|\.\.\.$|://")


def read_pages() -> list[Block]:
    """The blocks of the README, then those of the guides."""
    return [
        replace(block, page=str(page.relative_to(ROOT)))
        for page in (README, *GUIDES)
        for block in read(page.read_text(encoding="utf-8"))
    ]


def read(text: str) -> list[Block]:
    """The fenced blocks, and the commands in the prose between them, in the order of the page."""
    blocks = []
    for match in _FENCED.finditer(text):
        blocks.append(Block(text.count("\n", 0, match.start()) + 2, match[1], match[2]))
    # lines stay where they are, so that a command in the prose knows its own
    prose = _FENCED.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in _INLINE.finditer(prose):
        command = " ".join(match[1].split())
        if re.fullmatch(r"fmri-lm [\w-]+( --[\w-]+)?", command):
            continue  # prose that names a command, not one to type
        blocks.append(Block(prose.count("\n", 0, match.start()) + 1, "inline", command))
    return sorted(blocks, key=lambda block: block.line)


def in_order(blocks: list[Block]) -> list[Block]:
    """The blocks as they stand, but each behind the blocks that make the folders that it reads."""
    makers = {name: block for block in reversed(blocks) for name in block.makes}
    waiting, ordered = list(blocks), []
    while waiting:
        ready = next((block for block in waiting if not (_reads(block, makers) & set(waiting) - {block})), None)
        assert ready is not None, f"these blocks wait for one another: {[block.line for block in waiting]}"
        waiting.remove(ready)
        ordered.append(ready)
    return ordered


def _reads(block: Block, makers: dict[str, Block]) -> set[Block]:
    return {
        maker
        for name, maker in makers.items()
        if name not in block.makes and re.search(rf"(?<![\w-])(?<!fmri-lm ){name}(?![\w.-])", block.code)
    }
