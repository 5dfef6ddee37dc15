"""Model and dataset cards: Jinja templates filled with measured values, updated in place by later pushes.

A template in `model_cards/` begins with the metadata (YAML between `---` lines) and wraps every generated part:

    <!-- generated:scores -->
    ...
    <!-- /generated:scores -->

[`render_card`] fills a template. Values that were not recorded show as `[not recorded]`; nothing is guessed.
[`update_card`] updates an existing card: it replaces the generated blocks that nobody edited and the metadata that
follow from the data, and leaves every other byte as it was. A block contains the checksum of its generated text, so a
block that a person has edited, or deleted, stays as that person left it. The functions at the end turn `results.json`
into the scores of a card, and into the two forms in which the Hub indexes scores.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import yaml

from ..files import project_folder

NOT_RECORDED = "[not recorded]"
NO_LICENSE = "unknown"  # the Hub's identifier for none; the card asks for one

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(
    r"<!-- generated:(?P<name>[\w-]+)(?: sha=(?P<sha>[0-9a-f]{12}))? -->\r?\n"
    r"(?P<body>.*?)<!-- /generated:(?P=name) -->",
    re.DOTALL,
)
_SIGNATURE = re.compile(r"\n<!-- unchanged since it was written: sha=([0-9a-f]{12}) -->\n\Z")
# In every field of the README that peft and transformers write: a form that nobody has filled in yet.
_UNFILLED_FORM = "[More Information Needed]"

# Metadata that follow from the data: a new push replaces them.
_MEASURED_KEYS = ("base_model", "configs", "controlled", "dataset_info", "extra_gated_prompt", "extra_gated_fields")
_JOINED_KEYS = ("tags", "datasets")
_MEASURED_TAGS = ("simulated-data",)

MODEL = "fmri_lm"  # the predictor that is the model; all others are baselines and controls
METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "ROC AUC",
    "mean_absolute_error": "Mean absolute error",
}
# `model-index` results with this source are from an earlier push, and are dropped when new ones arrive.
_RECORD_URL = re.compile(r"/(?:results|training_info)\.json$")


# ---- templates


def render_card(template: str, metadata: dict[str, Any], **values: Any) -> str:
    """Fill a card template.

    Parameters
    ----------
    template : str
        Name of a template in `model_cards/`.
    metadata : dict
        The metadata of the card, written as YAML where the template says `{{ metadata }}`. Keys whose value
        is None or empty are left out.
    **values
        Variables of the template. A name that is missing, or None, is shown as `[not recorded]`; a name can be
        tested with `{% if name %}`. Filters: `score` (three decimals), `commas` (thousands).

    Returns
    -------
    card : str
        Markdown with the checksum of every generated block in its opening comment.
    """
    import jinja2

    class NotRecorded(jinja2.ChainableUndefined):
        def __str__(self) -> str:
            return NOT_RECORDED

    # A missing name, an attribute of one, and None all show as not recorded: a hole in a card would be read as a zero
    # by the next person, and an exception would keep a model without scores from being published.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(project_folder("model_cards")),
        undefined=NotRecorded,
        finalize=lambda value: NOT_RECORDED if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,  # without it the last generated block would end on the line of its comment
    )
    environment.globals["not_recorded"] = NOT_RECORDED
    environment.filters["score"] = partial(_format_number, "{:.3f}")
    environment.filters["commas"] = partial(_format_number, "{:,}")
    try:
        source = environment.get_template(f"{template}.md.jinja")
    except jinja2.TemplateNotFound:
        names = [name.removesuffix(".md.jinja") for name in environment.list_templates()]
        known = [name for name in names if not name.startswith("_")]
        raise ValueError(f"There is no card template {template!r}; known templates are {known}.") from None
    return _seal(re.sub(r"\n{3,}", "\n\n", source.render(metadata=_yaml(metadata), **values)))


def is_number(value: Any) -> bool:
    """Return whether a value of a record is a finite number; True and False, which are integers of Python, are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _format_number(form: str, value: Any) -> str:
    return form.format(value) if is_number(value) else NOT_RECORDED


def _yaml(metadata: dict[str, Any]) -> str:
    filled = {key: value for key, value in metadata.items() if value is not None and value not in ([], {}, "")}
    return yaml.safe_dump(filled, sort_keys=False, allow_unicode=True, width=1000) if filled else ""


# ---- cards that exist


def update_card(existing: str | None, rendered: str, always: Iterable[str] = (), add_blocks: bool = False) -> str:
    """Update an existing card with a newly rendered one.

    Parameters
    ----------
    existing : str or None
        The card on the Hub or in the folder. None, or an unfilled form of `peft` or `transformers`, gives
        `rendered` as it is.
    rendered : str
        What `render_card` returned now.
    always : iterable of str
        Blocks that a person cannot remove, such as the warning that the weights come from simulated scans: put back
        on top when they are missing, and removed when `rendered` does not have them.
    add_blocks : bool, default=False
        Append blocks that the card does not have, because it was written for another kind of repository: for a
        processor to which a model is added.

    Returns
    -------
    card : str
        `existing`, in which only the generated blocks that nobody edited and the metadata that follow from the
        data have changed. A card without any generated block gets them all below its own text.
    """
    if existing is None or is_form(existing):
        return rendered
    existing = _SIGNATURE.sub("", existing)
    old_metadata, old_body, old_yaml = split_card(existing)
    new_metadata, new_body, _ = split_card(rendered)
    new_blocks = {match["name"]: match for match in _BLOCK.finditer(new_body)}
    always = tuple(always)

    def updated(match: re.Match[str]) -> str:
        new = new_blocks.get(match["name"])
        # A block without a checksum counts as edited: nobody can say that it was not. A block that is no longer
        # generated stays too, unless it is a warning that has become wrong.
        if match["sha"] != _checksum(match["body"]) or (new is None and match["name"] not in always):
            return match[0]
        return "" if new is None else new[0]

    if _BLOCK.search(old_body):
        body = _BLOCK.sub(updated, old_body)
    else:
        body = "\n\n".join([old_body.rstrip("\n"), *(match[0] for match in new_blocks.values())]) + "\n"
    for name in new_blocks if add_blocks else ():
        if name not in always and not has_block(body, name):
            body = f"{body.rstrip()}\n\n## {name.capitalize()}\n\n{new_blocks[name][0]}\n"
    for name in always:
        if name in new_blocks and not has_block(body, name):
            body = new_blocks[name][0] + "\n\n" + body.lstrip("\n")

    metadata = _merged_metadata(old_metadata, new_metadata)
    # A person's YAML keeps its comments and order when nothing in it changes: dumping it again would lose both.
    return old_yaml + body if metadata == old_metadata and old_yaml else join_card(metadata, body)


def exchange_blocks(card: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the text of every generated block that nobody edited."""

    def changed(match: re.Match[str]) -> str:
        if match["sha"] != _checksum(match["body"]):
            return match[0]
        # a new checksum, or the next push would take our own change for a person's edit and never update the block
        return _seal(match[0].replace(match["body"], change(match["body"])))

    return _BLOCK.sub(changed, card)


def has_block(card: str, name: str) -> bool:
    """Return whether a card has a generated block of this name, edited or not."""
    return f"<!-- generated:{name}" in card


def find_block(card: str, name: str) -> str | None:
    """Return a generated block of a card with its comments, edited or not; None where there is none."""
    match = re.search(rf"<!-- generated:{name}\b.*?<!-- /generated:{name} -->", card, re.DOTALL)
    return match[0] if match else None


def join_card(metadata: dict[str, Any], body: str) -> str:
    """Join metadata and text to a card: the inverse of `split_card`."""
    return f"---\n{_yaml(metadata)}---\n{body}"


def sign_card(card: str) -> str:
    """Append a checksum to a card, by which `is_edited` recognises later changes."""
    text = _SIGNATURE.sub("", card).rstrip("\n") + "\n"
    return f"{text}\n<!-- unchanged since it was written: sha={_checksum(text)} -->\n"


def is_edited(card: str) -> bool:
    """Return whether a person wrote or changed a card: it is neither what `sign_card` returned nor an empty form."""
    return card != sign_card(card) and not is_form(card)


def split_card(card: str) -> tuple[dict[str, Any], str, str]:
    """Split a card into its metadata, its text, and the metadata block as it was written."""
    match = _FRONT_MATTER.match(card)
    if match is None:
        return {}, card, ""
    try:
        metadata = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"The metadata between the `---` lines of the card are not valid YAML ({error}); correct them by hand."
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(
            f"The metadata between the `---` lines of the card must be `key: value` lines, found {metadata!r}; "
            "correct them by hand."
        )
    return metadata, card[match.end() :], match[0]


def is_form(card: str) -> bool:
    """Return whether nobody has filled in a card yet: it is empty, or a form of `peft` or `transformers`."""
    return not card.strip() or card.count(_UNFILLED_FORM) > 5


def _seal(text: str) -> str:
    """Write the checksum of each generated block into its opening comment."""

    def sealed(match: re.Match[str]) -> str:
        name, body = match["name"], match["body"]
        return f"<!-- generated:{name} sha={_checksum(body)} -->\n{body}<!-- /generated:{name} -->"

    return _BLOCK.sub(sealed, text)


def _checksum(text: str) -> str:
    # git may change line endings when a card is checked out, which is not an edit
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:12]


def _merged_metadata(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the person's metadata, with measured keys updated, tags joined and missing keys added."""
    merged = dict(old)
    for key, value in new.items():
        # Every new repository says "unknown" until somebody gives a licence: the only value of ours that a person's
        # metadata may contain.
        unknown_license = key == "license" and old.get(key) in (None, NO_LICENSE)
        if key in _MEASURED_KEYS or key not in old or unknown_license:
            merged[key] = value
    for key in _JOINED_KEYS:
        measured = _as_list(new.get(key))
        # simply joined, the tag of simulated data would stay after the model was trained on real scans
        kept = [value for value in _as_list(old.get(key)) if value not in _MEASURED_TAGS or value in measured]
        if kept or measured:
            merged[key] = list(dict.fromkeys([*kept, *measured]))
    results = _merged_results(old.get("model-index"), new.get("model-index"))
    if results:
        merged["model-index"] = results
    else:
        merged.pop("model-index", None)
    return merged


def _merged_results(old: Any, new: Any) -> list[dict[str, Any]]:
    """Return the results of `model-index`: new measurements replace all earlier ones; a person's results stay."""

    def entries(index: Any) -> tuple[str, list[dict[str, Any]]]:
        first = index[0] if isinstance(index, list) and index and isinstance(index[0], dict) else {}
        return first.get("name", ""), list(first.get("results", []))

    name, measured = entries(new)
    old_name, earlier = entries(old)
    kept = [result for result in earlier if not _RECORD_URL.search(str((result.get("source") or {}).get("url", "")))]
    return [{"name": name or old_name, "results": [*measured, *kept]}] if measured or kept else []


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


# ---- scores


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each task and predictor, the model first: `task`, `predictor`, `is_model`, and the metrics."""
    return [
        {"task": task, "predictor": predictor, "is_model": predictor == MODEL, **scores}
        for task, predictors in _tasks(results)
        for predictor, scores in predictors.items()
    ]


def not_above_controls(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the tasks in which the model was not shown to beat its controls, with the names of these controls."""
    controls_of = {}
    for task, verdict in _mapping(results.get("verdict")).items():
        if _mapping(verdict).get("beats_controls") is False:
            compared = _mapping(verdict.get("differences"))
            names = [str(name) for name in verdict.get("not_beaten") or ()]
            controls_of[str(task)] = [name for name in names if _mapping(compared.get(name)).get("kind") == "control"]
    return controls_of


def model_index(repo_id: str, results: Mapping[str, Any], record: str) -> list[dict[str, Any]]:
    """Return the scores of the model as `model-index` metadata, without those of baselines and controls.

    Parameters
    ----------
    repo_id : str
    results : mapping
    record : str
        The file of the repository that holds them.
    """
    name = _scans(results) or "scans that the record does not name"
    indexed = []
    for task, predictors in _tasks(results):
        scores = predictors.get(MODEL, {})
        metrics = [
            {"type": metric, "value": scores[metric], "name": title}
            for metric, title in METRICS.items()
            if is_number(scores.get(metric))
        ]
        if metrics:
            indexed.append(
                {
                    "task": {"type": "zero-shot-classification", "name": task},
                    "dataset": {"type": str(results.get("dataset") or "fmri"), "name": name},
                    "metrics": metrics,
                    "source": _source(repo_id, record),  # its own dict: YAML would refer to a shared one by an anchor
                }
            )
    return [{"name": repo_id.split("/")[-1], "results": indexed}] if indexed else []


def eval_results(repo_id: str, results: Mapping[str, Any]) -> str | None:
    """Return the scores of the model as `.eval_results/*.yaml`, by which the Hub compares models on a dataset.

    Parameters
    ----------
    repo_id : str
    results : mapping
        `dataset` is the Hub id of the evaluated scans, and `commits` holds their commit.

    Returns
    -------
    str or None
        YAML; None where the scans are not on the Hub.
    """
    dataset = results.get("dataset")
    if not isinstance(dataset, str) or "/" not in dataset:
        return None
    revision = _mapping(results.get("commits")).get(dataset)
    unproven = not_above_controls(results)
    entries = []
    for task, predictors in _tasks(results):
        scores = predictors.get(MODEL, {})
        metric = "mean_absolute_error" if is_number(scores.get("mean_absolute_error")) else "balanced_accuracy"
        if not is_number(scores.get(metric)):
            continue
        notes = [METRICS[metric].lower(), *([split] if (split := _scans(results)) else [])]
        notes += ["not above its controls"] if task in unproven else []
        entries.append(
            {
                "dataset": {"id": dataset, "task_id": task, **({"revision": revision} if revision else {})},
                "value": scores[metric],
                "source": _source(repo_id, "results.json"),
                "notes": "; ".join(notes),
            }
        )
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True) if entries else None


def what_was_scored(results: Mapping[str, Any]) -> str | None:
    """Describe the scans that were scored, as far as the record says; None where it does not say."""
    scans = _scans(results)
    simulated = " (a simulated cohort)" if results.get("simulated") is True else ""
    return None if scans is None else scans + simulated


def _scans(results: Mapping[str, Any]) -> str | None:
    if results.get("holdout_site") is not None:
        return f"the scans of site {results['holdout_site']}, which was held out from training"
    if results.get("holdout_sites"):
        sites = ", ".join(map(str, results["holdout_sites"]))
        return f"the scans of the sites {sites}, which were held out from training"
    if isinstance(left_out := results.get("leave_one_site_out"), Mapping):
        sites = ", ".join(map(str, left_out.get("sites") or ()))
        return f"the scans of the sites {sites}, each held out in turn from the baselines, not from this model"
    if results.get("split"):
        return f"the {results['split']} split" + (f" of {results['dataset']}" if results.get("dataset") else "")
    return str(results["dataset"]) if results.get("dataset") else None


def _source(repo_id: str, record: str) -> dict[str, str]:
    return {"name": f"{record} of the repository", "url": f"https://huggingface.co/{repo_id}/blob/main/{record}"}


def _tasks(results: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield every task with the scores of its predictors, the model first.

    Records of earlier releases hold questions and counts among the predictors of a task, so a predictor is recognised
    by a number under a name of `METRICS`.
    """
    for task, entries in _mapping(results.get("tasks")).items():
        predictors = {
            name: dict(entry)
            for name, entry in _mapping(entries).items()
            if any(is_number(_mapping(entry).get(metric)) for metric in METRICS)
        }
        if predictors:
            yield str(task), dict(sorted(predictors.items(), key=lambda item: item[0] != MODEL))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
