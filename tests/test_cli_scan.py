"""`fmri-lm ask` and `fmri-lm describe`: true answers about one scan, and errors that say what to do."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from fmri_lm_hf import cli
from fmri_lm_hf.bundled import example_scan, load_bundled_model
from fmri_lm_hf.cli.ask import named_pairs, open_scan
from fmri_lm_hf.cli.describe import draw_scan
from fmri_lm_hf.corpus.queries import pair_truth
from fmri_lm_hf.models.scan_files import read_scan

NETWORKS = ("default", "default mode", "Vis", "fronto-parietal (L)")
YEO = [f"7Networks_LH_{name}_{k}" for name in ("Vis", "SomMot", "Default", "Cont") for k in range(1, 7)]


def run(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = cli.main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


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
def noise(tmp_path):
    """Noise with the number of columns that the bundled model's atlas has."""
    path = tmp_path / "noise.npz"
    np.savez(path, bold=np.random.default_rng(0).standard_normal((150, 160)), t_r=2.0)
    return str(path)


@pytest.fixture
def yeo_table(tmp_path):
    """A table whose ROI names state the networks of an atlas that the bundled model does not have."""
    rng = np.random.default_rng(1)
    bold = np.repeat(rng.standard_normal((160, 4)), 6, axis=1) + rng.standard_normal((160, 24))
    path = tmp_path / "sub-1.tsv"
    np.savetxt(path, bold, delimiter="\t", header="\t".join(YEO), comments="")
    return str(path)


def test_the_answer_about_the_example_scan_is_true(capsys):
    code, out, err = run(capsys, "ask", "example", "Which network pair is the weakest?")
    assert (code, err) == (0, "")
    values = {pair: value for pair, value in network_means(example_scan()).items() if pair[0] != pair[1]}
    first, second = min(values, key=lambda pair: abs(values[pair]))
    assert out.startswith(f"Between the {first} and the {second} network.")
    assert f"{first} - {second}" in out
    assert f"{values[first, second]:.2f}  low (weakest of 15)" in out
    assert "example_scan.tsv (simulated)" in out
    assert "dosenbach_2010, 160 ROIs in 6 networks" in out
    assert "assumed" not in out  # the ROI names of the table are those of the atlas


def test_every_pair_of_a_question_is_shown_with_its_value(capsys):
    question = "Is connectivity between Default and occipital higher than within sensorimotor?"
    code, out, _ = run(capsys, "ask", "example", question, "--json")
    record = json.loads(out)
    values = network_means(example_scan())
    pairs = {tuple(pair["networks"]): pair["value"] for pair in record["pairs"]}
    assert code == 0
    assert pairs == {pair: pytest.approx(values[pair], abs=0.01) for pair in pairs}
    assert set(pairs) == {("default", "occipital"), ("sensorimotor", "sensorimotor")}
    assert record["answer"] == "no"
    assert values["default", "occipital"] < values["sensorimotor", "sensorimotor"]
    assert record["simulated"]


def test_what_names_no_pair_is_said_to_be_unchecked(capsys):
    _, out, _ = run(capsys, "ask", "example", "How strong is connectivity between visual and limbic?")
    assert "Not checked: neither question nor answer names two networks of the atlas (cerebellum, " in out


@pytest.mark.parametrize("command", [("ask", "Which network pair is the strongest?"), ("describe",)])
def test_noise_is_declined(capsys, noise, command):
    code, out, _ = run(capsys, command[0], noise, *command[1:])
    assert code == 0
    assert out.startswith("There is no ")
    assert "Computed" not in out
    assert "agree" not in out


def test_a_description_agrees_with_the_numbers_of_the_scan(capsys, tmp_path):
    page = tmp_path / "report.html"
    code, out, err = run(capsys, "describe", "example", "--out", str(page))
    assert (code, err) == (0, "")
    assert out.count("✓") == 4
    assert "✗" not in out
    assert "4 of 4 statements agree with the scan." in out
    text = page.read_text(encoding="utf-8")
    assert text.count("<tr><td>✓</td>") == 4
    assert "simulated" in text
    assert 'src="data:image/png;base64,' in text
    assert "http" not in text  # nothing is loaded from elsewhere


def test_a_false_statement_is_marked(capsys, monkeypatch):
    from fmri_lm_hf.cli.ask import OpenScan

    told = "Within-scan connectivity between default and occipital is markedly high. The age is 30."
    monkeypatch.setattr(OpenScan, "answer", lambda self, question: told)
    code, out, _ = run(capsys, "describe", "example")
    assert code == 0
    assert out.startswith(
        "✗ In this scan, connectivity between the default and the occipital network is markedly high."
    )
    assert "0 of 1 statements agree with the scan." in out
    _, out, _ = run(capsys, "describe", "example", "--json")
    statements = json.loads(out)["statements"]
    assert [each["is_true"] for each in statements if each["truth"]] == [False]


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
    blocks = np.zeros((8, 8, 8), dtype=np.int16)
    blocks[:4, :4], blocks[4:, :4], blocks[:4, 4:], blocks[4:, 4:] = 1, 2, 3, 4
    signals = np.random.default_rng(0).standard_normal((160, 4))
    bold = np.moveaxis(signals[:, blocks.ravel() - 1].reshape(160, 8, 8, 8), 0, -1).astype(np.float32)
    image = nib.Nifti1Image(bold, np.eye(4))
    image.header.set_zooms((1, 1, 1, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "bold.nii.gz")
    labels = tmp_path / "blocks.nii.gz"
    nib.save(nib.Nifti1Image(blocks, np.eye(4)), labels)
    table = tmp_path / "blocks.tsv"
    table.write_text("index\tname\tnetwork\n1\ta\tVis\n2\tb\tVis\n3\tc\tDefault\n4\td\tDefault\n")
    atlas = tmp_path / "blocks.json"
    assert cli.main(["atlas", str(labels), "--table", str(table), "--out", str(atlas)]) in (0, 1)
    capsys.readouterr()
    ask = ("ask", str(tmp_path / "bold.nii.gz"), "Is connectivity within Vis high or low?", "--atlas")
    code, out, err = run(capsys, *ask, str(atlas), "--labels-img", str(labels))
    assert code == 0, err
    assert "Atlas: blocks, 4 ROIs in 2 networks (given)." in out
    code, _, err = run(capsys, *ask, str(atlas))
    assert (code, "--labels-img" in err) == (2, True)
    code, _, err = run(capsys, *ask, str(labels))
    assert (code, "fmri-lm atlas" in err) == (2, True)
    code, _, err = run(capsys, *ask[:-1], "--labels-img", str(labels))
    assert (code, "--labels-img belongs to an atlas JSON file" in err) == (2, True)


def test_any_model_can_be_asked(capsys, checkpoint, tmp_path):
    from hub import tiny

    scan = tmp_path / "scan.npz"
    np.savez(scan, bold=np.random.default_rng(0).standard_normal((16, tiny.N_ROIS)), t_r=2.0)
    code, _, err = run(capsys, "ask", str(scan), "Describe this scan.", "--model", str(checkpoint))
    assert code == 0, err
    assert err == "Reading scan.npz ...\n"


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("between default and VIS?", [("default", "Vis")]),
        ("Default mode and fronto-parietal (L)", [("default mode", "fronto-parietal (L)")]),
        ("within the default higher than within default mode", [("default",) * 2, ("default mode",) * 2]),
        ("between Vis and default, or default and Vis?", [("Vis", "default")]),
        ("within Vis? high, within Vis", [("Vis", "Vis")]),
        ("only default, and defaults", []),
    ],
)
def test_pairs_are_found_in_questions(text, pairs):
    assert named_pairs(text, NETWORKS) == pairs
    assert named_pairs(text, ()) == []


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
    scan = open_scan("example")
    pairs = {tuple(fact["network"]) for fact in scan.facts}
    bins = {pair_truth(scan.facts, pair).bin for pair in pairs}
    assert bins == {"markedly low", "low", "moderate", "high", "markedly high"}


def test_padding_does_not_enter_the_values(tmp_path):
    """Of a scan that is shorter than the model's input, and of skewed signals, whose mean is not the median."""
    path = tmp_path / "short.npz"
    bold = np.random.default_rng(0).exponential(size=(60, 160))
    bold += np.arange(60)[:, None] ** 2 / 300
    np.savez(path, bold=bold, t_r=2.0)
    expected = network_means(path)
    values = {tuple(fact["network"]): fact["value"] for fact in open_scan(str(path)).facts}
    assert len(values) == len(expected)
    assert values == pytest.approx(expected, abs=1e-3)


def test_pictures_are_in_the_order_of_the_networks(tmp_path):
    path = tmp_path / "sub-1.tsv"
    in_turn = [YEO[k] for k in np.arange(24).reshape(4, 6).T.ravel()]  # no network's ROIs are next to each other
    signals = np.random.default_rng(1).standard_normal((160, 24))
    np.savetxt(path, signals, delimiter="\t", header="\t".join(in_turn), comments="")
    scan = open_scan(str(path), t_r=2.0)
    carpet, matrix = (axes.images[0].get_array() for axes in draw_scan(scan).axes[:2])
    names, values = list(scan.network_names), scan.inputs["input_values"][0].numpy()
    by_network = [row for name in names for row, of in enumerate(scan.atlas.networks) if of == name]
    assert by_network != sorted(by_network)
    np.testing.assert_array_equal(carpet, values[by_network, : carpet.shape[1]])
    for fact in scan.facts:
        first, second = (names.index(name) for name in fact["network"])
        assert matrix[first, second] == matrix[second, first] == pytest.approx(fact["value"])
