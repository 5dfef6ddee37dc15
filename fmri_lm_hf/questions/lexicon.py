"""Find the networks of an atlas in what people write, in many languages, abbreviated, paraphrased or misspelt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .abbreviations import accepted, is_slight
from .atlas_networks import AtlasNetworks
from .names import JOINT, LETTER, Item, pieces
from .words import Token


@dataclass(frozen=True)
class Mention:
    """A network or region that a text names.

    Attributes
    ----------
    start, end : int
        Its place in the text.
    concept : str
        What is named, such as "default", "left visual" or "amygdala".
    networks : tuple of str
        Networks of the atlas that it may mean: one if that is sure, several if it is ambiguous, none if the atlas
        lacks it.
    near : tuple of str
        Networks of the atlas that only nearly fit, to be suggested.
    reason : str
        "" if it is sure; "ambiguous"; "part", if the atlas has only a larger network of which it is a part, such as a
        side; "absent".
    """

    start: int
    end: int
    concept: str
    networks: tuple[str, ...]
    near: tuple[str, ...] = ()
    reason: str = ""

    @property
    def network(self) -> str | None:
        """The network that is surely meant; None if there is none."""
        return self.networks[0] if len(self.networks) == 1 else None


@dataclass
class _Name:
    """A base item with the modifiers around it."""

    item: Item
    first: int
    last: int
    modifiers: dict[str, str] = field(default_factory=dict)  # class -> modifier


class Lexicon:
    """The names of the networks of an atlas.

    Parameters
    ----------
    network_names : sequence of str
        Names of the networks, in any usual spelling ("default", "7Networks_LH_Vis", "SalVentAttnA").
    extra : mapping of str to sequence of str, optional
        Further names of a network, such as ``{"default": ["idle net"]}``.

    Raises
    ------
    ValueError
        If there is no network, a network is named twice, or `extra` names a network that the atlas lacks.

    Examples
    --------
    >>> lexicon = Lexicon(["visual", "default", "control"])
    >>> [x.network for x in lexicon.find("How strong is the DMN with the seeing part?")]
    ['default', 'visual']
    >>> lexicon.delexicalise("DMN–FPN coupling?")[0]
    'n1 – n2 coupling?'
    """

    def __init__(self, network_names: Sequence[str], extra: Mapping[str, Sequence[str]] | None = None):
        self.network_names = tuple(network_names)
        _check(self.network_names, extra or {})
        self._atlas = AtlasNetworks(self.network_names, extra or {})

    def find(self, text: str) -> list[Mention]:
        """Return the networks and regions that a text names, in its order, without overlaps."""
        words = pieces(text, self._atlas.known, self._atlas.own)
        items = accepted(self._items(words), words)
        mentions = sorted(self._mentions(items, words), key=lambda x: x.start)
        return _merged(mentions, text)

    def delexicalise(self, text: str) -> tuple[str, list[Mention]]:
        """Replace each mention by a placeholder.

        Networks of the atlas become ``n1``, ``n2``, ... (the same network the same number, by first appearance),
        ambiguous names ``nq``, absent ones ``nx``, with single spaces around them. All else is unchanged.

        Returns
        -------
        str
            The text with placeholders.
        list of Mention
            As `find` returns them.
        """
        mentions, numbers, parts, position = self.find(text), {}, [], 0  # type: ignore[var-annotated]
        for mention in mentions:
            word = "nq" if mention.networks else "nx"
            if mention.network is not None:
                word = f"n{numbers.setdefault(mention.network, len(numbers) + 1)}"
            parts += [text[position : mention.start].rstrip(" "), word]
            position = mention.end
            while text[position : position + 1] == " ":
                position += 1
        parts.append(text[position:])
        return " ".join(x for x in parts if x), mentions

    # ----- words to items -----

    def _items(self, words: Sequence[Token]) -> list[Item]:
        """Divide words into the longest forms; the words between them are items without entries."""
        items: list[Item] = []
        index = 0
        while index < len(words):
            item = self._atlas.longest(words, index, len(words))
            items.append(item)
            index = item.last
        return items

    # ----- items to names -----

    def _mentions(self, items: list[Item], words: Sequence[Token]) -> Iterator[Mention]:
        names = self._names(items, words)
        claimed = {i for name in names for i in range(name.first, name.last)}
        for name in names:
            yield from self._several(name, claimed, items, words) or self._read(name, items, words)
        for index, item in enumerate(items):
            if index not in claimed and (item.of("modifier") or len(words[item.first].word) == 1):
                mentions = list(self._coordinated(index, names, items, words)) or list(self._alone(item, words))
                yield from mentions

    def _several(self, name: _Name, claimed: set[int], items: list[Item], words: Sequence[Token]) -> list[Mention]:
        """Read "the visual networks, left and right": one mention for each modifier that follows."""
        if len(self._atlas.resolve(name.item, name.modifiers).networks) < 2:
            return []
        found: list[Mention] = []
        index = name.last
        while index < len(items) and index < name.last + 8:
            item = items[index]
            modifier = None if index in claimed else self._modifier(item, words, 1, " ")
            if modifier is None and (index in claimed or not item.of("conjunction", "linker", "one", "tail")):
                break
            if modifier is not None:
                modifiers = {**name.modifiers, self._atlas.classes[modifier]: modifier}
                reading = self._atlas.resolve(name.item, modifiers)
                if not reading.sure:
                    break
                found.append(Mention(words[item.first].start, words[item.last - 1].end, *reading))
                claimed.add(index)
            index += 1
        if found:
            found[0] = replace(found[0], start=words[items[name.first].first].start)
        return found

    def _names(self, items: list[Item], words: Sequence[Token]) -> list[_Name]:
        """Gather each base with modifiers and nouns on both sides."""
        names: list[_Name] = []
        taken = 0
        for index, item in enumerate(items):
            if index < taken or not self._is_name(items, index, words):
                continue
            name = _Name(item, index, index + 1)
            self._reach(name, items, words, -1, taken)
            self._reach(name, items, words, 1, len(items))
            names.append(name)
            taken = name.last
        return names

    def _is_name(self, items: list[Item], index: int, words: Sequence[Token]) -> bool:
        """Whether an item is a base: not the "cortex" of "visual cortex"."""
        item = items[index]
        if not item.base:
            return False
        return not (item.of("head") and index + 1 < len(items) and self._nouns(items, index, 1, words))

    def _nouns(self, items: list[Item], index: int, step: int, words: Sequence[Token]) -> bool:
        """Whether a noun such as "cortex" belongs to the name beside it."""
        other = index + step
        while 0 <= other < len(items) and items[other].of("linker", "modifier") and not items[other].base:
            if not JOINT.match(words[items[max(other, other - step)].first].gap):
                return False
            other += step
        if not (0 <= other < len(items)) or not items[other].base:
            return False
        if not JOINT.match(words[items[max(other, other - step)].first].gap):
            return False
        return not (self._atlas.resolve(items[other], {}).sure and self._atlas.resolve(items[index], {}).networks)

    def _reach(self, name: _Name, items: list[Item], words: Sequence[Token], step: int, limit: int) -> None:
        """Extend a name over modifiers and nouns on one side; small words count only if a modifier follows."""
        index, seen = (name.first - 1, 0) if step < 0 else (name.last, 0)
        while (index >= limit) if step < 0 else (index < limit):
            item = items[index]
            gap = words[items[index + 1 if step < 0 else index].first].gap
            if not JOINT.match(gap):
                return
            modifier = self._modifier(item, words, step, gap)
            if modifier is not None and self._atlas.suits(modifier, name.item):
                kind = self._atlas.classes[modifier]
                if kind in name.modifiers or (step > 0 and kind == "extra"):
                    return
                if step > 0 and kind != "letter" and self._belongs_next(items, index, words):
                    return
                name.modifiers[kind] = modifier
                self._extend(name, index, step)
                seen = 0
            elif (step > 0 and item.of("tail") and (not item.base or self._nouns(items, index, -1, words))) or (
                step < 0 and item.of("head")
            ):
                if seen and step > 0:
                    return
                self._extend(name, index, step)
            elif step < 0 and words[item.first].word in ("of", "the", "on", "der", "die", "den", "dem"):
                return
            elif item.of("linker") and seen < 2:
                seen += 1
            else:
                return
            index += step

    @staticmethod
    def _extend(name: _Name, index: int, step: int) -> None:
        if step < 0:
            name.first = index
        else:
            name.last = index + 1

    def _belongs_next(self, items: list[Item], index: int, words: Sequence[Token]) -> bool:
        """Whether the modifier is followed by a base of its own."""
        other = index + 1
        while other < len(items) and items[other].of("modifier", "head") and not items[other].base:
            other += 1
        return other < len(items) and items[other].base and bool(JOINT.match(words[items[other].first].gap))

    def _modifier(self, item: Item, words: Sequence[Token], step: int, gap: str) -> str | None:
        found = [x.value for x in item.entries if x.kind == "modifier"]
        if found:
            return found[0]
        written = words[item.first].written
        glued = gap in ("", "-", "_", ".") or (gap == " " and self._atlas.has("left"))
        if step < 0 and written in ("L", "R", "l", "r") and (glued or (written.isupper() and gap == " ")):
            return "left" if written in "Ll" else "right"
        return self._letter(item, words) if step > 0 else None

    def _letter(self, item: Item, words: Sequence[Token]) -> str | None:
        """Return the letter that tells subnetworks apart (Default A), if the atlas has such."""
        token = words[item.first]
        if item.last - item.first > 1 or not LETTER.fullmatch(token.written) or not self._atlas.has(*"abcde"):
            return None
        return token.word if token.written.isupper() or token.gap in ("", "-", "_", " ") else None

    def _coordinated(
        self, index: int, names: list[_Name], items: list[Item], words: Sequence[Token]
    ) -> Iterator[Mention]:
        """Read "left" in "left and right visual", or "B" in "closer to Default A than to B"."""
        modifier = self._modifier(items[index], words, 1, " ") or self._modifier(items[index], words, -1, "-")
        if modifier is None:
            return
        kind = self._atlas.classes[modifier]
        one = index + 1 < len(items) and items[index + 1].of("one", "tail")
        for name in sorted(names, key=lambda x: (x.first < index, abs(x.first - index))):
            behind = name.first < index
            between = items[name.last : index] if behind else items[index + 1 : name.first]
            close = all(x.of("conjunction", "modifier", "linker", "tail", "one") for x in between) and len(between) < 6
            if not (close or (behind and one and len(between) < 14)):
                continue
            if kind not in name.modifiers and kind not in self._atlas.own_classes(name.item):
                continue
            if kind == "letter" and not words[items[index].first].written.isupper():
                continue
            reading = self._atlas.resolve(name.item, {**name.modifiers, kind: modifier})
            if reading.sure:
                last = items[index + 1] if one and behind else items[index]
                yield Mention(words[items[index].first].start, words[last.last - 1].end, *reading)
            return

    def _alone(self, item: Item, words: Sequence[Token]) -> Iterator[Mention]:
        """Read "hand" where only one network of the atlas is that of the hand."""
        modifier = next((x.value for x in item.entries if x.kind == "modifier"), "")
        token = words[item.first]
        if self._atlas.classes.get(modifier) == "body" and (token.dense or len(token.word) > 2):
            reading = self._atlas.with_body(modifier)
            if reading:
                yield Mention(token.start, words[item.last - 1].end, *reading)

    # ----- names to networks -----

    def _read(self, name: _Name, items: list[Item], words: Sequence[Token]) -> Iterator[Mention]:
        start, end = words[items[name.first].first].start, words[items[name.last - 1].last - 1].end
        reading = self._atlas.resolve(name.item, name.modifiers)
        parts = [] if reading.sure else self._parts(name.item, words)
        if parts:
            yield from parts
            return
        if name.modifiers.get("sides") == "both":
            sides = [self._atlas.resolve(name.item, {"side": x}) for x in ("left", "right")]
            if all(x.sure for x in sides):
                middle = words[items[name.first].first].end
                yield Mention(start, middle, *sides[0])
                yield Mention(middle, end, *sides[1])
                return
        if reading.networks or reading.reason == "part" or not is_slight(name.item, words):
            yield Mention(start, end, *reading)

    def _parts(self, item: Item, words: Sequence[Token]) -> list[Mention]:
        """Read a name of several words that the atlas lacks as the networks that it joins (fronto-parietal)."""
        if item.last - item.first < 2:
            return []
        found: list[Mention] = []
        index = item.first
        while index < item.last:
            inner = self._atlas.longest(words, index, item.last if index > item.first else item.last - 1)
            if not inner.base:
                return []
            reading = self._atlas.resolve(inner, {})
            if not reading.sure:
                return []
            found.append(Mention(words[inner.first].start, words[inner.last - 1].end, *reading))
            index = inner.last
        return found if len({x.networks for x in found}) > 1 else []


_ADJOINED = re.compile(r"\s*[/\-\u2013&+]?\s*\Z|\s+(?:and|und|et|y|e|och|og|en|i|és|ve|и)\s+\Z")


def _merged(mentions: list[Mention], text: str) -> list[Mention]:
    """Drop overlaps, and join two names of the same network beside each other (salience/ventral attention)."""
    merged: list[Mention] = []
    for mention in mentions:
        last = merged[-1] if merged else None
        if last and mention.start < last.end:
            continue
        joined = last and mention.networks and mention.networks == last.networks and mention.concept != last.concept
        if last and joined and _ADJOINED.match(text[last.end : mention.start]):
            merged[-1] = replace(last, end=mention.end)
        else:
            merged.append(mention)
    return _without_doubles(merged, text)


_BESIDE = re.compile(r"[\s\-,(]*(?:(?:of|the|der|des|de|la|del|della|da|do|s)\s+)*\Z")


def _without_doubles(mentions: list[Mention], text: str) -> list[Mention]:
    """Drop ambiguous mentions that another makes plain: "the hand network of the motor system"."""
    sure = {x.network for x in mentions if x.network}
    kept: list[Mention] = []
    for index, mention in enumerate(mentions):
        if len(mention.networks) > 1:
            following = mentions[index + 1] if index + 1 < len(mentions) else None
            if sure.issuperset(mention.networks):
                continue
            if (
                following
                and following.network in mention.networks
                and _BESIDE.match(text[mention.end : following.start])
            ):
                mentions[index + 1] = replace(following, start=mention.start)
                continue
            if kept and kept[-1].network in mention.networks and _BESIDE.match(text[kept[-1].end : mention.start]):
                kept[-1] = replace(kept[-1], end=mention.end)
                continue
        kept.append(mention)
    return kept


def _check(names: tuple[str, ...], extra: Mapping[str, Sequence[str]]) -> None:
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"The networks are {list(names)}; expected one name or more, each once. Name each network once."
        )
    unknown = sorted(set(extra) - set(names))
    if unknown:
        raise ValueError(
            f"`extra` names {', '.join(unknown)}; expected networks of the atlas ({', '.join(names)}). "
            "Correct the names that `extra` maps from."
        )
