"""Cards say what was measured, and what a person wrote into them stays."""

from __future__ import annotations

import json

import pytest
import yaml
from hub_processes import ClientError
from huggingface_hub import ModelCard, parse_eval_result_entries

from fmri_lm_hf.cards.dataset_cards import dataset_card
from fmri_lm_hf.cards.model_card import ModelFacts, model_card
from fmri_lm_hf.cards.rendering import (
    NOT_RECORDED,
    eval_results,
    is_edited,
    join_card,
    render_card,
    sign_card,
    split_card,
    update_card,
)

METADATA = {"library_name": "transformers", "tags": ["fmri"], "license": None}
SCORES = [{"task": "sex", "predictor": "fmri_lm", "is_model": True, "accuracy": 0.81234, "auc": None}]
INDEX = [
    {
        "name": "model",
        "results": [
            {
                "task": {"type": "zero-shot-classification", "name": "sex"},
                "dataset": {"type": "fmri", "name": "held-out scans"},
                "metrics": [{"type": "accuracy", "value": 0.8, "name": "Accuracy"}],
            }
        ],
    }
]


def card(**values):
    return render_card("fmri_lm", values.pop("metadata", METADATA), repo_id="org/model", **values)


def test_unknowns_are_marked_and_nothing_is_guessed():
    text = card(scores=SCORES)
    assert "| sex | **this model** | 0.812 | [not recorded] | [not recorded] |" in text
    assert f"| parameters | {NOT_RECORDED} |" in text
    assert f"| language model | {NOT_RECORDED} |" in text
    assert "license" not in split_card(text)[0]


def test_an_unknown_template_is_named():
    with pytest.raises(ValueError, match=r"no card template 'poem'; known templates are \[.*'fmri_lm'"):
        render_card("poem", {})


def test_the_hub_can_read_the_scores():
    results = ModelCard(card(metadata={**METADATA, "model-index": INDEX})).data.eval_results
    assert [(r.task_name, r.metric_type, r.metric_value) for r in results] == [("sex", "accuracy", 0.8)]


def test_updating_an_unedited_card_gives_the_new_one():
    assert update_card(card(), card(scores=SCORES)) == card(scores=SCORES)
    assert update_card(None, card()) == card()


EDITS = {
    "text after": lambda text: text + "\nWritten by a person.\n",
    "text before": lambda text: text.replace("## Use", "Read this first.\n\n## Use", 1),
    "a plain section": lambda text: text.replace("## Limits", "## Limits, as we met them", 1),
    "a section removed": lambda text: text[: text.index("## Data terms")],
    "inside a generated block": lambda text: text.replace("scan input", "scan input (after GSR)", 1),
    "a block removed": lambda text: text.replace(block(text, "about"), "", 1),
}


def block(text, name):
    start = text.index(f"<!-- generated:{name}")
    end = f"<!-- /generated:{name} -->"
    return text[start : text.index(end) + len(end)]


@pytest.mark.parametrize("edit", EDITS)
def test_what_a_person_wrote_stays_and_scores_are_brought_up_to_date(edit):
    edited = EDITS[edit](card())
    updated = update_card(edited, card(scores=SCORES))
    assert block(updated, "scores") == block(card(scores=SCORES), "scores")
    assert updated.replace(block(updated, "scores"), "") == edited.replace(block(edited, "scores"), "")
    assert update_card(updated, card(scores=SCORES)) == updated


def test_line_endings_of_another_system_are_no_edit():
    updated = update_card(card().replace("\n", "\r\n"), card(scores=SCORES))
    assert block(card(scores=SCORES), "scores") in updated


def test_a_card_of_a_person_gets_the_generated_parts_below():
    theirs = "# Our model\n\nMade in spring.\n"
    updated = update_card(theirs, card(scores=SCORES))
    assert split_card(updated)[1].startswith(theirs)
    assert updated.count("<!-- generated:scores") == 1
    assert update_card(updated, card(scores=SCORES)) == updated


def test_an_unfilled_form_is_replaced():
    assert update_card("# Model Card\n" + "- **x:** [More Information Needed]\n" * 9, card()) == card()


def test_metadata_of_a_person_wins_unless_it_was_measured():
    theirs = """---
# chosen with care
license: cc-by-nc-4.0
tags: [mine]
base_model: org/old
model-index:
- name: model
  results:
  - task: {type: text-generation}
    dataset: {type: wiki, name: wiki}
    metrics: [{type: perplexity, value: 9.0}]
---
text
"""
    ours = {"license": "apache-2.0", "tags": ["fmri"], "base_model": "org/new", "model-index": INDEX}
    metadata = split_card(update_card(theirs, card(metadata=ours)))[0]
    assert metadata["license"] == "cc-by-nc-4.0"
    assert metadata["tags"] == ["mine", "fmri"]
    assert metadata["base_model"] == "org/new"
    tasks = [result["task"]["type"] for result in metadata["model-index"][0]["results"]]
    assert tasks == ["zero-shot-classification", "text-generation"]
    # Where nothing changes, their comments and order stay too.
    unchanged = update_card(theirs, card(metadata={"license": "mit"}))
    assert unchanged.startswith("---\n# chosen with care\nlicense: cc-by-nc-4.0\ntags: [mine]\n")


def test_weights_from_simulated_scans_always_say_so():
    simulated = card(simulated=True)
    edited = simulated.replace(block(simulated, "simulated"), "")
    assert "Trained on simulated scans" in update_card(edited, simulated, always=("simulated",))
    assert "Trained on simulated scans" not in card(simulated=False)


def test_metadata_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match="not valid YAML"):
        update_card("---\n a: [\n---\ntext", card())
    with pytest.raises(ValueError, match="must be `key: value` lines, found 'word'"):
        update_card("---\nword\n---\ntext", card())


def test_a_signed_card_knows_whether_it_was_edited():
    signed = sign_card(card())
    assert not is_edited(signed)
    assert sign_card(signed) == signed
    assert is_edited(signed.replace("Limits", "limits"))
    assert is_edited(card())


FACTS = {
    "config": {"text_config": {"model_type": "llama"}},
    "training": {
        "scans": "org/rest-scans",
        "earlier": [{"corpus": "org/pairs"}],
        "arguments": {"scans": "local"},
    },
}
PREDICTORS = {
    "fmri_lm": {"accuracy": 0.7, "balanced_accuracy": 0.71, "auc": 0.72, "balanced_accuracy_se": 0.02},
    "oracle": {"accuracy": 0.9, "balanced_accuracy": 0.9, "auc": None},
    "majority": {"accuracy": 0.5},
}
TASK = {
    "question": "What is the sex?",
    "n_train": 10,
    "n_test": 5,
    "classes": {"female": 3},
    "note": [],
    **PREDICTORS,
}


@pytest.mark.parametrize("where", ["results", "scores", "scores with tasks"])
def test_only_predictors_are_scores_and_only_the_model_is_indexed(where):
    facts = {
        "results": {"results": {"tasks": {"sex": TASK}}},
        "scores": {"training": {"scores": {"sex": TASK}}},
    }
    facts["scores with tasks"] = {"training": {"scores": {"tasks": {"sex": TASK}, "seed": 1}}}
    text = model_card(ModelFacts("fmri_lm", **facts[where]), "org/model")
    assert "| sex | **this model** | 0.700 | 0.710 | 0.720 |\n| sex | oracle | 0.900 | 0.900 | [not" in text
    assert "female" not in block(text, "scores")
    results = ModelCard(text).data.eval_results
    assert {(r.metric_type, r.metric_value) for r in results} == {
        ("accuracy", 0.7),
        ("balanced_accuracy", 0.71),
        ("auc", 0.72),
    }


def test_errors_of_regression_have_a_column_where_there_are_any():
    age = {"fmri_lm": {"mean_absolute_error": 7.5}, "mean": {"mean_absolute_error": float("nan")}}
    text = model_card(ModelFacts("fmri_lm", results={"tasks": {"sex": TASK, "age": age}}), "org/model")
    table = block(text, "scores")
    assert "| AUC | mean absolute error |\n|---|---|---|---|---|---|\n| sex" in table
    assert "| age | **this model** | [not recorded] | [not recorded] | [not recorded] | 7.500 |\n" in table
    assert "nan" not in table
    assert "mean absolute error" not in card(scores=SCORES)
    assert "&id" not in text  # YAML's anchors, which not every reader of the metadata follows


def test_limits_of_an_fmri_tokenizer_are_not_those_of_answers():
    assert "Answers are fluent" in model_card(ModelFacts("adapter"), "org/lora")
    assert "Answers" not in model_card(ModelFacts("fmri_tokenizer"), "org/tokenizer")


def test_what_was_scored_is_said_only_where_it_was_recorded():
    def scores(**record):
        return block(model_card(ModelFacts("fmri_lm", results={"tasks": {"sex": TASK}, **record}), "org/m"), "scores")

    assert f"Which scans were scored, and whether the training saw their subjects: {NOT_RECORDED}" in scores()
    assert "On the scans of site B, which was held out from training, with" in scores(holdout_site="B")
    assert "On the test split of org/scans, with" in scores(split="test", dataset="org/scans")
    for record in ({}, {"holdout_site": "B"}):
        assert "no part of the training saw" not in scores(**record)


@pytest.mark.parametrize(
    ("kind", "library", "tag"),
    [
        ("fmri_lm", "transformers", "text-generation"),
        ("fmri_tokenizer", "transformers", "feature-extraction"),
        ("adapter", "peft", "text-generation"),
        ("processor", "transformers", None),
    ],
)
def test_metadata_are_complete(kind, library, tag):
    metadata, body, _ = split_card(model_card(ModelFacts(kind, **FACTS), "org/model"))
    assert (metadata["library_name"], metadata.get("pipeline_tag")) == (library, tag)
    assert metadata["license"] == "unknown"
    assert metadata["datasets"] == ["org/pairs", "org/rest-scans"]
    assert "](org/" not in body
    if kind != "processor":
        assert "Wei, Yuxiang and" in body
        assert "No licence was declared" in body
        licensed = ModelFacts(kind, training={"license": "mit"})
        assert split_card(model_card(licensed, "org/model"))[0]["license"] == "mit"


def test_a_dataset_of_no_known_kind_has_a_license_that_the_hub_knows():
    assert split_card(dataset_card("org/rows", ["text"], 3))[0]["license"] == "unknown"


def test_earlier_results_of_ours_go_and_those_of_a_person_stay():
    theirs = {**INDEX[0]["results"][0], "task": {"type": "text-generation", "name": "perplexity"}}
    first = model_card(ModelFacts("fmri_lm", results={"tasks": {"sex": TASK}}), "org/model")
    metadata, body, _ = split_card(first)
    metadata["model-index"][0]["results"].append(theirs)
    edited = join_card(metadata, body)
    other = model_card(ModelFacts("fmri_lm", results={"tasks": {"age": TASK}}), "org/model")
    for new, names in (
        (other, ["age", "perplexity"]),
        (model_card(ModelFacts("fmri_lm"), "org/model"), ["perplexity"]),
    ):
        merged = split_card(update_card(edited, new))[0]["model-index"][0]["results"]
        assert [result["task"]["name"] for result in merged] == names


EDIT_ON_THE_HUB = """
from huggingface_hub import HfApi
from pathlib import Path
api = HfApi()
text = Path(api.hf_hub_download(repo, "README.md")).read_text() + "A person wrote this on the Hub.\\n"
api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo)
"""
PUSH = """
from fmri_lm_hf.hub import push_to_hub
from huggingface_hub import hf_hub_download
push_to_hub(folder, repo)
result = open(hf_hub_download(repo, "README.md")).read()
"""


def test_a_card_that_was_edited_on_the_hub_is_edited_by_the_next_push(client, tmp_path):
    repo, folder = "org/card", tmp_path / "model"
    client.run("import tiny; tiny.save(folder)", folder=folder)
    first = client.run(PUSH, folder=folder, repo=repo)
    assert "| sex | connectivity_logistic | 0.810 |" in first
    assert "Trained on simulated scans" in first
    client.run(EDIT_ON_THE_HUB, repo=repo)
    results = json.loads((folder / "results.json").read_text())
    results["tasks"]["sex"]["connectivity_logistic"]["accuracy"] = 0.9
    (folder / "results.json").write_text(json.dumps(results))
    second = client.run(PUSH, folder=folder, repo=repo)
    assert "A person wrote this on the Hub." in second
    assert "| sex | connectivity_logistic | 0.900 |" in second
    indexed = ModelCard(second).data.eval_results
    assert {result.metric_value for result in indexed} == {
        0.8,
        0.79,
        0.85,
    }  # the baseline's 0.9 is not the model's


def test_a_card_in_the_folder_is_published_with_the_generated_parts(client, tmp_path):
    repo, folder = "org/own-card", tmp_path / "model"
    client.run("import tiny; tiny.save(folder)", folder=folder)
    (folder / "README.md").write_text("# Ours\n")
    published = client.run(PUSH, folder=folder, repo=repo)
    assert "# Ours\n" in published
    assert "connectivity_logistic" in published
    (folder / "README.md").write_text("# Ours, second edition\n")
    assert "# Ours, second edition\n" in client.run(PUSH, folder=folder, repo=repo)
    assert (folder / "README.md").read_text() == "# Ours, second edition\n"


def test_a_card_that_cannot_be_read_stops_the_push(client, tmp_path):
    folder = tmp_path / "model"
    client.run("import tiny; tiny.save(folder)", folder=folder)
    (folder / "README.md").write_text("---\n a: [\n---\n")
    with pytest.raises(ClientError, match="not valid YAML"):
        client.run(PUSH, folder=folder, repo="org/broken-card")


def test_scores_as_the_hub_reads_them():
    results = {
        "dataset": "org/scans",
        "commits": {"org/scans": "b" * 40, "org/model": "c" * 40},
        "split": "test",
        "tasks": {
            "sex": {
                "fmri_lm": {"balanced_accuracy": 0.8, "auc": 0.9},
                "majority": {"balanced_accuracy": 0.5},
            },
            "age": {"fmri_lm": {"balanced_accuracy": 0.4, "mean_absolute_error": 7.5}},
            "diagnosis": {"fmri_lm": {"balanced_accuracy": 0.5}, "noise": {"balanced_accuracy": 0.5}},
            "unknown": {"majority": {"balanced_accuracy": 0.5}},
        },
        "verdict": {
            "diagnosis": {
                "beats_controls": False,
                "not_beaten": ["noise"],
                "differences": {"noise": {"kind": "control"}},
            }
        },
    }
    found = parse_eval_result_entries(yaml.safe_load(eval_results("org/model", results)))
    assert [(e.dataset_id, e.task_id, e.value) for e in found] == [
        ("org/scans", "sex", 0.8),
        ("org/scans", "age", 7.5),
        ("org/scans", "diagnosis", 0.5),
    ]
    assert {e.dataset_revision for e in found} == {"b" * 40}
    assert [e.notes for e in found] == [
        "balanced accuracy; the test split of org/scans",
        "mean absolute error; the test split of org/scans",
        "balanced accuracy; the test split of org/scans; not above its controls",
    ]
    assert found[0].source_url == "https://huggingface.co/org/model/blob/main/results.json"
    assert eval_results("org/model", {**results, "dataset": "my_scans"}) is None
    assert eval_results("org/model", {**results, "tasks": {}}) is None
