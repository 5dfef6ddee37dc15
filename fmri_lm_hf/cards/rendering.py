"""Model and dataset cards: Jinja templates filled with measured values, edited in place when pushed again.

A template of `model_cards/` opens with the metadata (YAML between `---` lines) and wraps every generated part:

    <!-- generated:scores -->
    ...
    <!-- /generated:scores -->

`render_card` fills a template. What was not measured or recorded shows as `[not recorded]`; nothing is guessed.
`update_card` brings an existing card up to date: it exchanges the generated blocks that nobody edited and the
metadata that follows from the data, and leaves every other byte as it was. A block remembers the checksum of
what was generated, so a block that a person has edited, or deleted, stays as that person left it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

# Scores as a card shows them: a table with every reader, and what the Hub indexes of this model alone.

OURS = "fmri_lm"  # the reader that is the model itself; all others are baselines and controls
METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "ROC AUC",
    "mean_absolute_error": "Mean absolute error",
}
# Results with this source are those of an earlier push, and go when new ones come.
RECORD_URL = re.compile(r"/(?:results|training_info)\.json$")


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a task and reader, the model itself first: `task`, `model`, `is_ours`, and the metrics."""
    return [
        {"task": task, "model": reader, "is_ours": reader == OURS, **metrics}
        for task, readers in _tasks(results)
        for reader, metrics in readers.items()
    ]


def not_above_controls(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Tasks in which the model was not shown to beat its controls, with the controls that it does not beat."""
    found = {}
    for task, verdict in _mapping(results.get("verdict")).items():
        if _mapping(verdict).get("beats_controls") is False:
            compared = _mapping(verdict.get("differences"))
            names = [str(name) for name in verdict.get("not_beaten") or ()]
            found[str(task)] = [
                name for name in names if _mapping(compared.get(name)).get("kind") == "control"
            ]
    return found


def model_index(repo_id: str, results: Mapping[str, Any], record: str) -> list[dict[str, Any]]:
    """The metrics of the model itself in the form that the Hub indexes; those of baselines are not its results.

    Parameters
    ----------
    repo_id : str
    results : mapping
    record : str
        The file of the repository that holds them.
    """
    name = _scans(results) or "scans that the record does not name"
    source = _source(repo_id, record)
    indexed = []
    for task, readers in _tasks(results):
        metrics = [
            {"type": metric, "value": readers[OURS][metric], "name": title}
            for metric, title in METRICS.items()
            if OURS in readers and _is_number(readers[OURS].get(metric))
        ]
        if metrics:
            indexed.append(
                {
                    "task": {"type": "zero-shot-classification", "name": task},
                    "dataset": {"type": str(results.get("dataset") or "fmri"), "name": name},
                    "metrics": metrics,
                    "source": source,
                }
            )
    return [{"name": repo_id.split("/")[-1], "results": indexed}] if indexed else []


def eval_results(repo_id: str, results: Mapping[str, Any]) -> str | None:
    """The scores of the model as `.eval_results/*.yaml`, which the Hub shows beside those of others on the same scans.

    Parameters
    ----------
    repo_id : str
    results : mapping
        Its `dataset` is the Hub id of the judged scans, and `commits` says at which commit they were judged.

    Returns
    -------
    str or None
        YAML; None where the scans are not on the Hub, so that there is nothing to be beside.
    """
    dataset = results.get("dataset")
    if not isinstance(dataset, str) or "/" not in dataset:
        return None
    revision = _mapping(results.get("commits")).get(dataset)
    unproven = not_above_controls(results)
    entries = []
    for task, readers in _tasks(results):
        ours = readers.get(OURS, {})
        metric = next(
            (name for name in ("mean_absolute_error", "balanced_accuracy") if _is_number(ours.get(name))),
            None,
        )
        if metric is None:
            continue
        notes = [METRICS[metric].lower(), *([split] if (split := _scans(results)) else [])]
        notes += ["not above its controls"] if task in unproven else []
        entries.append(
            {
                "dataset": {"id": dataset, "task_id": task, **({"revision": revision} if revision else {})},
                "value": ours[metric],
                "source": _source(repo_id, "results.json"),
                "notes": "; ".join(notes),
            }
        )
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True) if entries else None


def what_was_scored(results: Mapping[str, Any]) -> str | None:
    """Which scans the scores are about, as far as the record says it; None where it says nothing."""
    scans = _scans(results)
    simulated = " of a simulated cohort" if results.get("simulated") is True else ""
    return None if scans is None else scans + simulated


def _scans(results: Mapping[str, Any]) -> str | None:
    if results.get("holdout_site") is not None:
        return f"the scans of site {results['holdout_site']}, which was held out from training"
    if results.get("holdout_sites"):
        sites = ", ".join(map(str, results["holdout_sites"]))
        return f"the scans of the sites {sites}, which were held out from training"
    if isinstance(left_out := results.get("leave_one_site_out"), Mapping):
        named = ", ".join(map(str, left_out.get("sites") or ()))
        return f"the scans of the sites {named}, one after the other held out from the baselines, not from this model"
    if results.get("split"):
        return f"the {results['split']} split" + (
            f" of {results['dataset']}" if results.get("dataset") else ""
        )
    return str(results["dataset"]) if results.get("dataset") else None


def _source(repo_id: str, record: str) -> dict[str, str]:
    return {
        "name": f"{record} of the repository",
        "url": f"https://huggingface.co/{repo_id}/blob/main/{record}",
    }


def _tasks(results: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Every task with its readers, the model itself first."""
    tasks = results.get("tasks")
    for task, entries in tasks.items() if isinstance(tasks, Mapping) else ():
        readers = {name: dict(entry) for name, entry in _mapping(entries).items() if _is_reader(entry)}
        if readers:
            yield str(task), dict(sorted(readers.items(), key=lambda item: item[0] != OURS))


def _is_reader(entry: Any) -> bool:
    return any(_is_number(value) for key, value in _mapping(entry).items() if key in METRICS)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


NOT_RECORDED = "[not recorded]"
NO_LICENSE = "unknown"  # what the Hub takes where none is given; the card asks for one

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(
    r"<!-- generated:(?P<name>[\w-]+)(?: sha=(?P<sha>[0-9a-f]{12}))? -->\r?\n"
    r"(?P<body>.*?)<!-- /generated:(?P=name) -->",
    re.DOTALL,
)
_SIGNATURE = re.compile(r"\n<!-- unchanged since it was written: sha=([0-9a-f]{12}) -->\n\Z")
# What peft and transformers write into a fresh README: a form in which nobody has written anything yet.
_UNFILLED_FORM = "[More Information Needed]"

# Metadata that follows from the data: what is measured now replaces what was measured before.
_MEASURED_KEYS = (
    "base_model",
    "configs",
    "controlled",
    "dataset_info",
    "extra_gated_prompt",
    "extra_gated_fields",
)
_JOINED_KEYS = ("tags", "datasets")
_MEASURED_TAGS = ("simulated-data",)


def template_folder() -> Path:
    """The folder of the card templates: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "model_cards", package.parent / "model_cards"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"The card templates (`model_cards/*.md.jinja`) were not found in {package} nor beside it; "
        "install the package again."
    )


def load_template(name: str) -> str:
    """The text of the template `name`, for instance `"fmri_lm"` for `model_cards/fmri_lm.md.jinja`."""
    path = template_folder() / f"{name}.md.jinja"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".md.jinja") for p in template_folder().glob("[!_]*.md.jinja"))
        raise ValueError(f"There is no card template {name!r}; known templates are {known}.")
    return path.read_text(encoding="utf-8")


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
        What the template shows. A name that is missing, or None, is shown as `[not recorded]`; a name can be
        tested with `{% if name %}`. Filters: `percent`, `score` (three decimals), `commas` (thousands).

    Returns
    -------
    card : str
        Markdown with the checksum of every generated block in its opening comment.
    """
    import jinja2

    class Unknown(jinja2.ChainableUndefined):
        def __str__(self) -> str:
            return NOT_RECORDED

    load_template(template)  # with its error, when there is none of that name
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        undefined=Unknown,
        finalize=lambda value: NOT_RECORDED if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name, shape in {"percent": "{:.1%}", "score": "{:.3f}", "commas": "{:,}"}.items():
        environment.filters[name] = _number_filter(shape)
    text = environment.get_template(f"{template}.md.jinja").render(metadata=_yaml(metadata), **values)
    return _sealed(re.sub(r"\n{3,}", "\n\n", text))


def update_card(
    existing: str | None, rendered: str, always: Iterable[str] = (), add_blocks: bool = False
) -> str:
    """Bring an existing card up to date with a newly rendered one.

    Parameters
    ----------
    existing : str or None
        The card as it stands on the Hub or in the folder; None, or an unfilled form of `peft` or
        `transformers`, gives `rendered` as it is.
    rendered : str
        What `render_card` returned now.
    always : iterable of str
        Blocks that follow the data alone (such as the warning that the weights come from simulated scans): put
        back on top when they are missing, and taken out when `rendered` has them no more.
    add_blocks : bool, default=False
        Put blocks that the card does not have at its end: it was the card of something else, such as of a
        processor to which a model came.

    Returns
    -------
    card : str
        `existing`, in which only the generated blocks that nobody edited and the metadata that follows from
        the data have changed. A card without any generated block gets them all below its own text.
    """
    if existing is None or is_form(existing):
        return rendered
    existing = _SIGNATURE.sub("", existing)
    old_metadata, old_body, old_yaml = split_card(existing)
    new_metadata, new_body, _ = split_card(rendered)
    new_blocks = {match["name"]: match for match in _BLOCK.finditer(new_body)}
    always = tuple(always)

    def exchanged(match: re.Match[str]) -> str:
        new = new_blocks.get(match["name"])
        if match["sha"] != _checksum(match["body"]) or (new is None and match["name"] not in always):
            return match[0]
        return "" if new is None else new[0]

    if _BLOCK.search(old_body):
        body = _BLOCK.sub(exchanged, old_body)
    else:
        body = "\n\n".join([old_body.rstrip("\n"), *(match[0] for match in new_blocks.values())]) + "\n"
    for name in new_blocks if add_blocks else ():
        if name not in always and f"<!-- generated:{name}" not in body:
            body = f"{body.rstrip()}\n\n## {name.capitalize()}\n\n{new_blocks[name][0]}\n"
    for name in always:
        if name in new_blocks and f"<!-- generated:{name}" not in body:
            body = new_blocks[name][0] + "\n\n" + body.lstrip("\n")

    metadata = _merged_metadata(old_metadata, new_metadata)
    # The person's own YAML, with its comments and order, stays when nothing in it changes.
    return old_yaml + body if metadata == old_metadata and old_yaml else join_card(metadata, body)


def exchange_blocks(card: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the text of every generated block that nobody edited."""

    def exchanged(match: re.Match[str]) -> str:
        if match["sha"] != _checksum(match["body"]):
            return match[0]
        return _sealed(match[0].replace(match["body"], change(match["body"])))

    return _BLOCK.sub(exchanged, card)


def join_card(metadata: dict[str, Any], body: str) -> str:
    """A card of its metadata and its text: what `split_card` takes apart."""
    return f"---\n{_yaml(metadata)}---\n{body}"


def sign_card(card: str) -> str:
    """End a card with the checksum of its text, by which `is_edited` tells later whether it was changed since."""
    text = _SIGNATURE.sub("", card).rstrip("\n") + "\n"
    return f"{text}\n<!-- unchanged since it was written: sha={_checksum(text)} -->\n"


def is_edited(card: str) -> bool:
    """Whether a person wrote a card, or changed it since: it is neither what `sign_card` returned nor an empty form."""
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
            f"The metadata between the `---` lines of the card is not valid YAML ({error}); "
            "correct it by hand."
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(
            f"The metadata between the `---` lines of the card must be `key: value` lines, found {metadata!r}; "
            "correct it by hand."
        )
    return metadata, card[match.end() :], match[0]


def is_form(card: str) -> bool:
    """Whether nobody has written anything into a card yet: it is empty, or a form of `peft` or `transformers`."""
    return not card.strip() or card.count(_UNFILLED_FORM) > 5


def _sealed(text: str) -> str:
    """Write the checksum of each generated block into its opening comment."""

    def sealed(match: re.Match[str]) -> str:
        name, body = match["name"], match["body"]
        return f"<!-- generated:{name} sha={_checksum(body)} -->\n{body}<!-- /generated:{name} -->"

    return _BLOCK.sub(sealed, text)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:12]


def _merged_metadata(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The person's metadata, with measured keys brought up to date, tags joined and missing keys added."""
    merged = dict(old)
    for key, value in new.items():
        unknown_license = key == "license" and old.get(key) in (None, NO_LICENSE)
        if key in _MEASURED_KEYS or key not in old or unknown_license:
            merged[key] = value
    for key in _JOINED_KEYS:
        ours = _as_list(new.get(key))
        theirs = [value for value in _as_list(old.get(key)) if value not in _MEASURED_TAGS or value in ours]
        if theirs or ours:
            merged[key] = list(dict.fromkeys([*theirs, *ours]))
    results = _merged_results(old.get("model-index"), new.get("model-index"))
    if results:
        merged["model-index"] = results
    else:
        merged.pop("model-index", None)
    return merged


def _merged_results(old: Any, new: Any) -> list[dict[str, Any]]:
    """Results of `model-index`: those measured now replace all that were measured before; a person's stay."""

    def entries(index: Any) -> tuple[str, list[dict[str, Any]]]:
        first = index[0] if isinstance(index, list) and index and isinstance(index[0], dict) else {}
        return first.get("name", ""), list(first.get("results", []))

    name, measured = entries(new)
    old_name, earlier = entries(old)
    kept = [
        result
        for result in earlier
        if not RECORD_URL.search(str((result.get("source") or {}).get("url", "")))
    ]
    return [{"name": name or old_name, "results": [*measured, *kept]}] if measured or kept else []


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _number_filter(shape: str) -> Any:
    def filled(value: Any) -> str:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return shape.format(value) if is_number else NOT_RECORDED

    return filled


def _yaml(metadata: dict[str, Any]) -> str:
    filled = {
        key: value for key, value in metadata.items() if value is not None and value not in ([], {}, "")
    }
    return yaml.safe_dump(filled, sort_keys=False, allow_unicode=True, width=1000) if filled else ""
