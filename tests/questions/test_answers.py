"""Answers about one scan: true sentences, with numbers that agree with the scan's, or a reason why there is none."""

import re
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.questions import nulls
from fmri_lm_hf.questions.answers import Answer, Unanswerable, answer
from fmri_lm_hf.questions.bins import BINS, UNITS, bin_of
from fmri_lm_hf.questions.measures import ScanMeasures
from fmri_lm_hf.questions.pair_answers import MOST_NAMED
from fmri_lm_hf.questions.query import CLAIMS, DIRECTIONS, ENDS, GRAPH, RELATIONS, SCOPES, SPECTRAL, TOPICS, Query
from fmri_lm_hf.questions.statements import WORDS, number, ordinal
from fmri_lm_hf.simulation.stream import RandomScans

NAMES = ("default", "visual", "control", "limbic", "motor")
ATLAS = Atlas("toy", tuple(f"roi_{i}" for i in range(40)), tuple(NAMES[i % 5] for i in range(40)))
STREAM = RandomScans(ATLAS, seed=3)
NUMBER = r"-?\d+\.\d+"


def measures_of(scan, atlas=ATLAS, **changes):
    row = {**scan, **changes}
    return ScanMeasures.of(row["bold"], row["t_r"], atlas, row["roi_mask"], row.get("sample_mask"))


def planted(values, n_rois=8):
    """Measure a scan of networks a, b, c, ... with these correlations of their signals (n_networks, n_networks)."""
    n_networks = len(values)
    rng = np.random.default_rng(0)
    signals, _ = np.linalg.qr(rng.standard_normal((400, n_networks * (1 + n_rois))))
    mixing = np.linalg.cholesky(np.asarray(values, dtype=float))
    networks = np.repeat(np.arange(n_networks), n_rois)
    bold = 20 * ((signals[:, :n_networks] @ mixing.T)[:, networks] + signals[:, n_networks:])
    names = tuple("abcdefgh"[i] for i in networks)
    return ScanMeasures.of(bold, 1.0, Atlas("planted", tuple(f"roi_{i}" for i in range(len(names))), names))


@pytest.fixture(scope="module")
def measures():
    return measures_of(STREAM[0])


def ask(measures, intent, *networks, **extra) -> Answer:
    return answer(Query(intent, networks, extra), measures)


def every_query(names=NAMES):
    """List queries of every intent with every value of its parameters."""
    a, b, c, d, *_ = names
    yield Query("level", (a, b))
    yield Query("within", (c,))
    for claim in CLAIMS:
        yield from (Query("yesno", pair, {"claim": claim}) for pair in ((a, b), (c,)))
        yield Query("count", extra={"claim": claim})
    for relation in RELATIONS:
        for pairs in ((a, b, c, d), (a, b, a, c), (a, a, b, c), (a, a, b, b), (a, b, b, a)):
            yield Query("compare", pairs, {"relation": relation})
    for end in ENDS:
        yield from (Query(end, extra={"scope": scope}) for scope in SCOPES)
        yield from (Query("rank", extra={"k": k, "direction": end}) for k in (1, 3, 10, 99))
    for direction in DIRECTIONS:
        yield Query("partner", (a,), {"direction": direction})
        yield from (Query("spectral", extra={"measure": one, "direction": direction}) for one in SPECTRAL)
    yield from (Query("spectral", (b,), {"measure": one, "direction": None}) for one in SPECTRAL)
    yield from (Query("graph", extra={"measure": one}) for one in GRAPH)
    yield Query("graph", (c,), {"measure": "node_strength"})
    yield from (Query("gradient", extra={"measure": one}) for one in ("ends", "range"))
    yield from (Query("gradient", (name,), {"measure": "position"}) for name in names)
    yield from (Query("describe", extra={"about": about}) for about in TOPICS)
    yield from (Query("describe", (name,), {"about": name}) for name in names)


# ----- every query -----


@pytest.mark.parametrize("index", range(3))
def test_every_query_has_an_answer_whose_numbers_are_those_of_its_evidence(index):
    measures = measures_of(STREAM[index])
    for query in every_query():
        found = answer(query, measures)
        assert re.fullmatch(r"[A-Z0-9].*\.", found.text), query
        assert not re.search(r"nan|None|inf\b|\s\s|\{|\.\.", found.text), found.text
        assert found.relative_to
        for one in found.evidence:
            assert one.units
            assert one.relative_to
            assert one.level in (None, *BINS)
            written = re.findall(rf"{NUMBER}|\b\d+\b|\bone end\b", one.statement)
            stated = [float(text) for text in written if text != "one end"]
            close = [text for text in stated if abs(text - one.value) <= 0.005]
            assert close or "one end" in written or one.units == "networks" or query.intent == "compare", one


@pytest.mark.parametrize("index", range(3))
def test_every_number_of_a_pair_is_that_of_the_scan(index):
    measures = measures_of(STREAM[index])
    for query in every_query():
        for one in answer(query, measures).evidence:
            if one.units != UNITS or len(one.networks) != 2:
                continue
            value = measures.pair(*one.networks)
            assert one.value == value
            assert one.level == BINS[int(bin_of(value, one.networks[0] == one.networks[1]))]
            assert all(name in one.statement for name in one.networks)
            assert abs(float(re.search(NUMBER, one.statement)[0]) - value) <= 0.005


def test_what_is_written_for_programs_is_plain_data(measures):
    for query in every_query():
        record = answer(query, measures).to_json()
        assert set(record) == {"text", "value", "units", "level", "relative_to", "evidence"}
        for one in record["evidence"]:
            assert {"statement", "value", "units", "relative_to"} <= set(one)
            assert "level" not in one or one["level"] in BINS
            assert isinstance(one["value"], (int, float))


# ----- pairs that are named -----


def test_a_level_is_said_in_words_with_value_rank_and_what_it_is_relative_to(measures):
    found = ask(measures, "level", "visual", "motor")
    rank, n = measures.rank("visual", "motor")
    place = {1: "the strongest", n: "the weakest"}.get(rank, f"{ordinal(rank)} strongest")
    assert found.value == measures.pair("visual", "motor")
    assert found.level == measures.level("visual", "motor")
    assert found.level in found.text
    assert f"{number(found.value)} times the scan's RMS correlation: {place} of {n} pairs" in found.text
    assert "RMS correlation" in found.relative_to
    assert ask(measures, "within", "visual").value == measures.pair("visual", "visual")


def test_exchanged_networks_exchange_the_answers(measures):
    names = list(ATLAS.networks)
    exchange = {"default": "visual", "visual": "default"}
    other = measures_of(STREAM[0], Atlas("exchanged", ATLAS.roi_names, tuple(exchange.get(n, n) for n in names)))
    assert ask(other, "level", "default", "motor").value == pytest.approx(
        ask(measures, "level", "visual", "motor").value
    )
    assert ask(other, "level", "default", "motor").text != ask(measures, "level", "default", "motor").text
    assert ask(other, "within", "default").value == pytest.approx(ask(measures, "within", "visual").value)
    assert ask(other, "spectral", "default", measure="falff", direction=None).value == pytest.approx(
        ask(measures, "spectral", "visual", measure="falff", direction=None).value
    )


def test_another_scan_has_another_answer(measures):
    other = measures_of(STREAM[1])
    for query in (Query("level", ("default", "visual")), Query("describe", (), {"about": "all"})):
        assert answer(query, other).text != answer(query, measures).text


@pytest.mark.parametrize("index", range(4))
def test_a_claim_is_confirmed_or_denied_by_the_fact(index):
    measures = measures_of(STREAM[index])
    yes = {
        "markedly low": {"markedly low"},
        "low": {"low", "markedly low"},
        "moderate": {"moderate"},
        "high": {"high", "markedly high"},
        "markedly high": {"markedly high"},
    }
    for pair in [*measures.between, *measures.within]:
        level, value = measures.level(*pair), measures.pair(*pair)
        for claim in CLAIMS:
            found = ask(measures, "yesno", *dict.fromkeys(pair), claim=claim)
            holds = value < 0 if claim == "negative" else level in yes[claim]
            assert found.text.startswith(f"It is {'' if holds else 'not '}{WORDS[claim]}: the coupling ")
            assert not re.match(r"yes|no\b", found.text, re.IGNORECASE)
            assert found.value == value
            assert level in found.text


@pytest.mark.parametrize("relation,better", [("stronger", max), ("weaker", min)])
def test_a_comparison_names_the_one_that_was_asked_for(measures, relation, better):
    pairs = list(measures.between)
    for first, second in pairwise(pairs):
        found = ask(measures, "compare", *first, *second, relation=relation)
        values = [measures.pair(*first), measures.pair(*second)]
        winner = (first, second)[values.index(better(values))]
        assert found.text.startswith(f"The coupling between {winner[0]} and {winner[1]} is {relation}: ")
        assert found.value == pytest.approx(values[0] - values[1])
        assert ("They are close" in found.text) == (abs(values[0] - values[1]) <= 0.05)
        assert [one.value for one in found.evidence[1:]] == values


def test_comparisons_at_the_edge():
    measures = planted([[1, -0.8, 0.1], [-0.8, 1, 0.1], [0.1, 0.1, 1]])
    opposed = ask(measures, "compare", "a", "b", "a", "c", relation="stronger").text
    assert opposed.startswith("The coupling between a and c is stronger")
    assert opposed.endswith("Regardless of sign, the larger of the two is the coupling between a and b.")
    near = ask(measures, "compare", "a", "c", "b", "c", relation="stronger").text
    assert "They are close: they differ by" in near
    # What is called stronger is not written with the number of the other.
    shown = re.findall(NUMBER, near)
    assert shown[0] != shown[1]
    same = ask(measures, "compare", "a", "b", "b", "a", relation="weaker").text
    assert same.startswith("Both are the same coupling, between a and b: -")


# ----- pairs that are looked for -----


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("end,extreme", [("strongest", max), ("weakest", min)])
def test_extremes_go_by_signed_value(measures, scope, end, extreme):
    pairs = {"between": measures.between, "within": measures.within, "any": {**measures.between, **measures.within}}
    found = ask(measures, end, scope=scope)
    assert found.value == extreme(pairs[scope].values())
    assert found.evidence[0].networks == extreme(pairs[scope], key=pairs[scope].get)
    assert f"The {end} coupling of {len(pairs[scope])}" in found.text


def test_a_strong_negative_coupling_and_one_near_zero_are_mentioned():
    measures = planted([[1, -0.8, 0.02], [-0.8, 1, 0.3], [0.02, 0.3, 1]])
    strongest, weakest = (ask(measures, end, scope="between") for end in ENDS)
    assert strongest.evidence[0].networks == ("b", "c")
    assert "The strongest negative coupling is that between a and b, at -" in strongest.text
    assert weakest.evidence[0].networks == ("a", "b")
    assert "negative (markedly low)" in weakest.text
    assert "weak (" not in weakest.text
    assert "Nearest to zero is the coupling between a and c" in weakest.text
    positive = planted([[1, 0.3, 0.5], [0.3, 1, 0.6], [0.5, 0.6, 1]])
    assert all(len(ask(positive, end, scope="between").evidence) == 1 for end in ENDS)


def test_partners(measures):
    for name in NAMES:
        values = {other: measures.pair(name, other) for other in NAMES if other != name}
        most, least = (ask(measures, "partner", name, direction=direction) for direction in DIRECTIONS)
        assert most.evidence[0].networks == (name, max(values, key=values.get))
        assert least.evidence[0].networks == (name, min(values, key=values.get))
        assert (most.value, least.value) == (max(values.values()), min(values.values()))


@pytest.mark.parametrize("end", ENDS)
def test_ranks(measures, end):
    order = sorted(measures.between.values(), reverse=end == "strongest")
    for k in (1, 4, 10):
        found = ask(measures, "rank", k=k, direction=end)
        assert found.value == order[:k]
        assert [float(text) for text in re.findall(rf"\(({NUMBER})\)", found.text)] == pytest.approx(
            order[:k], abs=0.005
        )
    more = ask(measures, "rank", k=11, direction=end)
    assert more.value == order
    assert more.text.startswith(f"There are only 10 pairs of different networks; from the {end}: between")


@pytest.mark.parametrize("index", range(4))
def test_counts_are_of_the_literal_level_and_say_how_many_lie_beyond(index):
    measures = measures_of(STREAM[index])
    levels = [measures.level(*pair) for pair in measures.between]
    for claim in BINS:
        found = ask(measures, "count", claim=claim)
        n = levels.count(claim)
        assert found.value == n
        assert found.text.startswith(f"{n} of 10 pairs of different networks {'is' if n == 1 else 'are'} {claim}")
        beyond = {"low": "markedly low", "high": "markedly high"}.get(claim)
        if beyond:
            more = levels.count(beyond)
            assert f" {more} more {'is' if more == 1 else 'are'} {beyond} ({WORDS[beyond]})." in found.text
        else:
            assert "more" not in found.text
    negative = ask(measures, "count", claim="negative")
    assert negative.value == sum(v < 0 for v in measures.between.values())
    if negative.value <= MOST_NAMED:
        named = {one.networks for one in negative.evidence if len(one.networks) == 2}
        assert named == {pair for pair, value in measures.between.items() if value < 0}


# ----- graph, gradient, signals -----


@pytest.mark.parametrize("measure", ["modularity", "global_efficiency", "clustering"])
def test_measures_of_the_graph_stand_against_chance(measures, measure):
    found, expected = ask(measures, "graph", measure=measure), measures.whole(measure)
    assert (found.value, found.level) == (expected.value, expected.level)
    shown = [float(text) for text in re.findall(NUMBER, found.text)]
    assert shown == pytest.approx([expected.value, expected.chance], abs=0.005)
    direction = {"modularity": "more", "global_efficiency": "shorter", "clustering": "more"}[measure]
    assert (direction in found.text) == (expected.level in ("high", "markedly high"))
    assert "19 random rewirings" in found.relative_to


def test_noise_is_about_the_same_as_chance():
    bold = np.random.default_rng(4).standard_normal((200, 40)).astype(np.float32)
    measures = ScanMeasures.of(bold, 2.0, ATLAS)
    expected = measures.whole("range")
    width = ask(measures, "gradient", measure="range").text
    assert expected.level == "moderate"
    assert "about the same as" in width
    assert "about as far apart as chance would put them" in width
    # Where the gradient itself may be chance, an answer that rests on it says so.
    assert ask(measures, "gradient", measure="ends").text.endswith(width)
    assert ask(measures, "gradient", "limbic", measure="position").text.endswith(width)
    for networks in ((), ("limbic",)):
        described = ask(measures, "describe", *networks, about=networks[0] if networks else "all").text
        assert width in described
        assert "one end" not in described
        assert " (0) to " not in described
    assert "range" not in ask(measures_of(STREAM[0]), "gradient", measure="ends").text


def test_the_hub_has_the_highest_node_strength(measures):
    strengths = measures.values("node_strength")
    hub = ask(measures, "graph", measure="hub")
    assert hub.text.startswith(f"The hub is {max(strengths, key=strengths.get)}, ")
    assert hub.value == max(strengths.values())
    assert ask(measures, "graph", "limbic", measure="node_strength").value == strengths["limbic"]
    assert ask(measures, "graph", measure="node_strength").value == pytest.approx(measures.mean_strength)


def test_positions_are_told_by_the_names_of_the_ends(measures):
    first, last = measures.ends
    ends = ask(measures, "gradient", measure="ends")
    assert ends.value == [first, last]
    assert f"from {first} at one end (0) to {last} at the other (1)" in ends.text
    for name in NAMES:
        found = ask(measures, "gradient", name, measure="position")
        assert found.value == measures.positions[name]
        assert first in found.text
        assert last in found.text
        if name not in (first, last):
            near = re.search(r"(?:close|nearer) to the (\w+) end", found.text)
            assert (near[1] if near else None) in (None, first if found.value < 0.5 else last)
    order = re.findall(rf"(\w+) \(({NUMBER})\)", ends.evidence[1].statement)
    assert [float(value) for _, value in order] == pytest.approx(sorted(measures.positions.values())[1:-1], abs=0.005)


@pytest.mark.parametrize("measure", SPECTRAL)
def test_measures_of_signals(measures, measure):
    values = measures.values(measure)
    most, least = (ask(measures, "spectral", measure=measure, direction=one) for one in DIRECTIONS)
    assert (most.value, least.value) == (max(values.values()), min(values.values()))
    assert most.evidence[0].networks == (max(values, key=values.get),) == least.evidence[1].networks
    assert most.evidence[0].level == measures.network(measure, most.evidence[0].networks[0]).level
    for name in NAMES:
        found = ask(measures, "spectral", name, measure=measure, direction=None)
        assert found.value == values[name]
        assert f" of {name} is {number(values[name])} (" in found.text


# ----- descriptions -----


def test_descriptions_neither_repeat_nor_contradict_themselves(monkeypatch):
    monkeypatch.setattr(nulls, "N_NULLS", 2)  # for speed
    stream = RandomScans(seed=5)
    for index in range(100):
        atlas = stream.atlas_of(index)
        measures = measures_of(stream[index], atlas)
        abouts = [(), (measures.present[index % len(measures.present)],)]
        for networks in abouts:
            topics = networks or (("all", TOPICS[1 + index % 5]))
            for about in topics:
                found = answer(Query("describe", networks, {"about": about}), measures)
                check_description(found, measures)
                fewest = 4 if about in ("all", *networks) else 2
                assert fewest <= len(found.evidence) <= 6, found.text


def check_description(found, measures):
    said = [one.statement for one in found.evidence]
    assert len(set(said)) == len(said)
    assert found.text == " ".join(said)
    numbers = [(frozenset(one.networks), one.units) for one in found.evidence if one.networks]
    assert len(set(numbers)) == len(numbers), found.text
    for one in found.evidence:
        if one.units == UNITS:
            assert one.value == measures.pair(*one.networks)
            assert one.level in one.statement
    for end, extreme in (("strongest", max), ("weakest", min)):
        stated = [one for one in found.evidence if one.statement.startswith(f"The {end} coupling of") and one.networks]
        between = [one for one in stated if one.networks[0] != one.networks[1]]
        assert all(one.value == extreme(measures.between.values()) for one in between)


def test_a_description_of_one_network_is_about_it(measures):
    found = ask(measures, "describe", "limbic", about="limbic")
    assert 4 <= len(found.evidence) <= 6
    assert all("limbic" in one.networks for one in found.evidence)


def test_components_are_said_to_be_mean_signals(measures):
    found = ask(measures, "describe", about="ica")
    assert found.text.startswith("With the networks' mean signals in place of independent components, of 5 networks,")
    assert [one.value for one in found.evidence] == [
        one.value for one in ask(measures, "describe", about="spectral").evidence
    ]


# ----- missing regions -----


def without(*names, keep=0, **changes):
    """Measure a scan in which all but `keep` ROIs of these networks are masked."""
    scan = STREAM[0]
    seen = dict.fromkeys(names, 0)
    mask = []
    for name in ATLAS.networks:
        mask.append(name not in seen or seen[name] < keep)
        if name in seen:
            seen[name] += 1
    return measures_of(scan, roi_mask=np.array(mask), **changes)


@pytest.mark.parametrize(
    "query",
    [
        Query("strongest", extra={"scope": "between"}),
        Query("rank", extra={"k": 2, "direction": "weakest"}),
        Query("count", extra={"claim": "low"}),
        Query("graph", extra={"measure": "hub"}),
        Query("gradient", extra={"measure": "ends"}),
        Query("spectral", extra={"measure": "amplitude", "direction": "most"}),
        Query("describe", extra={"about": "all"}),
    ],
)
def test_networks_without_signal_are_left_out_and_named(query):
    found = answer(query, without("limbic", "motor"))
    assert found.text.endswith("Left out, since no region of them is usable in this scan: limbic and motor.")
    assert found.evidence[-1].networks == ("limbic", "motor")
    assert not any({"limbic", "motor"} & set(one.networks) for one in found.evidence[:-1])
    assert "limbic" not in answer(query, without("motor")).evidence[-1].statement


def refusal(query, measures) -> Unanswerable:
    with pytest.raises(Unanswerable) as caught:
        answer(query, measures)
    assert str(caught.value) == f"{caught.value.reason} {caught.value.instead}"
    assert caught.value.instead.startswith("Ask ")
    return caught.value


def test_a_network_without_signal_has_no_answer():
    found = refusal(Query("level", ("default", "limbic")), without("limbic"))
    assert found.reason == (
        "This scan has no usable signal of limbic: all of its 8 regions are masked, constant, or hold invalid values."
    )
    assert found.instead == "Ask about default, visual, control or motor."


def test_a_network_of_one_region_that_is_masked():
    names = (*ATLAS.networks[:-1], "insula")
    mask = np.array([name != "insula" for name in names])
    measures = measures_of(STREAM[0], Atlas("one", ATLAS.roi_names, names), roi_mask=mask)
    found = refusal(Query("within", ("insula",)), measures)
    assert "its only region is masked, constant, or holds invalid values" in found.reason


def test_a_network_that_the_atlas_lacks():
    found = refusal(Query("level", ("default", "insula")), measures_of(STREAM[0]))
    assert found.reason == "The atlas of this scan has no network insula."
    assert found.instead == "Ask about default, visual, control, limbic or motor."


def test_one_region_has_no_coupling_inside():
    measures = without("limbic", keep=1)
    for query in (Query("within", ("limbic",)), Query("compare", ("limbic",) * 2 + NAMES[:2], {"relation": "weaker"})):
        found = refusal(query, measures)
        assert found.reason.startswith("The network limbic has only one usable region (of 8) in this scan")
        assert found.instead == "Ask which network limbic is coupled with most."
    assert answer(Query("describe", ("limbic",), {"about": "limbic"}), measures).text


def test_one_network_has_no_pairs_and_no_ends():
    measures = without(*NAMES[1:])
    for query in (
        Query("strongest", extra={"scope": "any"}),
        Query("partner", ("default",), {"direction": "most"}),
        Query("count", extra={"claim": "low"}),
        Query("rank", extra={"k": 1, "direction": "weakest"}),
    ):
        found = refusal(query, measures)
        assert "only one network with usable regions, default, so that there is no pair" in found.reason
        assert found.instead == "Ask how strong the coupling inside default is."
    ends = refusal(Query("gradient", extra={"measure": "ends"}), measures)
    assert ends.reason.startswith("This scan has 1 network with usable regions; a position")
    assert "the only network" in ask(measures, "within", "default").text
    assert "is left out" not in ask(measures, "graph", measure="modularity").text
    assert ask(measures, "graph", measure="hub").text.startswith("The hub is default, ")
    assert ask(measures, "describe", about="all").text


def test_two_networks_have_one_pair_that_is_said_once():
    measures = without(*NAMES[2:])
    only = ask(measures, "weakest", scope="between")
    assert only.text.startswith("The only coupling between networks is between default and visual, at ")
    partner = ask(measures, "partner", "visual", direction="least")
    assert partner.text.startswith("The only other network that visual can be coupled with is default, at ")
    assert partner.value == only.value
    assert ": the only pair of different networks." in ask(measures, "level", "default", "visual").text
    described = ask(measures, "describe", about="connectivity").text
    assert described.count("between default and visual") == 1
    assert ask(measures, "rank", k=2, direction="weakest").text.startswith(
        "There is only 1 pair of different networks"
    )


def test_what_is_highest_and_lowest_at_once_is_described_once():
    measures = measures_of(STREAM[0], bold=np.tile(np.random.default_rng(0).standard_normal((100, 1)), (1, 40)))
    found = ask(measures, "describe", about="graph")
    check_description(found, measures)
    assert "The hub is" in found.text
    assert "The lowest node strength" not in found.text


def test_networks_at_one_place_have_no_gradient():
    bold = np.random.default_rng(0).standard_normal((100, 1)) @ np.ones((1, 40))
    measures = ScanMeasures.of(bold, 2.0, ATLAS)
    found = refusal(Query("gradient", ("default",), {"measure": "position"}), measures)
    assert found.reason.startswith("The networks default, visual, control, limbic and motor lie at the same place")


def test_networks_of_one_region_each_have_no_coupling_inside():
    atlas = Atlas("single", ATLAS.roi_names[:8], tuple("abcdefgh"))
    measures = ScanMeasures.of(STREAM[0]["bold"][:, :8], 2.0, atlas)
    found = refusal(Query("strongest", extra={"scope": "within"}), measures)
    assert found.reason == "No network of this scan has two usable regions, so that none has a coupling inside."
    assert ask(measures, "strongest", scope="any").text


def test_an_atlas_without_networks_leaves_measures_of_the_scan():
    measures = measures_of(STREAM[0], Atlas.numbered(40))
    assert "no named network with usable regions" in refusal(Query("weakest", extra={"scope": "any"}), measures).reason
    assert "no named network" in refusal(Query("graph", extra={"measure": "hub"}), measures).reason
    assert ask(measures, "graph", measure="modularity").value > 0
    assert ask(measures, "describe", about="gradients").evidence[0].units == "diffusion units"
    assert refusal(Query("describe", extra={"about": "spectral"}), measures)


@pytest.mark.parametrize("measure", ["falff", "low_high_ratio"])
def test_why_a_spectrum_is_not_known(measure):
    query = Query("spectral", ("default",), {"measure": measure, "direction": None})
    slow = refusal(query, measures_of(STREAM[0], t_r=3.5))
    assert (
        "frequencies up to 0.16 Hz, which a repetition time of 3.5 s does not resolve (at most 3.1 s)" in slow.reason
    )
    observed = np.arange(len(STREAM[0]["bold"])) % 4 > 0
    gaps = refusal(query, measures_of(STREAM[0], sample_mask=observed, t_r=1.0))
    assert "too few time points follow each other without a gap (100 s are needed)" in gaps.reason
    short = refusal(query, measures_of(STREAM[0], bold=STREAM[0]["bold"][:20], t_r=0.3))
    assert short.reason.endswith("6 s are too short for slow frequencies.")
    assert refusal(Query("spectral", extra={"measure": measure, "direction": "most"}), measures_of(STREAM[0], t_r=3.5))


def test_why_other_measures_of_signals_are_not_known():
    slow = refusal(
        Query("spectral", ("default",), {"measure": "autocorrelation", "direction": None}),
        measures_of(STREAM[0], t_r=5.0),
    )
    assert (
        slow.reason == "This scan has no autocorrelation: it is taken 4 s apart, less than the repetition time of 5 s."
    )
    observed = np.arange(len(STREAM[0]["bold"])) % 2 > 0
    gaps = refusal(
        Query("spectral", ("default",), {"measure": "variability", "direction": None}),
        measures_of(STREAM[0], sample_mask=observed),
    )
    assert re.search(r"no variability: only \d+ of \d+ time points were observed, with too many gaps", gaps.reason)
    assert answer(Query("describe", (), {"about": "all"}), measures_of(STREAM[0], t_r=5.0)).text


def test_a_graph_without_edges_has_no_measures():
    # Six signals that sum to zero are all negatively correlated.
    signal = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 6)))[0]
    signal -= signal.mean(axis=0)
    signal = np.linalg.qr(signal)[0]
    bold = signal - signal.mean(axis=1, keepdims=True)
    measures = ScanMeasures.of(100 * bold, 2.0, Atlas("few", tuple("uvwxyz"), tuple("aabbcc")))
    for measure in GRAPH:
        found = refusal(Query("graph", extra={"measure": measure}), measures)
        assert found.reason == "No two regions of this scan are positively correlated, so that its graph has no edges."
    assert refusal(Query("describe", extra={"about": "graph"}), measures)


# ----- words -----


@pytest.mark.parametrize(
    "value,text", [(0.123, "0.12"), (1.5, "1.50"), (-0.011, "-0.011"), (0.0, "0.00"), (-1e-9, "0.00"), (7, "7")]
)
def test_numbers(value, text):
    assert number(value) == text


def test_numbers_beside_each_other_are_told_apart():
    assert (number(0.4123, 0.4101), number(0.4101, 0.4123)) == ("0.412", "0.410")
    assert number(0.5, 0.5) == "0.50000"


@pytest.mark.parametrize("rank,text", [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")])
def test_ordinals(rank, text):
    assert ordinal(rank) == text


def test_evidence_is_a_dictionary_of_what_is_stated(measures):
    one = ask(measures, "level", "default", "visual").evidence[0]
    assert {"statement", "value", "units", "relative_to", "level"} <= set(asdict(one))
