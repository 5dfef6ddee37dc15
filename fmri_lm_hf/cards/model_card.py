"""Render the cards of models, adapters and processors from their records: configuration, training, scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .rendering import NO_LICENSE, model_index, not_above_controls, render_card, score_rows, what_was_scored

_PIPELINE_TAGS = {"fmri_lm": "text-generation", "adapter": "text-generation", "fmri_tokenizer": "feature-extraction"}
# Keys under which a training record names the datasets that were trained on.
_DATASET_KEYS = ("dataset", "datasets", "scans", "scan_dataset", "corpus", "conversations")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class ModelFacts:
    """The records of a model for its card; a record is empty where its file is missing.

    Attributes
    ----------
    kind : {"fmri_lm", "fmri_tokenizer", "adapter", "processor"}
    config : mapping
        `config.json`, or `adapter_config.json` of an adapter.
    extractor : mapping
        The scan input of the processor: `atlas`, `n_timepoints`, `t_r`, `normalization`.
    training : mapping
        `training_info.json`.
    results : mapping
        `results.json`.
    n_parameters : int or None
    lora : str or None
        Whether a language model has a LoRA adapter next to its weights ("adapter") or within them ("merged").
    simulated : bool
        Whether any training scans were simulated.
    """

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    extractor: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    n_parameters: int | None = None
    lora: str | None = None
    simulated: bool = False


def model_card(facts: ModelFacts, repo_id: str) -> str:
    """Render the card of a model, an adapter or a processor.

    Parameters
    ----------
    facts : ModelFacts
    repo_id : str
        Shown in the examples.
    """
    if facts.training.get("conversion"):
        return converted_model_card(facts, repo_id)
    training = facts.training
    record = "results.json" if facts.results else "training_info.json"
    results = facts.results or _scores_of_training(training)
    base_model = facts.config.get("base_model_name_or_path") if facts.kind == "adapter" else None
    return render_card(
        facts.kind,
        _metadata(facts) | {"base_model": base_model, "model-index": model_index(repo_id, results, record)},
        repo_id=repo_id,
        config=facts.config,
        classifies="FmriLMForSequenceClassification" in (facts.config.get("architectures") or ()),
        extractor=facts.extractor,
        n_parameters=facts.n_parameters,
        training_rows=_table({key: value for key, value in training.items() if key != "scores"}),
        simulated=facts.simulated,
        scores=score_rows(results),
        scored=what_was_scored(results),
        not_above_controls=not_above_controls(results),
        base_model=base_model,
        license=training.get("license"),
    )


def converted_model_card(facts: ModelFacts, repo_id: str) -> str:
    """Render the card of a checkpoint of the published program that was converted.

    Parameters
    ----------
    facts : ModelFacts
        `conversion` in its training record holds `source`, `sha256`, `notes`, and `license` where it is known.
    repo_id : str
        Shown in the examples: a repository, or a folder.
    """
    conversion = facts.training["conversion"]
    is_language_model = facts.kind == "fmri_lm"
    config = facts.config
    atlas = facts.extractor.get("atlas")
    return render_card(
        "converted_model",
        _metadata(facts),
        repo_id=repo_id,
        conversion=conversion,
        kind="language model that reads fMRI scans" if is_language_model else "fMRI tokenizer",
        is_language_model=is_language_model,
        has_processor=facts.extractor.get("has_tokenizer", is_language_model),
        model_class=(config.get("architectures") or [None])[0],
        n_parameters=facts.n_parameters,
        language_model=(config.get("text_config") or {}).get("model_type"),
        lora=facts.lora,
        fmri=config.get("fmri_config") or config,
        atlas=atlas.get("name") if isinstance(atlas, Mapping) else atlas,
        extractor=facts.extractor,
        license=facts.training.get("license") or conversion.get("license"),
    )


def _metadata(facts: ModelFacts) -> dict[str, Any]:
    conversion = facts.training.get("conversion") or {}
    return {
        # The Hub knows a fixed list of libraries, by which it shows how to load a model and counts its downloads: with
        # "fmri_lm_hf" a repository would have neither snippet nor count.
        "library_name": "peft" if facts.kind == "adapter" else "transformers",
        "license": facts.training.get("license") or conversion.get("license") or NO_LICENSE,
        "language": ["en"] if facts.kind in ("fmri_lm", "adapter") else None,
        "pipeline_tag": _PIPELINE_TAGS.get(facts.kind),
        "datasets": sorted(set(_datasets(facts.training))),
        "tags": [
            "fmri",
            "neuroimaging",
            facts.kind.replace("_", "-"),
            "arxiv:2511.21760",
            *(["simulated-data"] if facts.simulated else []),
        ],
    }


def _scores_of_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores in a training record, with the fields that name the scored scans."""
    scores = training.get("scores")
    if not isinstance(scores, Mapping):
        return {}
    if isinstance(scores.get("tasks"), Mapping):
        return dict(scores)
    about = {key: training[key] for key in ("holdout_site", "holdout_sites", "simulated") if key in training}
    return {**about, "tasks": scores}


def _datasets(record: Any) -> Iterator[str]:
    """Yield the Hub ids of datasets that a training record names, at any depth."""
    if isinstance(record, list):
        for value in record:
            yield from _datasets(value)
    elif isinstance(record, Mapping):
        for key, value in record.items():
            if key in _DATASET_KEYS:
                names = value if isinstance(value, list) else [value]
                yield from (name for name in names if isinstance(name, str) and _HUB_ID.fullmatch(name))
            yield from _datasets(value)


def _table(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return a nested record as rows of dotted name and short value."""
    rows = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _table(value, f"{name}.")
        elif not isinstance(value, list) or len(json.dumps(value)) < 80:  # no loss histories, no lists of subjects
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
            rows.append((name, text.replace("|", "\\|").replace("\n", " ")))
    return rows
