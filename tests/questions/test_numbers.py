"""How many pairs a question wants to be listed, in many languages, beside numbers that say something else."""

# ruff: noqa: RUF001 - letters of other scripts are meant
from __future__ import annotations

import pytest

from fmri_lm_hf.questions.numbers import DEFAULT_K, number_in


@pytest.mark.parametrize(
    "text, number",
    [
        ("the 7 strongest pairs", 7),
        ("top5 by fc", 5),
        ("Top 5 networks", 5),
        ("the 100 weakest", 100),
        ("Rank them 1 to 4.", 4),
        ("places 1-6", 6),
        ("the FOUR weakest", 4),
        ("half a dozen strong ones", 6),
        ("weakest half-dozen", 6),
        ("a dozen", 12),
        ("winner and runner-up", 2),
        ("first, second, third and fourth place", 4),
        ("die fünf stärksten Paare", 5),
        ("les quatre plus forts", 4),
        ("las seis conexiones", 6),
        ("le due coppie più deboli", 2),
        ("os dez mais fortes", 10),
        ("de acht sterkste", 8),
        ("de tio starkaste", 10),
        ("de to stærkeste par", 2),
        ("dziewięć par", 9),
        ("a hat legerősebb pár", 6),
        ("Пять самых сильных пар", 5),
        ("en güçlü on bağlantı", 10),
        ("सबसे मज़बूत चार जोड़े", 4),
        ("५ सबसे मज़बूत", 5),
        ("最强的五对网络", 5),
        ("前5个最强的", 5),
        ("最强的两个网络对", 2),
        ("結合の強いペアを四つ", 4),
        ("ベスト5を出して", 5),
        ("가장 강한 네트워크 쌍 다섯 개", 5),
        ("상위 세 쌍", 3),
        ("상위8개", 8),
        ("상위다섯 쌍", 5),
    ],
)
def test_a_number_is_read(text, number):
    assert number_in(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the strongest pairs",
        # shares, fractions and nought
        "the top 10% of pairs",
        "the top 10 % of pairs",
        "the top 10 percent",
        "die obersten 10 Prozent",
        "those above 0.5",
        "those above 2.5",
        "über 0,5",
        "über 2,5",
        "0 of them",
        # numbers of something else
        "strongest pairs of the 17-network atlas",
        "strongest pairs of these 7 networks",
        "of all 78 pairs, the strongest",
        "the strongest of 8 minutes",
        "Table 2. Strongest pairs",
        "1. The strongest pairs",
        "my eyes in '85 were better: strongest pairs",
        "the strongest pairs with V1",
        "strongest in 7Networks_LH",
        "yüzde 10 içinde en güçlü",
        "第5名最强的网络对",
        "两两网络之间最强的",
        "這七個網絡中最强的连接",
        # words that are numbers in another language
        "the strongest pairs to look at, on this scan, due to fire",
        "Welche Paare hat der Scan?",
        "sei so gut, die stärksten Paare",
        "ten skan: najsilniejsze pary",
        "co to za pary",
        "इन दोनों में सबसे मज़बूत",
        "सातों में सबसे मज़बूत",
        "가장 강한 네트워크 쌍",
        "十分に強いペア",
        "someone, often: strongest pairs",
    ],
)
def test_what_is_no_number_of_pairs_is_passed_over(text):
    assert number_in(text) == DEFAULT_K
    assert number_in(f"{text}\n9 of them") == 9


def test_the_second_question_has_the_last_number():
    text = "the 4 strongest and then the six weakest"
    assert (number_in(text), number_in(text, last=True)) == (4, 6)
    assert number_in("the 4 strongest and weakest", last=True) == 4
