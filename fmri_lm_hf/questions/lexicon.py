"""Find the networks of an atlas in what people write, in many languages, abbreviated, paraphrased or misspelt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .names import JOINT, Entry, Forms, Item, concept_of, data, known_forms, pieces, split_list
from .words import Token

_LETTER = re.compile("[A-E]|[a-e]")
_PARCELLATION = re.compile(r"(?i)^(7|17)networks_")


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
        self._known = known_forms()
        self._classes = {name: x["class"] for name, x in data()["modifiers"].items()}
        self._own = Forms().close()
        self._keys: dict[str, dict[str, list[frozenset[str]]]] = {}  # concept -> network -> modifiers
        self._parsed = {name: self._parse(name) for name in self.network_names}
        for name in self.network_names:
            for concept, modifiers in self._parsed[name]:
                self._keys.setdefault(concept, {}).setdefault(name, []).append(modifiers)
        own = Forms()
        for name in self.network_names:
            for form in (name, *(extra or {}).get(name, ())):
                own.add(form, Entry("network", value=name, careful=len(form) < 3), True, True)
        self._own = own.close()

    def find(self, text: str) -> list[Mention]:
        """Return the networks and regions that a text names, in its order, without overlaps."""
        words = pieces(text, self._known, self._own)
        items = self._accepted(self._items(words), words)
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
            item = self._longest(words, index, len(words))
            items.append(item)
            index = item.last
        return items

    def _longest(self, words: Sequence[Token], index: int, end: int) -> Item:
        found: dict[int, list[Entry]] = {}
        for forms in (self._own, self._known):
            for last, entries in forms.matches(words, index).items():
                found.setdefault(last, []).extend(entries)
        found = {last: x for last, x in found.items() if last <= end}
        if not found:
            return Item(index, index + 1)
        last = max(found)
        entries = found[last]
        masked = [x for x in entries if x.kind == "mask"]
        own = [x for x in entries if x.kind == "network"]
        return Item(index, last, tuple(own or masked or entries))

    def _accepted(self, items: list[Item], words: Sequence[Token]) -> list[Item]:
        """Drop abbreviations that are ordinary words here."""
        shouting = sum(x.written.isupper() for x in words) > 0.7 * len(words) and len(words) > 3
        sure = [self._is_plain(x, words, shouting) for x in items]
        kept = []
        for index, item in enumerate(items):
            if _is_base(item) and not sure[index] and not self._in_company(items, index, sure, words):
                item = Item(item.first, item.last, tuple(x for x in item.entries if x.kind not in _BASES))
            if _is_base(item) and _lonely(item, items, index, words):
                item = Item(item.first, item.last)
            kept.append(item)
        return kept

    def _is_plain(self, item: Item, words: Sequence[Token], shouting: bool) -> bool:
        """Whether a name needs no company to be one."""
        if not _is_base(item):
            return False
        if any(not x.careful for x in item.entries if x.kind in _BASES):
            return True
        written = "".join(x.written for x in words[item.first : item.last])
        letter = item.last < len(words) and not words[item.last].gap and _LETTER.fullmatch(words[item.last].written)
        suspended = item.last < len(words) and words[item.last].gap.startswith("- ")  # "Seh- und Hörnetz"
        return bool(letter) or suspended or (len(written) > 1 and written.isupper() and not shouting)

    def _in_company(self, items: list[Item], index: int, sure: list[bool], words: Sequence[Token]) -> bool:
        """Whether a careful abbreviation stands beside another name, in a text that is not of another language."""
        word = words[items[index].first]
        after = words[items[index].last :][:1]
        signs = [word.gap, *(x.gap for x in after)] + ["x" for x in after if x.word == "x"]
        if _foreign(words) or (word.word in ("an", "at", "put") and not any(_SIGN.search(x) for x in signs)):
            return False
        if word.word not in _ENGLISH_WORDS and len(word.word) > 1 and len(words) <= 9:
            return True
        if index + 1 < len(items) and items[index + 1].of("tail") and not _is_base(items[index + 1]):
            return True
        for step in (-1, 1):
            other = index + step
            while 0 <= other < len(items) and items[other].of("conjunction", "tail", "modifier") and not sure[other]:
                if _is_base(items[other]):
                    return True
                other += step
            if 0 <= other < len(items) and _is_base(items[other]):
                return True
        return False

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
        if len(self._resolve_item(name.item, name.modifiers)[1]) < 2:
            return []
        found: list[Mention] = []
        index = name.last
        while index < len(items) and index < name.last + 8:
            item = items[index]
            modifier = None if index in claimed else self._modifier(item, words, 1, " ")
            if modifier is None and (index in claimed or not item.of("conjunction", "linker", "one", "tail")):
                break
            if modifier is not None:
                modifiers = {**name.modifiers, self._classes[modifier]: modifier}
                result = self._resolve_item(name.item, modifiers)
                if len(result[1]) != 1:
                    break
                found.append(Mention(words[item.first].start, words[item.last - 1].end, *result))
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
        if not _is_base(item):
            return False
        if item.of("head") and index + 1 < len(items) and self._nouns(items, index, 1, words):
            return False
        return True

    def _nouns(self, items: list[Item], index: int, step: int, words: Sequence[Token]) -> bool:
        other = index + step
        while 0 <= other < len(items) and items[other].of("linker", "modifier") and not _is_base(items[other]):
            if not JOINT.match(words[items[max(other, other - step)].first].gap):
                return False
            other += step
        if not (0 <= other < len(items)) or not _is_base(items[other]):
            return False
        if not JOINT.match(words[items[max(other, other - step)].first].gap):
            return False
        best = self._resolve_item(items[other], {})
        return not (len(best[1]) == 1 and self._resolve_item(items[index], {})[1])

    def _reach(self, name: _Name, items: list[Item], words: Sequence[Token], step: int, limit: int) -> None:
        """Extend a name over modifiers and nouns on one side; small words count only if a modifier follows."""
        index, seen = (name.first - 1, 0) if step < 0 else (name.last, 0)
        while (index >= limit) if step < 0 else (index < limit):
            item, behind = items[index], items[index + 1] if step < 0 else item_or_none(items, index)
            gap = words[behind.first].gap if behind else ""
            if not JOINT.match(gap):
                return
            modifier = self._modifier(item, words, step, gap)
            if modifier is not None and self._suits(modifier, name.item):
                kind = self._classes[modifier]
                if kind in name.modifiers or (step > 0 and kind == "extra"):
                    return
                if step > 0 and kind != "letter" and self._belongs_next(items, index, words):
                    return
                name.modifiers[kind] = modifier
                self._extend(name, index, step)
                seen = 0
            elif (step > 0 and item.of("tail") and (not _is_base(item) or self._nouns(items, index, -1, words))) or (
                step < 0 and item.of("head")
            ):
                if seen and step > 0:
                    return
                self._extend(name, index, step)
            elif step < 0 and words[item.first].word in ("of", "the", "on", "der", "die", "den", "dem"):
                return
            elif item.of("linker") and seen < 2 and " " in gap + words[item.first].gap + " ":
                seen += 1
            elif item.of("linker") and seen < 2 and words[item.first].dense:
                seen += 1
            else:
                return
            index += step

    def _suits(self, modifier: str, item: Item) -> bool:
        """Whether a base can have a modifier: there is no hand in "hand–visual"."""
        bases = _SUITED.get(self._classes[modifier])
        suited = bases is None or any(concept in bases for concept, _ in self._concepts(item))
        return suited and self._classes[modifier] not in self._own_classes(item)

    def _concepts(self, item: Item) -> list[tuple[str, frozenset[str]]]:
        return [y for x in item.entries for y in (self._parsed[x.value] if x.kind == "network" else x.concepts)]

    def _own_classes(self, item: Item) -> set[str]:
        """Return the classes of modifiers that a name itself has, such as the side of "left visual"."""
        return {self._classes[modifier] for _, own in self._concepts(item) for modifier in own}

    @staticmethod
    def _extend(name: _Name, index: int, step: int) -> None:
        if step < 0:
            name.first = index
        else:
            name.last = index + 1

    def _belongs_next(self, items: list[Item], index: int, words: Sequence[Token]) -> bool:
        """Whether the modifier is followed by a base of its own."""
        other = index + 1
        while other < len(items) and items[other].of("modifier", "head") and not _is_base(items[other]):
            other += 1
        return other < len(items) and _is_base(items[other]) and bool(JOINT.match(words[items[other].first].gap))

    def _modifier(self, item: Item, words: Sequence[Token], step: int, gap: str) -> str | None:
        found = [x.value for x in item.entries if x.kind == "modifier"]
        if found:
            return found[0]
        written = words[item.first].written
        glued = gap in ("", "-", "_", ".") or (gap == " " and self._has("left"))
        if step < 0 and written in ("L", "R", "l", "r") and (glued or written.isupper() and gap == " "):
            return "left" if written in "Ll" else "right"
        return self._letter(item, words) if step > 0 else None

    def _letter(self, item: Item, words: Sequence[Token]) -> str | None:
        """Return the letter that tells subnetworks apart (Default A), if the atlas has such."""
        token = words[item.first]
        if item.last - item.first > 1 or not _LETTER.fullmatch(token.written) or not self._has(*"abcde"):
            return None
        return token.word if token.written.isupper() or token.gap in ("", "-", "_", " ") else None

    def _has(self, *modifiers: str) -> bool:
        """Whether the atlas has a network with one of these modifiers."""
        ways = (way for networks in self._keys.values() for listed in networks.values() for way in listed)
        return any(not way.isdisjoint(modifiers) for way in ways)

    def _coordinated(
        self, index: int, names: list[_Name], items: list[Item], words: Sequence[Token]
    ) -> Iterator[Mention]:
        """Read "left" in "left and right visual", or "B" in "closer to Default A than to B"."""
        modifier = self._modifier(items[index], words, 1, " ") or self._modifier(items[index], words, -1, "-")
        if modifier is None:
            return
        kind = self._classes[modifier]
        one = index + 1 < len(items) and items[index + 1].of("one", "tail")
        for name in sorted(names, key=lambda x: (x.first < index, abs(x.first - index))):
            behind = name.first < index
            between = items[name.last : index] if behind else items[index + 1 : name.first]
            close = all(x.of("conjunction", "modifier", "linker", "tail", "one") for x in between) and len(between) < 6
            if not (close or (behind and one and len(between) < 14)):
                continue
            if kind not in name.modifiers and kind not in self._own_classes(name.item):
                continue
            if kind == "letter" and not words[items[index].first].written.isupper():
                continue
            copied = replace(name, modifiers={**name.modifiers, kind: modifier})
            concept, networks, near, reason = self._resolve_item(name.item, copied.modifiers)
            if len(networks) == 1:
                last = items[index + 1] if one and behind else items[index]
                yield Mention(
                    words[items[index].first].start, words[last.last - 1].end, concept, networks, near, reason
                )
            return

    def _alone(self, item: Item, words: Sequence[Token]) -> Iterator[Mention]:
        """Read "hand" where only one network of the atlas is that of the hand."""
        modifier = next((x.value for x in item.entries if x.kind == "modifier"), "")
        if self._classes.get(modifier) != "body" or not words[item.first].dense and len(words[item.first].word) < 3:
            return
        networks = [
            name for nets in self._keys.values() for name, ways in nets.items() if {modifier} in map(set, ways)
        ]
        if not networks and self._has("hand", "mouth"):
            yield Mention(words[item.first].start, words[item.last - 1].end, modifier, (), self._with_body(), "absent")
        if len(set(networks)) == 1:
            yield Mention(words[item.first].start, words[item.last - 1].end, modifier, (networks[0],))

    def _with_body(self) -> tuple[str, ...]:
        return tuple(
            x
            for x, ways in self._keys.get("somatomotor", {}).items()
            if any("hand" in w or "mouth" in w for w in ways)
        )

    # ----- names to networks -----

    def _read(self, name: _Name, items: list[Item], words: Sequence[Token]) -> Iterator[Mention]:
        start, end = words[items[name.first].first].start, words[items[name.last - 1].last - 1].end
        concept, networks, near, reason = self._resolve_item(name.item, name.modifiers)
        if len(networks) != 1:
            parts = self._parts(name.item, words)
            if parts:
                yield from parts
                return
        if name.modifiers.get("sides") == "both":
            sides = [self._resolve_item(name.item, {"side": x}) for x in ("left", "right")]
            if all(len(x[1]) == 1 for x in sides):
                middle = words[items[name.first].first].end
                yield Mention(start, middle, *sides[0])
                yield Mention(middle, end, *sides[1])
                return
        if networks or near and reason == "part" or not self._is_slight(name.item, words):
            yield Mention(start, end, concept, networks, near, reason)

    @staticmethod
    def _is_slight(item: Item, words: Sequence[Token]) -> bool:
        """Whether a name that the atlas lacks is rather no name: "put", "tl;dr", "the GP"."""
        word, written = words[item.first].word, words[item.first].written
        careful = all(x.careful for x in item.entries if x.kind in _BASES)
        return careful and (len(word) < 3 or (word in _ENGLISH_WORDS and not written.isupper()))

    def _parts(self, item: Item, words: Sequence[Token]) -> list[Mention]:
        """Read a name of several words that the atlas lacks as the networks that it joins (fronto-parietal)."""
        if item.last - item.first < 2:
            return []
        found: list[Mention] = []
        index = item.first
        while index < item.last:
            inner = self._longest(words, index, item.last if index > item.first else item.last - 1)
            if not _is_base(inner):
                return []
            concept, networks, near, reason = self._resolve_item(inner, {})
            if len(networks) != 1:
                return []
            found.append(Mention(words[inner.first].start, words[inner.last - 1].end, concept, networks, near, reason))
            index = inner.last
        return found if len({x.networks for x in found}) > 1 else []

    def _resolve_item(
        self, item: Item, modifiers: Mapping[str, str]
    ) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
        """Return concept, networks, near networks and reason of the entry that fits the atlas best."""
        results = [self._resolve(x, frozenset(modifiers.values())) for x in item.entries if x.kind in _BASES]
        return min(results, key=lambda x: (len(x[1]) != 1, not x[1], not x[2]))

    def _resolve(self, entry: Entry, modifiers: frozenset[str]) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
        modifiers = modifiers - {"both"}
        if entry.kind == "network":
            if not modifiers:
                return entry.value, (entry.value,), (), ""
            concept, own = (self._parsed[entry.value] or [(entry.value, frozenset())])[0]
            result = self._resolve_concept(concept, self._replaced(own, modifiers))
            return result if result[1] else (result[0], (), (entry.value,), "part")
        results = [self._resolve_concept(concept, self._replaced(own, modifiers)) for concept, own in entry.concepts]
        return min(results, key=lambda x: (len(x[1]) != 1, not x[1], not x[2]))

    def _replaced(self, own: frozenset[str], modifiers: frozenset[str]) -> frozenset[str]:
        """Return both, without those of a name's own that others of their class stand for."""
        classes = {self._classes[x] for x in modifiers}
        return frozenset(x for x in own if self._classes[x] not in classes) | modifiers

    def _resolve_concept(
        self, concept: str, modifiers: frozenset[str]
    ) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
        label = " ".join([*sorted(modifiers), concept])
        networks = self._fitting(concept, modifiers)
        if networks:
            return label, networks, (), "" if len(networks) == 1 else "ambiguous"
        if concept in self._keys:
            return label, (), tuple(self._keys[concept]), "part"
        described = data()["concepts"].get(concept, {})
        for other in split_list(described.get("means", "")):
            networks = self._fitting(*concept_of(other), exact=True)
            if networks and not modifiers:
                return label, networks, (), "" if len(networks) == 1 else "ambiguous"
            if networks:
                return label, (), networks, "part"
        joined = "+".join([concept, *sorted(modifiers)])
        listed = data()["concepts"].get(joined, described)
        near = [x for other in split_list(listed.get("near", "")) for x in self._fitting(*concept_of(other))]
        return label, (), tuple(dict.fromkeys(near)), "absent"

    def _fitting(self, concept: str, modifiers: frozenset[str], exact: bool = False) -> tuple[str, ...]:
        """Return the networks of a concept that have all the modifiers; those with no others come alone."""
        networks = self._keys.get(concept, {})
        fitting = {name: ways for name, ways in networks.items() if any(modifiers <= x for x in ways)}
        same = tuple(name for name, ways in fitting.items() if modifiers in ways)
        return same if same or exact else tuple(fitting)

    def _parse(self, name: str) -> list[tuple[str, frozenset[str]]]:
        """Read the name of a network as concepts with modifiers."""
        words = pieces(_PARCELLATION.sub("", name), self._known)
        concepts: list[tuple[str, set[str]]] = []
        free: set[str] = set()
        index = 0
        while index < len(words):
            item = self._longest(words, index, len(words))
            modifiers = {x.value for x in item.entries if x.kind == "modifier"}
            if _is_base(item):
                entry = next(x for x in item.entries if x.kind in _BASES)
                if not (item.of("tail", "head") and concepts):
                    concepts += [(concept, set(own) | free) for concept, own in entry.concepts]
                    free = set()
            elif modifiers:
                free |= {sorted(modifiers)[0]}
            elif _LETTER.fullmatch(words[index].word) and index and item.last - item.first == 1:
                free |= {words[index].word}
            index = item.last
        return [(concept, frozenset(own | free)) for concept, own in concepts]


_BASES = ("concept", "network")
# Classes of modifiers that only some concepts have.
_SUITED = {"body": {"somatomotor"}, "field": {"visual"}, "order": {"visual", "somatomotor", "auditory"}}


def _is_base(item: Item) -> bool:
    return item.of(*_BASES)


def item_or_none(items: Sequence[Item], index: int) -> Item | None:
    return items[index] if index < len(items) else None


def _lonely(item: Item, items: Sequence[Item], index: int, words: Sequence[Token]) -> bool:
    """Whether a name of one Chinese or Japanese character stands amid unknown ones: rather a part of another word."""
    token = words[item.first]
    if item.last - item.first > 1 or not token.dense or len(token.word) > 1:
        return False
    before = index > 0 and not token.gap and not items[index - 1].entries and words[items[index - 1].first].dense
    after = index + 1 < len(items) and not items[index + 1].entries and not words[items[index + 1].first].gap
    return bool(before or after)


_ENGLISH = set(
    "the is of and how what which to in are with does do this you i me for strong strongly level vs".split()
)
_OTHERS = set(
    "que la el il di der die das und ist wie het een de och ar det en les le des est du e os da do na nao und im mit"
    " sind stark zwischen entre per tra fra tussen hoe sterk den zijn med mellan por para como cuanto mi es se met minder meer ook naar een".split()
)


_SIGN = re.compile("[-/\u2013\u2014~×*<>=|x]")
_ENGLISH_WORDS = set(
    "con co cop van vat an at put par front temp sub mid hip mem th str multi da dat cc mr sc rt vi mm pal limb fl cp"
    " ln mot som exec def dn fro sm cer seeing sight moving feeling feelings talking speech speaking memory retrieval"
    " remembering minne erinnerung memoria bellek".split()
)


def _foreign(words: Sequence[Token]) -> bool:
    """Whether a text is rather not English, so that "con" or "van" are words."""
    found = [x.word for x in words]
    accents = any(not x.written.isascii() for x in words)
    return sum(x in _OTHERS for x in found) + accents > sum(x in _ENGLISH for x in found)


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
    """Drop ambiguous mentions that another makes plain: "the hand network of the motor system", "the two motor ones"."""
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
