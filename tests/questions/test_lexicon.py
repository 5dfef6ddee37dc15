# ruff: noqa: RUF001 (other scripts are meant)
"""Networks are found however they are written, and words that look like names are left alone."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from fmri_lm_hf.questions.lexicon import Lexicon

SEVEN = ("visual", "somatomotor", "dorsal attention", "salience/ventral attention", "limbic", "control", "default")
DOSENBACH = ("cerebellum", "cingulo-opercular", "default", "fronto-parietal", "occipital", "sensorimotor")
LOBES = ("frontal", "parietal", "temporal", "occipital", "insula", "cingulate", "subcortical", "cerebellum")
SCHAEFER17 = ("VisCent", "VisPeri", "SomMotA", "SomMotB", "ContA", "ContB", "DefaultA", "DefaultB", "DefaultC")
SIDES = ("left visual", "right visual", "left default", "right default")
BODY = ("sensorimotor hand", "sensorimotor mouth", "visual")
NUCLEI = ("thalamus", "pallidum", "amygdala", "cortex")


def sure(networks, text):
    return [x.network for x in Lexicon(networks).find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DMN-FPN coupling?", ["default", "control"]),
        ("how does the daydreaming network get on with the seeing part", ["default", "visual"]),
        ("Defualt mode with the limbc network", ["default", "limbic"]),
        ("Wie eng hängt das Ruhenetz mit dem Salienznetzwerk zusammen?", ["default", "salience/ventral attention"]),
        ("¿La red por defecto y la red visual?", ["default", "visual"]),
        ("Réseau dorsal de l'attention et réseau du mode par défaut", ["dorsal attention", "default"]),
        ("связь зрительной сети с сетью пассивного режима", ["visual", "default"]),
        ("siła sieci wzrokowej i sieci limbicznej", ["visual", "limbic"]),
        ("默认网络和背侧注意网络", ["default", "dorsal attention"]),
        ("視覚ネットワークと辺縁系ネットワーク", ["visual", "limbic"]),
        ("시각망이랑 디폴트 모드 네트워크", ["visual", "default"]),
        ("विज़ुअल नेटवर्क और कंट्रोल नेटवर्क", ["visual", "control"]),
        ("A vizuális hálózatban és az alapértelmezett hálózattal", ["visual", "default"]),
        ("görsel ağ ile limbik ağın bağlantısı", ["visual", "limbic"]),
        ("SalVentAttn x Cont", ["salience/ventral attention", "control"]),
        ("salience/ventral attention", ["salience/ventral attention"]),
    ],
)
def test_networks_are_found_in_many_languages_and_spellings(text, expected):
    assert sure(SEVEN, text) == expected


@pytest.mark.parametrize(
    ("networks", "text", "expected"),
    [
        (DOSENBACH, "visual with motor", ["occipital", "sensorimotor"]),
        (DOSENBACH, "executive control and CON", ["fronto-parietal", "cingulo-opercular"]),
        (LOBES, "fronto-parietal and frontotemporal", ["frontal", "parietal", "frontal", "temporal"]),
        (SCHAEFER17, "Default A and B, then ContB", ["DefaultA", "DefaultB", "ContB"]),
        (SCHAEFER17, "central with peripheral visual", ["VisCent", "VisPeri"]),
        (SIDES, "left and right visual, or rh.DMN", ["left visual", "right visual", "right default"]),
        (SIDES, "the two visual networks, left and right", ["left visual", "right visual"]),
        (BODY, "hand–mouth, and hand motor with vision", [*BODY[:2], BODY[0], "visual"]),
        (("7Networks_LH_Vis", "7Networks_LH_Default"), "visual vs DMN", ["7Networks_LH_Vis", "7Networks_LH_Default"]),
        (("Net_1", "Yellow blob"), "net 1 with the yellow blob", ["Net_1", "Yellow blob"]),
    ],
)
def test_names_are_read_with_the_networks_of_the_atlas(networks, text, expected):
    assert sure(networks, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Is the temporal autocorrelation high?",
        "Use the default settings, please.",
        "lower than in the control group or in healthy controls?",
        "on visual inspection",
        "pay attention and use plain language",
        "on the other hand, it moved",
        "what is the global value internally, in all seven regions",
        "la otra con la que va",
    ],
)
def test_words_that_look_like_names_are_none(text):
    assert Lexicon((*SEVEN, "temporal", "language", "cingulo-opercular")).find(text) == []


def test_what_the_atlas_lacks_is_said_with_what_is_near():
    found = Lexicon(DOSENBACH).find("amygdala and salience")
    assert [(x.concept, x.networks, x.reason) for x in found] == [
        ("amygdala", (), "absent"),
        ("salience", (), "absent"),
    ]
    assert "cingulo-opercular" in found[1].near


def test_a_side_or_a_parcel_is_a_part_where_the_atlas_does_not_tell_it_apart():
    (side,) = Lexicon(SEVEN).find("left visual network")
    (area,) = Lexicon(LOBES).find("PCC")
    assert (side.networks, side.near, side.reason) == ((), ("visual",), "part")
    assert (area.networks, area.near, area.reason) == ((), ("cingulate",), "part")


def test_a_base_name_of_several_networks_is_ambiguous():
    (mention,) = Lexicon(SCHAEFER17).find("the default network")
    assert mention.networks == ("DefaultA", "DefaultB", "DefaultC")
    assert mention.network is None
    assert mention.reason == "ambiguous"


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("la red visual con la red límbica", 2),
        ("hoe sterk is visueel meer dan limbisch verbonden met default", 3),
        ("CON–DMN", 2),
        ("con-dmn", 2),
    ],
)
def test_abbreviations_that_are_words_elsewhere_need_case_or_company(text, n):
    assert len(Lexicon((*SEVEN, "cingulo-opercular")).find(text)) == n


def test_places_are_those_of_the_text_and_do_not_overlap():
    text = "Wie stark koppelt das Sehnetz (VIS) mit DMN, FPN und Amygdala?"
    found = Lexicon(SEVEN).find(text)
    assert [text[x.start : x.end] for x in found] == ["Sehnetz", "VIS", "DMN", "FPN", "Amygdala"]
    assert all(x.end <= y.start for x, y in pairwise(found))


def test_delexicalising_numbers_networks_and_keeps_the_rest():
    text, mentions = Lexicon(SEVEN).delexicalise(
        "Is DMN–visual above the default mode's link to attention or amygdala?"
    )
    assert text == "Is n1 – n2 above the n1 's link to nq or nx ?"
    assert [x.network for x in mentions] == ["default", "visual", "default", None, None]


def test_a_user_gives_further_names():
    lexicon = Lexicon(SEVEN, extra={"default": ["idle net"]})
    assert [x.network for x in lexicon.find("the idle net with limbic")] == ["default", "limbic"]


def test_every_name_of_an_atlas_is_its_own_form():
    for networks in (SEVEN, DOSENBACH, LOBES, SCHAEFER17, SIDES, BODY, NUCLEI):
        for name in networks:
            assert sure(networks, f"{name}?") == [name]


def test_an_empty_atlas_and_a_doubled_name_are_errors():
    for networks in ((), ("visual", "visual")):
        with pytest.raises(ValueError, match="expected one name or more, each once"):
            Lexicon(networks)


def test_extra_names_of_an_unknown_network_are_an_error():
    with pytest.raises(ValueError, match="`extra` names auditory; expected networks of the atlas"):
        Lexicon(SEVEN, extra={"auditory": ["ears"]})


def test_a_question_takes_a_few_milliseconds():
    lexicon = Lexicon(SEVEN)
    questions = [f"Question {i}: is the DMN tightly bound to the visul network, word{i} foo{i}bar?" for i in range(50)]
    lexicon.find(questions[0])
    start = time.perf_counter()
    for question in questions:
        lexicon.find(question)
    assert (time.perf_counter() - start) / len(questions) < 0.05
