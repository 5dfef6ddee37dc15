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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "NOT_RECORDED",
    "exchange_blocks",
    "is_edited",
    "join_card",
    "load_template",
    "render_card",
    "sign_card",
    "split_card",
    "template_folder",
    "update_card",
]

NOT_RECORDED = "[not recorded]"

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(
    r"<!-- generated:(?P<name>[\w-]+)(?: sha=(?P<sha>[0-9a-f]{12}))? -->\r?\n"
    r"(?P<body>.*?)<!-- /generated:(?P=name) -->",
    re.DOTALL,
)
_SIGNATURE = re.compile(r"\n<!-- published sha=([0-9a-f]{12}) -->\n\Z")
# What peft and transformers write into a fresh README: a form in which nobody has written anything yet.
_UNFILLED_FORM = "[More Information Needed]"

# Metadata that follows from the data: what is measured now replaces what was measured before.
_MEASURED_KEYS = ("base_model", "configs", "dataset_info", "extra_gated_prompt", "extra_gated_fields")


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


def update_card(existing: str | None, rendered: str, always: Iterable[str] = ()) -> str:
    """Bring an existing card up to date with a newly rendered one.

    Parameters
    ----------
    existing : str or None
        The card as it stands on the Hub or in the folder; None, or an unfilled form of `peft` or
        `transformers`, gives `rendered` as it is.
    rendered : str
        What `render_card` returned now.
    always : iterable of str
        Blocks that every card must show (such as the warning that the weights come from simulated scans):
        put back on top when they are missing.

    Returns
    -------
    card : str
        `existing`, in which only the generated blocks that nobody edited and the metadata that follows from
        the data have changed. A card without any generated block gets them all below its own text.
    """
    if existing is None or not existing.strip() or existing.count(_UNFILLED_FORM) > 5:
        return rendered
    old_metadata, old_body, old_yaml = split_card(existing)
    new_metadata, new_body, _ = split_card(rendered)
    new_blocks = {match["name"]: match for match in _BLOCK.finditer(new_body)}

    def exchanged(match: re.Match[str]) -> str:
        new = new_blocks.get(match["name"])
        if new is None or match["sha"] != _checksum(match["body"]):
            return match[0]
        return new[0]

    if _BLOCK.search(old_body):
        body = _BLOCK.sub(exchanged, old_body)
    else:
        body = "\n\n".join([old_body.rstrip("\n"), *(match[0] for match in new_blocks.values())]) + "\n"
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
    """End a card with the checksum of its text, by which `is_edited` tells later whether a person changed it."""
    text = _SIGNATURE.sub("", card).rstrip("\n") + "\n"
    return f"{text}\n<!-- published sha={_checksum(text)} -->\n"


def is_edited(card: str) -> bool:
    """Whether a card is not exactly what `sign_card` returned: somebody wrote it, or changed it since."""
    return card != sign_card(card)


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
        if key in _MEASURED_KEYS or key not in old:
            merged[key] = value
    tags = [*_as_list(old.get("tags")), *_as_list(new.get("tags"))]
    if tags:
        merged["tags"] = list(dict.fromkeys(tags))
    if "model-index" in new:
        merged["model-index"] = _merged_results(old.get("model-index"), new["model-index"])
    return merged


def _merged_results(old: Any, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of `model-index`: ours replace earlier ones of the same task and dataset, others stay."""

    def key(result: dict[str, Any]) -> tuple[str, ...]:
        task, dataset = result.get("task", {}), result.get("dataset", {})
        return tuple(str(value) for value in (task.get("type"), task.get("name"), dataset.get("name")))

    earlier = old[0].get("results", []) if isinstance(old, list) and old and isinstance(old[0], dict) else []
    measured = {key(result) for result in new[0]["results"]}
    kept = [result for result in earlier if key(result) not in measured]
    return [{"name": new[0]["name"], "results": [*new[0]["results"], *kept]}]


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
