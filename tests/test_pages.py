"""Pages of reports: text is escaped, pictures are inside the file."""

import re

import numpy as np

from fmri_lm_hf.pages import bullets, heading, html_table, new_figure, page, paragraph, picture


def test_a_page_holds_its_parts_in_order_and_loads_nothing():
    figure = new_figure(figsize=(1, 1))
    figure.subplots().plot(np.arange(3))
    parts = [
        heading("Scores"),
        html_table(["task", "AUC"], [["sex", "0.81"]]),
        picture(figure, "a line", "A line."),
    ]
    text = page("Report", parts)
    assert text.startswith("<!doctype html>")
    assert text.count("Report") == 2  # the title of the window and of the page
    assert text.index("<h2>Scores</h2>") < text.index("<td>0.81</td>") < text.index("<figcaption>A line.")
    assert all(start.startswith("data:") for start in re.findall(r"""(?:src|href)=["']?(.{5})""", text))
    assert "<script" not in text


def test_text_is_escaped_and_html_is_not():
    unsafe = "<b>&'\""
    for part in (
        heading(unsafe),
        paragraph(unsafe),
        paragraph(unsafe, "warning"),
        bullets([unsafe]),
        html_table([unsafe], [[unsafe]]),
        picture(b"png", unsafe, unsafe),
    ):
        assert "<b>" not in part
        assert "&lt;b&gt;&amp;" in part
    assert "<svg></svg>" in page("Report", ["<svg></svg>"])
    assert "<title>&lt;b&gt;" in page(unsafe, [])


def test_a_picture_is_a_figure_or_the_bytes_of_a_file():
    assert "base64,UE5H" in picture(b"PNG", "")
    assert "figcaption" not in picture(b"PNG", "")


def test_columns_are_numbers_but_for_the_first_unless_all_are_text():
    assert html_table(["a"], []).startswith("<table>")
    assert html_table(["a"], [], text=True).startswith("<table class='text'>")
    assert paragraph("x", "warning") == "<p class='warning'>x</p>"
