"""How leaks are put into sentences, and how prompts are compared word by word."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

__all__ = ["capital", "count", "some", "words"]

MOST_NAMED = 5  # of what was found, in a sentence


def words(text: Any) -> str:
    """A text as small words with single spaces between."""
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?", str(text).casefold()))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def count(found: Collection[Any], one: str, many: str | None = None) -> str:
    return f"{len(found)} {one if len(found) == 1 else many or one + 's'}"


def some(found: Collection[str]) -> str:
    """The first of what was found, and how many more there are."""
    listed = list(found)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more
