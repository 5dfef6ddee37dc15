from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fmri_lm_hf.corpus import rewrite, verbalise

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
