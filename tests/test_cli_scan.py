"""`fmri-lm ask` and `fmri-lm describe`: true answers about one scan, reasons, and errors that say what to do."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest
from questions.small_reader import KeywordReader

from fmri_lm_hf import cli
from fmri_lm_hf.bundled import example_scan, load_bundled_model
from fmri_lm_hf.cli import describe
from fmri_lm_hf.cli.model_words import facts_of
from fmri_lm_hf.cli.one_scan import OpenScan, add_scan_arguments, open_scan
from fmri_lm_hf.corpus.queries import pair_truth
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_files import read_scan
from fmri_lm_hf.questions.measures import ScanMeasures
from fmri_lm_hf.simulation.stream import random_scan

YEO = [f"7Networks_LH_{name}_{k}" for name in ("Vis", "SomMot", "Default", "Cont") for k in range(1, 7)]


@pytest.fixture(autouse=True)
def keywords(monkeypatch):
    """Questions are read by keywords: what is tested here is all that comes before and after."""
    monkeypatch.setattr("fmri_lm_hf.questions.numpy_reader.load_question_reader", KeywordReader)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = cli.main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def opened(path, t_r: float | None = None) -> tuple[OpenScan, ScanMeasures]:
    parser = argparse.ArgumentParser()
    add_scan_arguments(parser)
    scan = open_scan(parser.parse_args([str(path), *([] if t_r is None else ["--t-r", str(t_r)])]))
    row = scan.row
    return scan, ScanMeasures.of(row["bold"], row["t_r"], scan.atlas, row["roi_mask"], row["sample_mask"])


def brain(atlas: Atlas) -> np.ndarray:
    """Signals of a simulated brain with a TR of about 2 s, (n_timepoints, n_rois)."""
    return random_scan(atlas, 0, 7)["bold"]


def network_means(path) -> dict[tuple[str, str], float]:
    """Mean correlation of each network pair in units of the RMS correlation, straight from the table."""
    atlas = load_bundled_model()[1].feature_extractor.atlas
    correlation = np.corrcoef(read_scan(path, atlas).bold.T)
    off = ~np.eye(len(correlation), dtype=bool)
    rms = np.sqrt(np.mean(correlation[off] ** 2))
    networks = np.array(atlas.networks)
    return {
        (first, second): correlation[np.outer(networks == first, networks == second) & off].mean() / rms
        for place, first in enumerate(atlas.network_names)
        for second in atlas.network_names[place:]
    }


@pytest.fixture
def yeo_table(tmp_path):
    """A table whose ROI names state the networks of an atlas that the bundled model does not have."""
    bold = brain(Atlas.from_names(YEO, "yeo"))
    path = tmp_path / "sub-1.tsv"
    np.savetxt(path, bold, delimiter="\t", header="\t".join(YEO), comments="")
    return str(path)


def test_the_answer_about_the_example_scan_is_true(capsys):
    code, out, err = run(capsys, "ask", "example", "How strong is it between default and occipital?")
    assert (code, err) == (0, "")
    value = network_means(example_scan())["default", "occipital"]
    answer, table, source = out.split("\n\n")
    assert f"at {value:.2f} times the scan's RMS correlation" in " ".join(answer.split())
    head, row, relative = table.splitlines()
    assert head.split() == ["about", "value", "units", "level"]
    assert row.split() == ["default", "-", "occipital", f"{value:.2f}", "scan", "RMS", "correlation", "moderate"]
    assert relative.startswith("  relative to this scan's RMS correlation")
    assert source.startswith("Scan: example_scan.tsv (simulated). Atlas: dosenbach_2010, 160 ROIs in 6 networks")
    assert "assumed" not in source  # the ROI names of the table are those of the atlas


def test_how_a_question_was_understood_is_said_where_that_helps(capsys):
    understood = "Understood as: connectivity between default and occipital.\n"
    assert run(capsys, "ask", "example", "How strong is it between the DMN and occipital?")[1].startswith(understood)
    assert "Understood" not in run(capsys, "ask", "example", "between Default and occipital?")[1]
    out = run(capsys, "ask", "example", "the hub, and is it modular?")[1]
    assert out.startswith("Understood as: which network is the hub; modularity of the graph.\n")


def test_several_questions_are_answered_in_turn(capsys):
    questions = ["Which is the hub?", "What is 2+2?", "between default and occipital?"]
    code, out, _ = run(capsys, "ask", "example", *questions)
    assert code == 3  # one was declined
    places = [out.index(part) for part in ("The hub is ", "It is not a question about the scan.", "The coupling betw")]
    assert places == sorted(places)
    assert out.count("Scan: example_scan.tsv") == 1
    code, out, _ = run(capsys, "ask", "example", *questions, "--json")
    answers = json.loads(out)["answers"]
    assert code == 3
    assert [each["question"] for each in answers] == questions
    assert [each["declined"] for each in answers] == [False, True, False]


def test_json_is_the_answer_with_question_and_atlas(capsys):
    code, out, _ = run(capsys, "ask", "example", "hub", "--json")
    record = json.loads(out)
    assert code == 0
    assert list(record) == [
        *("question", "answer", "score", "declined", "reason", "queries", "evidence", "atlas", "simulated")
    ]
    assert record["queries"] == [{"intent": "graph", "networks": [], "extra": {"measure": "hub"}}]
    assert (record["atlas"], record["simulated"]) == ("dosenbach_2010", True)
    assert all(each["units"] and each["relative_to"] for each in record["evidence"])


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("", "The question is empty."),
        ("hello", "It is not a question about the scan."),
        ("What is 2+2?", "It is not a question about the scan."),
        ("How strong is it between default and amygdala?", 'This atlas has no "amygdala"'),
        ("between default and the brain", "That question needs 2 networks; found: default."),
    ],
)
def test_what_a_scan_cannot_tell_is_declined(capsys, question, reason):
    code, out, err = run(capsys, "ask", "example", question)
    assert (code, err) == (3, "")
    text = " ".join(out.split())
    assert text.startswith(reason)
    assert "You can ask, for example, " in text
    assert "value" not in out


def test_without_a_question_a_terminal_asks_until_a_line_is_empty(capsys, monkeypatch):
    typed = iter(["hub", "hello", "", "modular"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    code, out, _ = run(capsys, "ask", "example")
    assert code == 3
    assert out.startswith("Scan: example_scan.tsv (simulated).")
    assert out.index("The hub is") < out.index("It is not a question")
    assert "modularity" not in out
    assert next(typed) == "modular"


def test_the_end_of_the_input_ends_the_questions(capsys, monkeypatch):
    def end(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert run(capsys, "ask", "example")[0] == 0


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_without_question_and_terminal_there_is_an_error(capsys, monkeypatch, json_option):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: bool(json_option), raising=False)
    code, out, err = run(capsys, "ask", "example", *json_option)
    assert (code, out) == (2, "")
    assert err == "fmri-lm ask: There is no question: give one in quotes, or several.\n"


def test_further_names_come_from_a_file(capsys, tmp_path):
    names = tmp_path / "names.json"
    names.write_text('{"default": ["idle net"]}', encoding="utf-8")
    question = "How strong is it between the idle net and occipital?"
    assert run(capsys, "ask", "example", question)[0] == 3
    code, out, _ = run(capsys, "ask", "example", question, "--names", str(names))
    assert code == 0
    assert out.startswith("Understood as: connectivity between default and occipital.")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "names.json does not exist: check the path of --names"),
        ("{", "names.json is not JSON such as"),
        ("[]", "holds a list, expected names such as"),
        ('{"amygdala": ["a"]}', "`names` has the network 'amygdala', which the atlas lacks"),
    ],
)
def test_a_file_of_names_that_does_not_fit_is_refused(capsys, tmp_path, content, expected):
    names = tmp_path / "names.json"
    if content is not None:
        names.write_text(content, encoding="utf-8")
    code, out, err = run(capsys, "ask", "example", "hub", "--names", str(names))
    assert (code, out) == (2, "")
    assert expected in err


def test_the_language_model_can_read_along(capsys):
    question = "between default and occipital?"
    _, by_numbers, _ = run(capsys, "ask", "example", question)
    code, out, _ = run(capsys, "ask", "example", question, "--read", "model")
    assert code == 0
    assert "The language model reads the same level." in " ".join(out.split())
    assert " ".join(by_numbers.split("\n\n")[0].split()) in " ".join(out.split())


@pytest.mark.parametrize("command", [("ask", "hub"), ("describe",)])
def test_an_answer_from_the_numbers_loads_no_torch(command):
    code = (
        "import sys; sys.argv = ['fmri-lm']; sys.orig_argv = ['python', 'fmri-lm']\n"
        "from fmri_lm_hf import cli\n"
        "import fmri_lm_hf.questions.numpy_reader as reader\n"
        "from questions.small_reader import KeywordReader\n"
        "reader.load_question_reader = KeywordReader\n"
        f"assert cli.main({[command[0], 'example', *command[1:]]!r}) == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=with_tests_on_path())
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")


def with_tests_on_path() -> dict[str, str]:
    import os
    from pathlib import Path

    folder = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent)])}


# ----- describe -----


def test_a_description_states_the_numbers_of_the_scan(capsys, tmp_path):
    page = tmp_path / "report.html"
    code, out, err = run(capsys, "describe", "example", "--out", str(page))
    assert (code, err) == (0, "")
    values = {pair: value for pair, value in network_means(example_scan()).items() if pair[0] != pair[1]}
    strongest = max(values, key=values.__getitem__)
    assert f"{strongest[0]} - {strongest[1]}" in out
    for word in ("modularity", "principal gradient", f"{values[strongest]:.2f}", "simulated"):
        assert word in out
    text = page.read_text(encoding="utf-8")
    assert f"<td>{values[strongest]:.2f}</td>" in text
    assert "simulated" in text
    assert 'src="data:image/png;base64,' in text
    assert "http" not in text  # nothing is loaded from elsewhere
    assert "diagnosis" in text


@pytest.mark.parametrize(
    ("topic", "expected", "others"),
    [
        ("connectivity", "strongest coupling", ["modularity", "gradient", "fALFF"]),
        ("graph", "modularity", ["principal gradient", "fALFF"]),
        ("gradients", "principal gradient", ["modularity", "fALFF"]),
        ("default", "The coupling within default", ["modularity"]),
        ("DMN", "The coupling within default", ["modularity"]),
        ("Default", "The coupling within default", ["modularity"]),
    ],
)
def test_a_description_is_about_what_was_asked_for(capsys, topic, expected, others):
    code, out, _ = run(capsys, "describe", "example", "--about", topic, "--json")
    record = json.loads(out)
    assert code == 0
    assert expected in record["description"]
    assert not [word for word in others if word in record["description"]]
    assert [each["statement"] for each in record["statements"]] == sorted(
        (each["statement"] for each in record["statements"]), key=record["description"].index
    )


def test_a_topic_that_is_none_is_refused(capsys):
    code, _, err = run(capsys, "describe", "example", "--about", "amygdala")
    assert code == 2
    assert "--about amygdala is none of all, connectivity, graph, gradients, ica, spectral, nor one network of" in err


def test_a_scan_that_cannot_be_read_is_declined(capsys, tmp_path):
    path = tmp_path / "noise.npz"
    np.savez(path, bold=np.random.default_rng(0).standard_normal((150, 160)), t_r=2.0)
    reason = "The signals are white noise"
    for command in (("ask", str(path), "hub"), ("describe", str(path))):
        code, out, _ = run(capsys, *command)
        assert code == 3
        assert out.startswith(reason)
        assert "relative to" not in out
        code, out, _ = run(capsys, *command, "--json")
        record = json.loads(out)
        assert (code, record["declined"]) == (3, True)
        assert record["reason"].startswith(reason)


def test_the_models_own_description_agrees_with_the_numbers_of_the_scan(capsys, tmp_path):
    page = tmp_path / "report.html"
    code, out, err = run(capsys, "describe", "example", "--read", "model", "--out", str(page))
    assert (code, err) == (0, "")
    n_true = out.count("✓")
    assert n_true > 8
    assert "✗" not in out
    assert f"{n_true} of {n_true} statements agree with the scan." in out
    assert page.read_text(encoding="utf-8").count("<tr><td>✓</td>") == n_true
    code, out, _ = run(capsys, "describe", "example", "--read", "model", "--about", "connectivity", "--json")
    record = json.loads(out)
    assert len(record["statements"]) == 4
    values = network_means(example_scan())
    for each in record["statements"]:
        assert each["truth"]["value"] == pytest.approx(values[tuple(each["truth"]["networks"])], abs=0.01)


def test_a_false_statement_of_the_model_is_marked(capsys, monkeypatch):
    told = "Within-scan connectivity between default and occipital is markedly high. The age is 30."
    monkeypatch.setattr("fmri_lm_hf.cli.model_words.generate", lambda *args: told)
    options = ("--read", "model", "--about", "connectivity")
    code, out, _ = run(capsys, "describe", "example", *options)
    assert code == 0
    assert out.startswith(
        "✗ In this scan, connectivity between the default and the occipital network is markedly high."
    )
    assert "0 of 1 statements agree with the scan." in out
    _, out, _ = run(capsys, "describe", "example", *options, "--json")
    record = json.loads(out)
    assert record["description"] == told
    assert [each["is_true"] for each in record["statements"] if each["truth"]] == [False]


def test_the_model_describes_no_single_network(capsys):
    code, _, err = run(capsys, "describe", "example", "--read", "model", "--about", "DMN")
    assert code == 2
    assert "--read model describes all, connectivity, graph, gradients or spectral, not one network: DMN." in err


def test_any_model_can_describe_in_its_own_words(capsys, checkpoint, tmp_path, monkeypatch):
    from hub import tiny

    monkeypatch.setattr("fmri_lm_hf.descriptors.prepared.MIN_TIMEPOINTS", 8)
    monkeypatch.setattr("fmri_lm_hf.models.abstention.unreadable_reason", lambda *args, **options: None)
    scan = tmp_path / "scan.npz"
    np.savez(scan, bold=np.random.default_rng(0).standard_normal((16, tiny.N_ROIS)), t_r=2.0)
    code, _, err = run(capsys, "describe", str(scan), "--read", "model", "--model", str(checkpoint))
    assert code == 0, err
    assert err == "Reading scan.npz ...\n"


# ----- scans and atlases -----


def test_the_networks_that_roi_names_state_are_taken(capsys, yeo_table):
    code, out, _ = run(capsys, "ask", yeo_table, "Is connectivity within Vis high or low?", "--t-r", "2")
    assert code == 0
    assert "24 ROIs in 4 networks (from the ROI names)" in out
    assert "within Vis" in out


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"scan": "nothing.tsv"}, "nothing.tsv does not exist: check the path, or try `example`"),
        ({"columns": 100}, "has 100 ROIs (shape (150, 100)), expected 160 of atlas 'dosenbach_2010'"),
        ({"columns": 100}, "If the scan is of another atlas, name it: `--atlas"),
        ({"t_r": None}, "does not say its TR"),
        ({"atlas": "nowhere"}, "Unknown atlas 'nowhere'"),
        ({"atlas": "seitzman_2018"}, "expected 300 of atlas 'seitzman_2018'"),
    ],
)
def test_errors_say_what_to_do(capsys, tmp_path, change, expected):
    scan = tmp_path / "scan.npz"
    fields = {"bold": np.random.default_rng(0).standard_normal((150, change.get("columns", 160)))}
    if "t_r" not in change:
        fields["t_r"] = 2.0
    np.savez(scan, **fields)
    atlas = ("--atlas", change["atlas"]) if "atlas" in change else ()
    code, out, err = run(capsys, "describe", change.get("scan", str(scan)), *atlas)
    assert (code, out) == (2, "")
    assert err.startswith("fmri-lm describe: ")
    assert expected in err
    assert err.count("\n") == 1


def test_an_image_is_read_with_an_atlas_file_and_its_label_image(capsys, tmp_path):
    nib = pytest.importorskip("nibabel")
    halves = np.indices((8, 8, 8)) // 4
    blocks = (1 + halves[0] + 2 * halves[1] + 4 * halves[2]).astype(np.int16)
    networks = ("Vis", "Default")
    names = {f"roi_{k}": networks[k > 4] for k in range(1, 9)}
    signals = brain(Atlas("blocks", tuple(names), tuple(names.values())))
    bold = np.moveaxis(signals[:, blocks.ravel() - 1].reshape(-1, 8, 8, 8), 0, -1) + 100
    image = nib.Nifti1Image(bold, np.eye(4))
    image.header.set_zooms((1, 1, 1, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "bold.nii.gz")
    labels = tmp_path / "blocks.nii.gz"
    nib.save(nib.Nifti1Image(blocks, np.eye(4)), labels)
    table = tmp_path / "blocks.tsv"
    rows = [f"{k}\t{name}\t{network}\n" for k, (name, network) in enumerate(names.items(), 1)]
    table.write_text("index\tname\tnetwork\n" + "".join(rows))
    atlas = tmp_path / "blocks.json"
    assert cli.main(["atlas", str(labels), "--table", str(table), "--out", str(atlas)]) in (0, 1)
    capsys.readouterr()
    ask = ("ask", str(tmp_path / "bold.nii.gz"), "Is connectivity within Vis high or low?", "--atlas")
    code, out, err = run(capsys, *ask, str(atlas), "--labels-img", str(labels))
    assert code == 0, err
    assert "Atlas: blocks, 8 ROIs in 2 networks (given)." in out
    code, _, err = run(capsys, *ask, str(atlas))
    assert (code, "--labels-img" in err) == (2, True)
    code, _, err = run(capsys, *ask, str(labels))
    assert (code, "fmri-lm atlas" in err) == (2, True)
    code, _, err = run(capsys, *ask[:-1], "--labels-img", str(labels))
    assert (code, "--labels-img belongs to an atlas JSON file" in err) == (2, True)


def test_the_example_scan_is_what_its_script_makes(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    sys.modules.pop("example_scan", None)
    from example_scan import example_signals

    atlas, bold = example_signals()
    scan = read_scan(example_scan(), atlas)
    np.testing.assert_allclose(scan.bold, bold, atol=0.011)  # two digits, and another machine may round otherwise
    assert scan.t_r == 2.0
    assert scan.roi_mask.all()
    files = [example_scan(), example_scan().with_suffix(".json")]
    assert sum(file.stat().st_size for file in files) < 200_000
    assert json.loads(files[1].read_text(encoding="utf-8"))["Simulated"] is True


def test_the_bins_of_the_example_scan_vary():
    facts = facts_of(opened(example_scan())[1])
    pairs = {tuple(fact["network"]) for fact in facts}
    bins = {pair_truth(facts, pair).bin for pair in pairs}
    assert bins == {"markedly low", "low", "moderate", "high", "markedly high"}


def test_padding_does_not_enter_the_values(tmp_path):
    """Of a scan that is shorter than the model's input, and of skewed signals, whose mean is not the median."""
    path = tmp_path / "short.npz"
    bold = np.random.default_rng(0).exponential(size=(60, 160))
    bold += np.arange(60)[:, None] ** 2 / 300
    np.savez(path, bold=bold, t_r=2.0)
    expected = network_means(path)
    values = {tuple(fact["network"]): fact["value"] for fact in facts_of(opened(path)[1])}
    assert len(values) == len(expected)
    assert values == pytest.approx(expected, abs=1e-3)


def test_pictures_are_in_the_order_of_the_networks(tmp_path):
    path = tmp_path / "sub-1.tsv"
    in_turn = [YEO[k] for k in np.arange(24).reshape(4, 6).T.ravel()]  # no network's ROIs are next to each other
    signals = np.random.default_rng(1).standard_normal((160, 24))
    np.savetxt(path, signals, delimiter="\t", header="\t".join(in_turn), comments="")
    scan, measures = opened(path, t_r=2.0)
    carpet, matrix = (axes.images[0].get_array() for axes in describe.draw_scan(scan, measures).axes[:2])
    names, bold = list(scan.atlas.network_names), scan.row["bold"]
    values = ((bold - bold.mean(0)) / bold.std(0)).T
    by_network = [row for name in names for row, of in enumerate(scan.atlas.networks) if of == name]
    assert by_network != sorted(by_network)
    np.testing.assert_allclose(carpet, values[by_network], rtol=1e-4, atol=1e-5)
    for fact in facts_of(measures):
        first, second = (names.index(name) for name in fact["network"])
        assert matrix[first, second] == matrix[second, first] == pytest.approx(fact["value"])
