"""Find in a question how many pairs it wants to be listed: "the three strongest", "top 5", "最强的五对"."""

# ruff: noqa: RUF001 - letters of other scripts are meant
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

DEFAULT_K = 3  # of "the strongest pairs"

# Number words that mean something else in another language ("to", "hat", "on", "due"), and what follows the number.
_DANISH = r"(?:st[æe]rke|svag|svake|sterke|h[øö]y|h[øö]j|lav|par|forbind|kobling|tett|tætt)"
_ITALIAN = r"(?:più|coppi|connession|legam|collegament|accoppiament|ret[ie]\b|meno)"
_SWEDISH = r"(?:starka|svaga|par|högst|lägst|koppling|förbind|nätverk)"
_UNSURE = {
    "to": _DANISH,
    "fire": _DANISH,
    "ni": rf"(?:{_DANISH}|{_SWEDISH})",
    "fem": rf"(?:{_DANISH}|{_SWEDISH})",
    "sex": _SWEDISH,
    "tio": _SWEDISH,
    "sei": _ITALIAN,
    "due": _ITALIAN,
    "on": r"(?:en\b|güçlü|zayıf|bağlantı|çift|tane|yüksek|düşük|ağ)",
    "hat": r"(?:leg|pár|kapcsolat|hálózat|darab|erős|gyenge)",
    "ten": r"(?!(?:skan|mózg|sposób|obraz|zapis|zestaw|wynik|opzichte|slotte|minste|eerste|aanzien|behoeve|gevolge))",
}
# What a number counts if it is not the pairs to list.
_PERCENT = re.compile(
    r"[ \u00a0]?(?:[%％]|per ?cent|prozent|pour ?cent|por ?ciento?|per ?cento|pro[ct]sent|procent|процент)", re.I
)
_OTHERS = re.compile(
    r"[ -](?:networks?|netzwerke?n?|réseaux|redes|reti|netwerken|nätverk\w*|nettverk|netværk|сет[ьией]\w*|hálózat\w*|"
    r"sieci|rois?|regions?|parcels?|nodes?|subjects?|people|years?|months?|weeks?|days?|hours?|minutes?|seconds?|min|"
    r"words?|sentences?|lines?|things|questions|hz|mm)\b(?!-|/| (?:pair|coupling|connection|link|tie|edge))"
    r"|-(?:net|roi|region|parcel)(?!\w*-)|(?:个|個)?(?:网络|網絡)(?!对|间|之间|連|连|耦)"
    r"|つの?ネットワーク(?!間|ペア|対|の?組)",
    re.I,
)
_TOP = re.compile(r"\b(?:top|best|strongest|weakest|highest|lowest)\s\Z", re.I)
_RANGE = re.compile(r"\s?(?:[-–~〜～至到]|to|bis|à)\s?\d|(?:位|名)(?:から|到)")  # "1 to 5" asks for five
_BEFORE = re.compile(
    r"(?:\b(?:all|table|tab\.?|figure|fig\.?|part|session|run|scan|visit|version|chapter|section|item|page|slide|box|"
    r"grade|aged?|area|component|day|question|nr\.?|no\.)|第|yüzde|['’]|\d[.,]|\.|[@#$€£])\s?\Z",
    re.I,
)
_ITEM = re.compile(r"(?:\A|\n)\s*\Z")  # "1. the strongest pairs": a number of a list
_HAN_DIGITS = "一二三四五六七八九十百两兩半"
_DIGITS = r"(?:(?<![a-z\u00c0-\u04ff\d])|(?<=\btop)|(?<=\bbest))\d{1,3}(?![a-z\u00c0-\u04ff\d]|[.,]\d)"
_ORDINALS = {"second": 2, "runner-up": 2, "runner up": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6}


def number_in(text: str, last: bool = False, default: int = DEFAULT_K) -> int:
    """Return the number of pairs that a question wants to be listed, in digits or in words of many languages.

    Parameters
    ----------
    text : str
        Names of networks, which may hold numbers, are better replaced by placeholders first.
    last : bool
        Whether to take the last number instead of the first, as for the second question in a message.
    default : int
        What to return if the question has no number.

    Returns
    -------
    int

    Examples
    --------
    >>> number_in("The five strongest pairs in the top 10%?"), number_in("List the strongest pairs.")
    (5, 3)
    """
    found = list(_numbers(text)) or _places(text)
    return found[-1 if last else 0] if found else default


def _places(text: str) -> list[int]:
    """Return the lowest of the places that an English question asks for ("first, second and third")."""
    places = re.findall(rf"\b({'|'.join(_ORDINALS)})\b", text.lower())
    return [max(_ORDINALS[place] for place in places)] if places else []


def _numbers(text: str) -> Iterator[int]:
    for match in _pattern().finditer(text):
        word, before, after = match[0].lower(), text[: match.start()], text[match.end() :]
        counts_others = _PERCENT.match(after) or (_OTHERS.match(after) and not _TOP.search(before))
        if _BEFORE.search(before) or counts_others:
            continue
        if word.isdecimal():
            is_item = _ITEM.search(before) and re.match(r"[.)]\s", after)
            if int(word) > 0 and not is_item and not _RANGE.match(after):
                yield int(word)
        elif word not in _UNSURE or re.match(rf"\s+{_UNSURE[word]}", after, re.I):
            yield _words()[re.sub(r"[\s-]+", " ", word)]


@cache
def _words() -> dict[str, int]:
    words = json.loads(files(__package__).joinpath("numbers.json").read_text(encoding="utf-8"))
    return {word: int(number) for number, forms in words.items() for word in forms}


@cache
def _pattern() -> re.Pattern[str]:
    """Compile what numbers look like; only Chinese and Japanese words may stand inside a run of letters."""
    groups: dict[str, list[str]] = {"inside": [], "korean": [], "spaced": []}
    for word in sorted(_words(), key=len, reverse=True):
        first = word[0] if not word[0].isdigit() else word[1]
        kind = "korean" if "가" <= first <= "힣" else "inside" if "\u3040" <= first <= "\u9fff" else "spaced"
        groups[kind].append(re.escape(word).replace(r"\ ", r"[\s-]+"))
    inside, korean, spaced = map("|".join, groups.values())
    return re.compile(
        rf"{_DIGITS}"
        rf"|(?<![{_HAN_DIGITS}])(?:{inside})(?![{_HAN_DIGITS}分])"
        rf"|(?:(?<![가-힣])|(?<=위))(?:{korean})(?=[\s개쌍가번,.?!]|\Z)"
        rf"|(?<![^\W\d_])(?<![\u0900-\u097f])(?:{spaced})(?![^\W\d_]|[\u0900-\u097f])",
        re.IGNORECASE,
    )
