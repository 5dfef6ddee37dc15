"""The checker reads texts back; rewritten descriptions keep their facts."""

from __future__ import annotations

import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fmri_lm_hf.corpus import check_text, rewrite, verbalise


def make_fact(measure: str, *networks: str, z: float, value: float = 0.31) -> dict:
    return {
        "family": measure.split("/")[0],
        "feature": "/".join([measure, "-".join(networks)]) if networks else measure,
        "network": list(networks),
        "value": value,
        "z": z,
        "direction": "raised" if z >= 1 else "lowered" if z <= -1 else "typical",
        "units": "units",
    }


MODULARITY = make_fact("graph/modularity", z=2.13, value=0.4242)
EFFICIENCY = make_fact("graph/global_efficiency", z=-1.31)
STRENGTH = make_fact("graph/node_strength", "Default", z=1.62)
VISUAL = make_fact("graph/node_strength", "Visual", z=-1.44)
COUPLING = make_fact("connectivity/mean", "Default", "Visual", z=-2.4)
WITHIN = make_fact("connectivity/mean", "Default", "Default", z=1.9)
STRONGEST = make_fact("connectivity/strongest", "Default", "Visual", z=0.2)
FALFF = make_fact("ica/falff", z=0.4)
FACTS = [MODULARITY, EFFICIENCY, STRENGTH, VISUAL, COUPLING, WITHIN, STRONGEST, FALFF]


@pytest.mark.parametrize(
    "text, stated",
    [
        ("Modularity is high.", [MODULARITY]),
        ("The network modularity was markedly elevated (z=2.1).", [MODULARITY]),
        ("Modularity lies 2.1 SD above the mean.", [MODULARITY]),
        ("Modularity is 2.1 standard deviations above the cohort average, at 0.424.", [MODULARITY]),
        ("Raised modularity and lowered global efficiency characterise this scan.", [MODULARITY, EFFICIENCY]),
        ("While modularity is raised, global efficiency is reduced.", [MODULARITY, EFFICIENCY]),
        ("Modularity is above average and global efficiency below average.", [MODULARITY, EFFICIENCY]),
        (
            "Node strength is raised in the Default network and lowered in the Visual network.",
            [STRENGTH, VISUAL],
        ),
        ("The Default network shows higher node strength (z = 1.6).", [STRENGTH]),
        ("In Default, node strength is high and in Visual, node strength is low.", [STRENGTH, VISUAL]),
        ("Reduced default\N{EN DASH}visual coupling (z = \N{MINUS SIGN}2.4) stands out.", [COUPLING]),
        ("Default-Visual connectivity is weaker.", [COUPLING]),
        (
            "Functional connectivity between Visual and Default is decreased, -2.4 SD below the mean.",
            [COUPLING],
        ),
        ("Functional connectivity between Visual and Default is decreased by 2.4 SD.", [COUPLING]),
        ("Connectivity within the Default network is stronger.", [WITHIN]),
        ("The strongest connection is between the Visual and Default networks.", [STRONGEST]),
        ("In this scan, connectivity within the Default network is stronger.", [WITHIN]),
        ("Overall fALFF is unremarkable.", [FALFF]),
        ("Overall fALFF is not raised.", [FALFF]),
        ("", []),
        ("The participant rested with open eyes.", []),
    ],
)
def test_what_is_stated_is_matched(text, stated):
    report = check_text(text, FACTS)
    assert list(report.matched) == stated
    assert list(report.missing) == [fact for fact in FACTS if fact not in stated]
    assert not report.contradicted
    assert not report.invented
    assert report.precision == 1
    assert report.recall == pytest.approx(len(stated) / len(FACTS))


@pytest.mark.parametrize(
    "text, reason",
    [
        ("Modularity is reduced.", "direction is lowered, not raised"),
        ("Modularity is reduced (z = +2.1).", "direction is lowered, not raised"),
        ("Modularity is typical.", "direction is typical, not raised"),
        ("Modularity is not raised.", "direction is typical, not raised"),
        ("Modularity is raised (z = -2.1).", r"z is -2\.1, not \+2\.13"),
        ("Modularity is raised (z = +2.2).", r"z is \+2\.2, not \+2\.13"),
        ("Modularity is 2.1 SD below the mean.", r"z is -2\.1"),
        ("Modularity is raised by 3.1 SD.", r"z is ±3\.1"),
        ("Modularity is raised (value 0.52).", r"value is 0\.52, not 0\.4242"),
        ("Modularity is raised, at 42 percent.", "value is 42"),
        ("Modularity is slightly raised.", "degree is mild"),
        ("Overall fALFF is not typical.", "direction is not typical, not typical"),
        ("Node strength is lowered in the Default network.", "direction is lowered, not raised"),
        ("Node strength is raised in the Default and Visual networks.", "direction is raised, not lowered"),
        ("Default\N{EN DASH}Visual coupling is increased.", "direction is raised, not lowered"),
        ("Modularity is raised, although modularity is lowered.", "direction is lowered"),
        ("Global efficiency is clearly reduced.", "degree is marked"),
    ],
)
def test_what_is_stated_wrong_is_contradicted(text, reason):
    report = check_text(text, FACTS)
    assert len(report.contradicted) == 1
    fact, what = report.contradicted[0]
    assert re.search(reason, what)
    assert fact not in report.matched
    assert fact not in report.missing
    assert report.precision < 1


@pytest.mark.parametrize(
    "text",
    [
        "Average clustering is raised.",  # a measure that no fact is about
        "Node strength is raised in the Limbic network.",  # a network that no fact is about
        "Coupling between Default and Limbic networks is reduced.",
        "Node strength is raised.",  # of which network?
        "fALFF in the Default network is typical.",
        "The strongest connection is within the Default network.",
        "The weakest connection is between Default and Visual.",
        "Hippocampal volume is reduced.",
        "The participant is 45 years old.",
    ],
)
def test_what_no_fact_says_is_invented(text):
    report = check_text(text, FACTS, networks=["Limbic"])
    assert report.invented == (text,)
    assert not report.matched
    assert (report.precision, report.score) == (0, 0)


def test_scores_are_precision_and_recall():
    text = "Modularity is raised. Global efficiency is raised. Average clustering is raised."
    report = check_text(text, FACTS[:4])
    assert report.precision == pytest.approx(1 / 3)
    assert report.recall == pytest.approx(1 / 4)
    assert report.score == pytest.approx(2 / 7)
    assert not report.is_true


def test_an_empty_text_about_no_facts_is_true():
    assert check_text("", []).is_true
    assert check_text("", [MODULARITY]).score == 0


def test_numbers_count_to_the_digits_that_are_written():
    for number in ("0.42", "0.424", "0.4242"):
        assert not check_text(f"Modularity is raised, with {number}.", [MODULARITY]).contradicted, number
    for number in ("0.43", "0.425", "0.4243"):
        assert check_text(f"Modularity is raised, with {number}.", [MODULARITY]).contradicted, number
    tiny = make_fact("gradients/variance", z=1.2, value=1.234e-5)
    assert check_text("Gradient variance is raised (1.23e-05).", [tiny]).is_true
    assert check_text("Gradient variance is raised (1.25e-05).", [tiny]).contradicted


# Sentences of corpora that the release before has made: in the grammar's words of then.
BEFORE = [
    "Against the reference cohort, there is raised modularity of the graph (z of +2.1).",
    "The scan shows elevated graph modularity (value 0.424 Q, z = +2.1), but there is usual overall fALFF.",
    "In the Default network (value 0.3 summed correlation, z = +1.6), node strength is found to be heightened.",
    "Compared with the cohort, between Visual and Default (z of -2.4), connectivity is below average.",
    "Relative to scans of other sites or settings, between Visual and Default lies the strongest network pair.",
    "Efficiency of the graph is found to be diminished; overall fALFF is in the usual range.",
]


@pytest.mark.parametrize("text", BEFORE)
def test_texts_of_the_release_before_are_read(text):
    report = check_text(text, FACTS)
    assert report.matched
    assert not report.contradicted
    assert not report.invented


def test_the_names_of_the_release_before_work_and_say_so():
    import fmri_lm_hf.corpus as corpus

    with pytest.warns(FutureWarning, match="`faithfulness` is now `check_text`"):
        faithfulness = corpus.faithfulness
    with pytest.warns(FutureWarning, match=r"is now `TextCheck.is_true`"):
        assert faithfulness("", []).is_faithful
    with pytest.warns(FutureWarning, match="TextCheck"):
        assert corpus.Faithfulness is corpus.TextCheck


FACT = {
    "family": "graph",
    "feature": "graph/modularity",
    "network": [],
    "value": 0.42,
    "z": 2.13,
    "direction": "raised",
    "units": "Q",
}
TEXT = "Modularity is raised (z = +2.1)."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    alphabet = {chr(k): k - 31 for k in range(32, 127)}
    backend = Tokenizer(models.BPE(vocab={"<eos>": 0, **alphabet, "\n": 96}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


class Scripted:
    """A model that answers with given texts, one a call."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers, self.prompts = tokenizer, list(answers), []

    def generate(self, input_ids, **kwargs):
        self.prompts.append(self.tokenizer.decode(input_ids[0]))
        answer = self.tokenizer(self.answers.pop(0), return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, answer], dim=1)


def test_a_wording_with_the_same_facts_is_taken(tokenizer):
    model = Scripted(tokenizer, [" The graph modularity was elevated, at 2.1 SD above the mean. "])
    result = rewrite(TEXT, [FACT], model, tokenizer)
    assert result.accepted
    assert result.text == "The graph modularity was elevated, at 2.1 SD above the mean."
    assert TEXT in model.prompts[0]


@pytest.mark.parametrize(
    "answer",
    [
        "Modularity is reduced (z = +2.1).",
        "Modularity is raised (z = +3.1).",
        "Modularity is raised (z = +2.1) and clustering is raised.",
        "The scan is remarkable.",
        "",
    ],
)
def test_a_wording_that_changes_facts_is_rejected_and_the_original_kept(tokenizer, answer):
    result = rewrite(TEXT, [FACT], Scripted(tokenizer, [answer] * 3), tokenizer)
    assert not result.accepted
    assert result.text == TEXT
    assert not result.report.is_true


def test_further_attempts_are_made_until_one_is_right(tokenizer):
    answers = ["Modularity is low.", "Modularity is high.", "never asked for"]
    model = Scripted(tokenizer, answers)
    result = rewrite(TEXT, [FACT], model, tokenizer)
    assert (result.text, result.accepted, model.answers) == ("Modularity is high.", True, ["never asked for"])


def test_a_chat_template_is_used(tokenizer):
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
    chat.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [assistant] "
    model = Scripted(chat, ["Modularity is high."])
    assert rewrite(TEXT, [FACT], model, chat).accepted
    assert model.prompts[0].startswith("[user] Rewrite")


def test_any_causal_model_works_and_the_random_state_is_left_alone(tokenizer):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=512, n_embd=16, n_layer=1, n_head=2))
    before = torch.random.get_rng_state()
    results = [rewrite(TEXT, [FACT], model, tokenizer, attempts=1, seed=5) for _ in range(2)]
    assert results[0].text == results[1].text == TEXT  # random weights state no facts
    assert not results[0].accepted
    assert results[0].report == results[1].report
    torch.testing.assert_close(torch.random.get_rng_state(), before)


def test_a_text_that_does_not_fit_the_facts_is_refused(tokenizer):
    with pytest.raises(ValueError, match="does not fit the facts: direction is lowered"):
        rewrite("Modularity is lowered.", [FACT], Scripted(tokenizer, []), tokenizer)
    with pytest.raises(ValueError, match="it states none of the facts"):
        rewrite("A scan.", [FACT], Scripted(tokenizer, []), tokenizer)
    with pytest.raises(ValueError, match="attempts is 0"):
        rewrite(verbalise([FACT]), [FACT], Scripted(tokenizer, []), tokenizer, attempts=0)
