"""The networks of an atlas as concepts with modifiers, and what a name means among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .names import BASES, LETTER, Entry, Forms, Item, concept_of, known_forms, pieces
from .words import Token, data, split_list

_PARCELLATION = re.compile(r"(?i)^(7|17)networks_")
# Classes of modifiers that only some concepts have.
_SUITED = {"body": {"somatomotor"}, "field": {"visual"}, "order": {"visual", "somatomotor", "auditory"}}


class Reading(NamedTuple):
    """What a name means in an atlas; the fields are those of `lexicon.Mention`."""

    concept: str
    networks: tuple[str, ...]
    near: tuple[str, ...] = ()
    reason: str = ""

    @property
    def sure(self) -> bool:
        return len(self.networks) == 1

    def rank(self) -> tuple[bool, bool, bool]:
        """Order readings: sure ones first, then ambiguous ones, then those near something."""
        return not self.sure, not self.networks, not self.near


class AtlasNetworks:
    """The networks of an atlas.

    Parameters
    ----------
    names : sequence of str
        Their names.
    extra : mapping of str to sequence of str
        Further names of a network.
    """

    def __init__(self, names: Sequence[str], extra: Mapping[str, Sequence[str]]):
        self.known = known_forms()
        self.own = Forms().close()
        self.classes = {name: x["class"] for name, x in data()["modifiers"].items()}
        self._parsed = {name: self._parse(name) for name in names}
        self._keys: dict[str, dict[str, list[frozenset[str]]]] = {}  # concept -> network -> modifiers
        for name, concepts in self._parsed.items():
            for concept, modifiers in concepts:
                self._keys.setdefault(concept, {}).setdefault(name, []).append(modifiers)
        own = Forms()
        for name in names:
            for form in (name, *extra.get(name, ())):
                own.add(form, Entry("network", value=name, careful=len(form) < 3), declined=True, misspelt=True)
        self.own = own.close()

    def longest(self, words: Sequence[Token], index: int, end: int) -> Item:
        found: dict[int, list[Entry]] = {}
        for forms in (self.own, self.known):
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

    def resolve(self, item: Item, modifiers: Mapping[str, str]) -> Reading:
        """Return concept, networks, near networks and reason of the entry that fits the atlas best."""
        results = [self._resolve_entry(x, frozenset(modifiers.values())) for x in item.entries if x.kind in BASES]
        return min(results, key=Reading.rank)

    def _resolve_entry(self, entry: Entry, modifiers: frozenset[str]) -> Reading:
        modifiers = modifiers - {"both"}
        if entry.kind == "network":
            if not modifiers:
                return Reading(entry.value, (entry.value,))
            concept, own = (self._parsed[entry.value] or [(entry.value, frozenset())])[0]
            result = self._resolve_concept(concept, self._replaced(own, modifiers))
            return result if result.networks else Reading(result.concept, (), (entry.value,), "part")
        results = [self._resolve_concept(concept, self._replaced(own, modifiers)) for concept, own in entry.concepts]
        return min(results, key=Reading.rank)

    def _replaced(self, own: frozenset[str], modifiers: frozenset[str]) -> frozenset[str]:
        """Return both, without those of a name's own that others of their class stand for."""
        classes = {self.classes[x] for x in modifiers}
        return frozenset(x for x in own if self.classes[x] not in classes) | modifiers

    def _resolve_concept(self, concept: str, modifiers: frozenset[str]) -> Reading:
        label = " ".join([*sorted(modifiers), concept])
        networks = self._fitting(concept, modifiers)
        if networks:
            return Reading(label, networks, (), "" if len(networks) == 1 else "ambiguous")
        if concept in self._keys:
            return Reading(label, (), tuple(self._keys[concept]), "part")
        described = data()["concepts"].get(concept, {})
        for other in split_list(described.get("means", "")):
            networks = self._fitting(*concept_of(other), exact=True)
            if networks and not modifiers:
                return Reading(label, networks, (), "" if len(networks) == 1 else "ambiguous")
            if networks:
                return Reading(label, (), networks, "part")
        joined = "+".join([concept, *sorted(modifiers)])
        listed = data()["concepts"].get(joined, described)
        near = [x for other in split_list(listed.get("near", "")) for x in self._fitting(*concept_of(other))]
        return Reading(label, (), tuple(dict.fromkeys(near)), "absent")

    def _fitting(self, concept: str, modifiers: frozenset[str], exact: bool = False) -> tuple[str, ...]:
        """Return the networks of a concept that have all the modifiers; those with no others come alone."""
        networks = self._keys.get(concept, {})
        fitting = {name: ways for name, ways in networks.items() if any(modifiers <= x for x in ways)}
        same = tuple(name for name, ways in fitting.items() if modifiers in ways)
        return same if same or exact else tuple(fitting)

    def _parse(self, name: str) -> list[tuple[str, frozenset[str]]]:
        """Read the name of a network as concepts with modifiers."""
        words = pieces(_PARCELLATION.sub("", name), self.known)
        concepts: list[tuple[str, set[str]]] = []
        free: set[str] = set()
        index = 0
        while index < len(words):
            item = self.longest(words, index, len(words))
            modifiers = {x.value for x in item.entries if x.kind == "modifier"}
            if item.base:
                entry = next(x for x in item.entries if x.kind in BASES)
                if not (item.of("tail", "head") and concepts):
                    concepts += [(concept, set(own) | free) for concept, own in entry.concepts]
                    free = set()
            elif modifiers:
                free |= {sorted(modifiers)[0]}
            elif LETTER.fullmatch(words[index].word) and index and item.last - item.first == 1:
                free |= {words[index].word}
            index = item.last
        return [(concept, frozenset(own | free)) for concept, own in concepts]

    def suits(self, modifier: str, item: Item) -> bool:
        """Whether a base can have a modifier: there is no hand in "hand–visual"."""
        bases = _SUITED.get(self.classes[modifier])
        suited = bases is None or any(concept in bases for concept, _ in self._concepts(item))
        return suited and self.classes[modifier] not in self.own_classes(item)

    def _concepts(self, item: Item) -> list[tuple[str, frozenset[str]]]:
        return [y for x in item.entries for y in (self._parsed[x.value] if x.kind == "network" else x.concepts)]

    def own_classes(self, item: Item) -> set[str]:
        """Return the classes of modifiers that a name itself has, such as the side of "left visual"."""
        return {self.classes[modifier] for _, own in self._concepts(item) for modifier in own}

    def has(self, *modifiers: str) -> bool:
        """Whether the atlas has a network with one of these modifiers."""
        ways = (way for networks in self._keys.values() for listed in networks.values() for way in listed)
        return any(not way.isdisjoint(modifiers) for way in ways)

    def with_body(self, modifier: str) -> Reading | None:
        """Return what "hand" alone means; None in an atlas that tells no parts of the body apart."""
        bodies = {x for x, kind in self.classes.items() if kind == "body"}
        networks = [(name, way) for nets in self._keys.values() for name, ways in nets.items() for way in ways]
        bodily = dict.fromkeys(name for name, way in networks if way & bodies)
        fitting = dict.fromkeys(name for name, way in networks if modifier in way)
        if not bodily:
            return None
        return (
            Reading(modifier, tuple(fitting)) if len(fitting) == 1 else Reading(modifier, (), tuple(bodily), "absent")
        )
