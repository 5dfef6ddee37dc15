"""HTML pages of reports: one Jinja template, and the parts that fill it.

A page is one file: styles and pictures are inside it, and nothing is loaded from elsewhere. Parts are strings of HTML;
the functions here escape the text that they are given.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = """
{%- macro heading(text, level) %}<h{{ level }}>{{ text }}</h{{ level }}>{% endmacro %}
{%- macro paragraph(text, kind) %}<p{% if kind %} class='{{ kind }}'{% endif %}>{{ text }}</p>{% endmacro %}
{%- macro bullets(texts) %}<ul>{% for text in texts %}<li>{{ text }}</li>{% endfor %}</ul>{% endmacro %}
{%- macro table(head, rows, kind) %}<table{% if kind %} class='{{ kind }}'{% endif %}>
<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endmacro %}
{%- macro picture(encoded, alt, caption) %}<figure><img alt="{{ alt }}" src="data:image/png;base64,{{ encoded }}">
{%- if caption %}<figcaption>{{ caption }}</figcaption>{% endif %}</figure>{% endmacro %}
{%- macro page(title, parts) %}<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: #212529 }
img, svg { max-width: 100% } figure { margin: 1rem 0 } figcaption { font-size: .85rem; color: #495057 }
table { border-collapse: collapse } tr { border-bottom: 1px solid #dee2e6 }
td, th { padding: .3rem .8rem; text-align: right; vertical-align: top }
th:first-child, td:first-child, .text th, .text td { text-align: left }
.warning { background: #fff3cd; border-left: 4px solid #ffc107; padding: .5rem 1rem }
.quote { border-left: 4px solid #89c2d9; padding-left: 1rem }
</style>
<h1>{{ title }}</h1>
{% for part in parts %}{{ part | safe }}
{% endfor %}</html>
{% endmacro %}
"""
# Text is escaped once, by the macro that takes it. Parts are HTML already: `safe` lets them through as they are.
_MACROS: Any = jinja2.Environment(autoescape=True).from_string(_TEMPLATE).module


def page(title: str, parts: Iterable[str]) -> str:
    """Make a page: parts, which are HTML, under a title.

    Examples
    --------
    >>> text = page("Scores", [paragraph("Of 20 scans."), html_table(["task", "AUC"], [["sex", "0.81"]])])
    """
    return str(_MACROS.page(title, parts))


def heading(text: str, level: int = 2) -> str:
    """Make a heading."""
    return str(_MACROS.heading(text, level))


def paragraph(text: str, kind: str = "") -> str:
    """Make a paragraph; ``kind`` may be "warning" or "quote"."""
    return str(_MACROS.paragraph(text, kind))


def bullets(texts: Iterable[str]) -> str:
    """Make a list."""
    return str(_MACROS.bullets(texts))


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], text: bool = False) -> str:
    """Make a table: the first column is text and all others are numbers, unless `text` says that all are text."""
    return str(_MACROS.table(head, rows, "text" if text else ""))


def new_figure(*args: Any, **kwargs: Any) -> Figure:
    """Make a matplotlib figure that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(*args, **kwargs)
    FigureCanvasAgg(figure)
    return figure


def picture(figure: Figure | bytes, alt: str, caption: str = "") -> str:
    """Make a picture of a matplotlib figure, or of the bytes of a PNG file.

    Parameters
    ----------
    figure : Figure or bytes
    alt : str
        What the picture shows, for those who cannot see it.
    caption : str
        Text below the picture.
    """
    if not isinstance(figure, bytes):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        figure = buffer.getvalue()
    return str(_MACROS.picture(base64.b64encode(figure).decode(), alt, caption))
