"""The bundled model reads every family of one scan by look-up, and what it says of the scan is checked."""

import itertools
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fmri_lm_hf.bundled import NETWORK_WORDS, load_bundled_model
from fmri_lm_hf.corpus import queries
from fmri_lm_hf.corpus.facts import fact_measure
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.questions import model_descriptions, reading
from fmri_lm_hf.questions.measures import BINS, BOUNDS_NETWORKS, ScanMeasures
from fmri_lm_hf.questions.model_descriptions import describe_with_model, most_notable, parse_sentence
from fmri_lm_hf.questions.query import SPECTRAL, Query
from fmri_lm_hf.questions.reading import (
    LevelReading,
    TableReader,
    families_of,
    is_asked,
    read_levels,
    read_table,
)
from fmri_lm_hf.questions.value_tables import FAMILIES, POSITION, WHOLE, Entry, ValueTable, family_table, on_scale
from fmri_lm_hf.simulation.stream import RandomScans

NAMES = ("default", "visual", "control", "limbic", "motor")
ATLAS = Atlas("toy", tuple(f"roi_{i}" for i in range(40)), tuple(NAMES[i % 5] for i in range(40)))
STREAM = RandomScans(ATLAS, seed=3)
ALL = Query("describe", (), {"about": "all"})


def measures_of(index=0, atlas=ATLAS, roi_mask=None):
    scan = STREAM[index]
    return ScanMeasures.of(scan["bold"], scan["t_r"], atlas, scan["roi_mask"] if roi_mask is None else roi_mask)


@pytest.fixture(scope="module")
def model_and_processor():
    return load_bundled_model()


@pytest.fixture(scope="module")
def reader(model_and_processor):
    return TableReader(*model_and_processor)


@pytest.fixture(scope="module")
def measures():
    return measures_of()


def random_table(names, columns, seed=0):
    """A table of names and columns with random standings, graded as measures of networks are."""
    rng = np.random.default_rng(seed)
    entries = {}
    for pair in itertools.product(names, columns):
        standing = rng.uniform(-2, 2)
        level = BINS[int(np.digitize(standing, BOUNDS_NETWORKS))]
        entries[pair] = Entry(standing, level, float(on_scale(standing, BOUNDS_NETWORKS)))
    return ValueTable((*names, *columns), entries)


def share_true(readings):
    return np.mean([one.is_true for one in readings])


# ----- levels -----


def test_all_families_of_scans_are_read_truly(reader):
    readings = [one for index in range(2) for one in read_levels(reader, None, measures_of(index), ALL)]
    for family in FAMILIES:
        assert share_true([one for one in readings if one.family == family]) >= 0.9, family
    assert share_true(readings) >= 0.95


def test_levels_follow_the_values_and_not_the_names(reader):
    names, columns = NAMES, ("amplitude", "falff")
    tables = [random_table(names, columns, seed) for seed in range(4)]
    pairs = list(itertools.product(names, columns))

    levels = reader.probabilities(tables, pairs).argmax(-1)

    truth = np.array([[BINS.index(table.entries[pair].level) for pair in pairs] for table in tables])
    assert (levels == truth).mean() >= 0.95
    assert (levels == np.roll(truth, 1, axis=0)).mean() <= 0.45


def test_two_names_that_change_places_change_their_levels(reader):
    table = random_table(NAMES, ("amplitude",))
    renamed = {"default": "motor", "motor": "default"}
    swapped = ValueTable(
        table.names,
        {(renamed.get(name, name), measure): entry for (name, measure), entry in table.entries.items()},
    )
    levels = [
        {one.names[0]: one.level for one in read_table(reader, "spectral", each, each.entries)}
        for each in (table, swapped)
    ]
    assert table.entries["default", "amplitude"].level != table.entries["motor", "amplitude"].level
    assert levels[1] == {renamed.get(name, name): level for name, level in levels[0].items()}


def test_scans_are_read_alike_alone_and_together(reader):
    tables = [random_table(NAMES, ("amplitude",), seed) for seed in range(3)]
    pairs = list(tables[0].entries)
    together = reader.probabilities(tables, pairs)

    assert together.shape == (3, 5, 5)
    np.testing.assert_allclose(together.sum(-1), 1, atol=1e-5)
    for table, rows in zip(tables, together, strict=True):
        np.testing.assert_allclose(reader.probabilities([table], pairs)[0], rows, atol=1e-4)


def test_names_may_be_words_of_the_question_or_parts_of_each_other(reader):
    names = ("between", "connectivity", "within", "and", "connectivity?", "scan")
    table = random_table(names, ("low", "high"))
    assert share_true(read_table(reader, "spectral", table, table.entries)) >= 0.9


def test_tables_with_more_names_than_a_prompt_holds_are_read_in_parts(reader):
    table = random_table([f"network {k}" for k in range(24)], SPECTRAL[:2])
    wanted = list(table.entries)[::3]
    readings = read_table(reader, "spectral", table, wanted)
    assert [one.names for one in readings] == wanted
    assert share_true(readings) >= 0.9


def test_a_reading_says_how_probable_it_is(reader, measures):
    (one,) = read_levels(reader, None, measures, Query("level", ("visual", "default")))
    assert one.names == ("default", "visual")
    assert one.by_numbers == measures.level("default", "visual")
    assert one.level == BINS[int(np.argmax(one.probabilities))]
    assert one.probability == max(one.probabilities) > 0.2


def test_a_model_with_its_processor_reads_as_a_reader_does(model_and_processor, reader, measures):
    query = Query("within", ("default",))
    assert read_levels(*model_and_processor, measures, query) == read_levels(reader, None, measures, query)


def test_what_a_scan_has_not_is_not_read(reader):
    mask = np.array(STREAM[0]["roi_mask"]) & (np.array(ATLAS.networks) != "limbic")
    masked = measures_of(roi_mask=mask)
    assert read_levels(reader, None, masked, Query("level", ("limbic", "visual"))) == []
    partners = read_levels(reader, None, masked, Query("partner", ("visual",), {"direction": "most"}))
    assert {name for one in partners for name in one.names} == set(NAMES) - {"limbic"}


# ----- which values a query is about -----


def asked(measures, query):
    return [pair for family in families_of(query) for pair in family_table(measures, family).entries
            if is_asked(query, family, pair)]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query("level", ("visual", "default")), [("default", "visual")]),
        (Query("within", ("motor",)), [("motor", "motor")]),
        (Query("yesno", ("motor",), {"claim": "low"}), [("motor", "motor")]),
        (Query("yesno", ("limbic", "visual"), {"claim": "low"}), [("visual", "limbic")]),
        (
            Query("compare", ("default", "default", "motor", "visual"), {"relation": "weaker"}),
            [("visual", "motor"), ("default", "default")],
        ),
        (Query("graph", (), {"measure": "modularity"}), [(WHOLE, "modularity")]),
        (Query("graph", ("limbic",), {"measure": "node_strength"}), [("limbic", "node_strength")]),
        (Query("graph", (), {"measure": "hub"}), [(name, "node_strength") for name in NAMES]),
        (Query("gradient", ("motor",), {"measure": "position"}), [("motor", POSITION)]),
        (Query("gradient", (), {"measure": "ends"}), [(name, POSITION) for name in NAMES]),
        (Query("gradient", (), {"measure": "range"}), [(WHOLE, "range")]),
        (Query("spectral", ("visual",), {"measure": "falff", "direction": None}), [("visual", "falff")]),
        (
            Query("spectral", (), {"measure": "amplitude", "direction": "most"}),
            [(name, "amplitude") for name in NAMES],
        ),
    ],
    ids=str,
)
def test_a_query_is_about_the_values_that_its_answer_needs(measures, query, expected):
    assert asked(measures, query) == expected


@pytest.mark.parametrize(
    ("query", "n_between", "n_within"),
    [
        (Query("strongest", (), {"scope": "between"}), 10, 0),
        (Query("weakest", (), {"scope": "within"}), 0, 5),
        (Query("strongest", (), {"scope": "any"}), 10, 5),
        (Query("rank", (), {"k": 3, "direction": "weakest"}), 10, 0),
        (Query("count", (), {"claim": "negative"}), 10, 0),
        (Query("partner", ("default",), {"direction": "least"}), 4, 0),
        (Query("describe", (), {"about": "connectivity"}), 10, 5),
    ],
    ids=str,
)
def test_a_search_among_pairs_is_about_all_of_them(measures, query, n_between, n_within):
    pairs = asked(measures, query)
    assert sum(first != second for first, second in pairs) == n_between
    assert sum(first == second for first, second in pairs) == n_within


def test_descriptions_are_about_their_topic(measures):
    assert families_of(ALL) == FAMILIES
    for topic, family in (
        ("graph", "graph"),
        ("gradients", "gradients"),
        ("ica", "spectral"),
        ("spectral", "spectral"),
    ):
        assert families_of(Query("describe", (), {"about": topic})) == (family,)
    of_network = asked(measures, Query("describe", ("motor",), {"about": "motor"}))
    assert len(of_network) == 5 + 1 + 1 + len(SPECTRAL)
    assert all("motor" in pair for pair in of_network)


# ----- wordings that the model was trained on, and what is refused -----


def test_questions_and_descriptions_are_asked_in_trained_words(reader, measures, monkeypatch):
    seen = []
    encode = reading.encode_question
    monkeypatch.setattr(
        reading, "encode_question", lambda p, question, a: seen.append(question) or encode(p, question, a)
    )
    fresh = TableReader(reader._model, reader._processor)
    table = family_table(measures, "connectivity")

    fresh.probabilities([table], [("default", "visual"), ("motor", "motor")])
    fresh.describe([table])

    words = NETWORK_WORDS
    expected = [queries.bin_question([words[0], words[1]]), queries.bin_question([words[4], words[4]])]
    assert seen == [*expected, queries.DESCRIBE[0]]


def test_a_model_that_reads_regions_is_refused():
    config = SimpleNamespace(reads_network_pairs=True, reads_rois=True, scan_tokens=["rois", "network_pairs"])
    with pytest.raises(ValueError, match=r"\['rois', 'network_pairs'\], expected \['network_pairs'\] alone"):
        TableReader(SimpleNamespace(config=config), None)


def test_a_model_needs_its_processor(model_and_processor, measures):
    with pytest.raises(ValueError, match="without a processor, expected both"):
        read_levels(model_and_processor[0], None, measures, ALL)


def test_a_prompt_holds_as_many_names_as_the_model_has_words_for(reader):
    table = random_table([f"network {k}" for k in range(24)], ("amplitude",))
    with pytest.raises(ValueError, match="has 25 names, expected at most 24: read its `parts`"):
        reader.probabilities([table], [("network 0", "amplitude")])


# ----- descriptions -----


@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("family", FAMILIES)
def test_descriptions_state_what_the_numbers_say_once(reader, index, family):
    measures = measures_of(index)
    found = describe_with_model(reader, None, measures, family)
    table = family_table(measures, family)

    assert found.statements
    claims = [(one.names, one.claim) for one in found.statements]
    assert len(set(claims)) == len(claims)
    assert len({one.text for one in found.statements}) == len(claims)
    assert found.text == " ".join(one.text for one in found.statements)
    for one in found.statements:
        assert one.text[0].isupper()
        assert one.text.endswith(".")
        assert all(name in one.text for name in one.names if name in NAMES)
        assert not any(word in one.text for word in NETWORK_WORDS)
        assert one.claim not in BINS or table.entries[one.names].level == one.claim
    assert sum(one.is_true for one in found.raw) / len(found.raw) >= 0.5


def test_a_model_with_its_processor_describes_as_a_reader_does(model_and_processor, reader, measures):
    found = describe_with_model(*model_and_processor, measures, "connectivity")
    assert found == describe_with_model(reader, None, measures, "connectivity")


def test_what_the_model_writes_in_training_is_parsed(measures):
    facts = queries.scan_facts(
        [measures.pair(NAMES[i], NAMES[j]) for i, j in zip(*np.triu_indices(5), strict=True)], [True] * 15, NAMES
    )
    labels = dict(zip(NETWORK_WORDS, NAMES))
    for seed in range(60):
        written = queries.ask_description(facts, random.Random(seed))
        for sentence, fact in zip(written.answer.split(". "), written.states, strict=True):
            for label, name in labels.items():
                sentence = sentence.replace(name, label)
            pair, claim = parse_sentence(sentence, labels)
            measure = fact_measure(fact)
            expected = BINS[round(fact["z"]) + 2] if measure == queries.PAIR_BIN else measure.split("/")[1]
            assert (list(pair), claim) == (fact["network"], expected)


@pytest.mark.parametrize(
    ("written", "pair", "claim"),
    [
        ("There is no readable scan.", (), ""),
        ("Between b and a, coupling is low or high.", ("A", "B"), ""),
        ("Connectivity between a and other is low.", (), "low"),
    ],
)
def test_other_sentences_claim_nothing_or_name_no_pair(written, pair, claim):
    assert parse_sentence(written, {"a": "A", "b": "B"}) == (pair, claim)


class Writes(TableReader):
    """A reader that writes what it is told, in the names of the table."""

    def __init__(self, reader, text):
        super().__init__(reader._model, reader._processor)
        self.text_to_write = text

    def labels(self, names):
        return dict(zip(names, names))

    def describe(self, tables):
        return [self.text_to_write]


def test_false_and_repeated_sentences_are_marked_and_left_out(reader, measures):
    level = measures.level("default", "visual")
    wrong = next(other for other in BINS if other != level)
    true = f"Between default and visual, coupling within this scan is {level}."
    false = f"Between default and visual, coupling within this scan is {wrong}."
    strongest = max(measures.between, key=lambda pair: abs(measures.between[pair]))
    other = next(pair for pair in measures.between if pair != strongest)
    extremes = [f"In this scan, the strongest coupling is between {a} and {b}." for a, b in (strongest, other)]
    text = " ".join([true, false, true, *extremes, "Nothing else."])

    found = describe_with_model(Writes(reader, text), None, measures, "connectivity")

    assert [one.is_true for one in found.raw] == [True, False, True, True, False, False]
    assert found.raw[1].text == false
    assert [(one.names, one.claim) for one in found.statements] == [
        (("default", "visual"), level),
        (strongest, "strongest"),
    ]


def test_the_strongest_and_the_weakest_coupling_are_those_by_size(reader, measures, monkeypatch):
    values = {("a", "a"): 2.0, ("a", "b"): -0.9, ("a", "c"): 0.7, ("b", "c"): 0.01}
    entries = {pair: Entry(value, "moderate", value) for pair, value in values.items()}
    table = ValueTable(("a", "b", "c"), entries, 0.3)
    monkeypatch.setattr(model_descriptions, "family_table", lambda *_: table)
    text = " ".join(
        f"Between {first} and {second} lies the {end} coupling."
        for end in ("strongest", "weakest")
        for first, second in values
        if first != second
    )
    found = describe_with_model(Writes(reader, text), None, measures, "connectivity")
    assert [(one.names, one.claim) for one in found.statements] == [(("a", "b"), "strongest"), (("b", "c"), "weakest")]


def test_the_most_notable_levels_are_stated():
    def read(name, measure, probable):
        probabilities = tuple(0.96 if k == probable else 0.01 for k in range(5))
        return LevelReading("graph", (name, measure), BINS[probable], probabilities, BINS[probable])

    readings = [read(name, "node_strength", k) for k, name in enumerate(NAMES)]
    chosen = most_notable([*readings, read(WHOLE, "modularity", 2)])
    assert [one.names[0] for one in chosen] == [WHOLE, "default", "motor"]
    assert len(most_notable([read(name, measure, 4) for name in NAMES for measure in SPECTRAL])) == 4


@pytest.mark.parametrize(
    ("level", "words"), [("moderate", "about what chance would make it"), ("low", "low against chance")]
)
def test_the_whole_scan_is_described_against_chance(reader, measures, monkeypatch, level, words):
    one = LevelReading("graph", (WHOLE, "modularity"), level, (0.2,) * 5, level)
    monkeypatch.setattr(model_descriptions, "read_table", lambda *_: [one, replace(one, by_numbers="high")])
    found = describe_with_model(reader, None, measures, "graph")
    assert found.text == f"The modularity of this scan is {words}."
    assert [one.is_true for one in found.raw] == [True, False]


def test_positions_are_named_by_the_ends_of_the_gradient_and_those_go_without_saying(reader):
    for index in range(4):
        measures = measures_of(index)
        found = describe_with_model(reader, None, measures, "gradients")
        for one in found.raw[1:]:
            assert one.names[0] not in measures.ends
            assert all(f"{end}" in one.text for end in measures.ends)


def test_of_a_gradient_that_may_be_chance_no_position_is_stated(reader, measures, monkeypatch):
    monkeypatch.setattr(model_descriptions, "gradient_is_chance", lambda measures: True)
    found = describe_with_model(reader, None, measures, "gradients")
    assert [one.names for one in found.raw] == [(WHOLE, "range")]


def test_an_unknown_family_is_refused(reader, measures):
    with pytest.raises(ValueError, match="'all', expected one of connectivity"):
        describe_with_model(reader, None, measures, "all")
