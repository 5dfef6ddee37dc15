"""The report on tokens, for tokenizers whose qualities are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from experiments.tokens.measures import first_two, identification, intraclass_correlation
from experiments.tokens.readings import MAX_SIZE, Part, read_tokens
from experiments.tokens.report import tokens_report
from fmri_lm_hf import FmriFeatureExtractor, FmriTokenizerConfig, FmriTokenizerForPreTraining
from fmri_lm_hf.cli import main
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.scans.dataset import write_scan_dataset
from fmri_lm_hf.simulation import Site, simulate_cohort

N_SCANS = 24


@pytest.fixture(scope="module")
def cohort():
    return simulate_cohort(sites=[Site("A", N_SCANS), Site("B", N_SCANS)], seed=0)


@pytest.fixture(scope="module")
def extractor(cohort):
    return FmriFeatureExtractor(atlas=cohort.atlas, n_timepoints=80, t_r=2.0)


def tokenizer(cohort, quantizer: str = "fsq", features: str = "signal", **more) -> FmriTokenizerForPreTraining:
    torch.manual_seed(0)
    shape = {"fsq_levels": [4] * 6} if quantizer == "fsq" else {"codebook_size": 32, "codebook_dim": 8}
    if quantizer == "titok":
        shape["num_latent_tokens"] = 5
    config = FmriTokenizerConfig(
        n_rois=len(cohort.atlas.roi_names),
        n_timepoints=80,
        patch_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        input_features=[features],
        quantizer=quantizer,
        text_embed_dim=12,
        initializer_range=0.3,
        **shape,
        **more,
    )
    return FmriTokenizerForPreTraining(config).eval()


@pytest.fixture(scope="module")
def report(cohort, extractor):
    return tokens_report(tokenizer(cohort), extractor, cohort.dataset, ["diagnosis"])


# --- what is read ---------------------------------------------------------------------------------------------


def test_parts_of_a_scan_share_no_time_point():
    scan = {"bold": np.arange(101)[:, None] * np.ones(3), "t_r": 2.0, "sample_mask": np.arange(101) % 10 > 0}
    first, second = Part(0, 0.5).of(scan), Part(0.5, 1.0, every=2).of(scan)
    assert not set(first["bold"][:, 0]) & set(second["bold"][:, 0])
    assert second["t_r"] == 4.0
    assert first["t_r"] == 2.0
    np.testing.assert_array_equal(second["sample_mask"], second["bold"][:, 0] % 10 > 0)
    with pytest.raises(ScanError, match="has 9 observed time points, expected at least 20"):
        Part(0, 0.1).of(scan)


def test_a_sketch_keeps_similarities(cohort, extractor, monkeypatch):
    model, rows = tokenizer(cohort), list(range(12))
    whole = read_tokens(model, extractor, cohort.dataset, rows).values["tokens"]
    monkeypatch.setattr("experiments.tokens.readings.MAX_SIZE", 2048)
    sketch = read_tokens(model, extractor, cohort.dataset, rows).values["tokens"]
    assert sketch.shape[1] == 2048 < whole.shape[1] <= MAX_SIZE
    torch.testing.assert_close(torch.pdist(sketch), torch.pdist(whole), rtol=0.1, atol=0)


def test_scans_that_cannot_be_read_are_listed(cohort, extractor):
    shorter = cohort.dataset.select([0, 1]).map(
        lambda scan, row: {"bold": scan["bold"][: 3 if row else None]}, with_indices=True
    )
    readings = read_tokens(tokenizer(cohort), extractor, shorter, [0, 1])
    assert readings.rows == [0]
    assert list(readings.failures) == [shorter["scan_id"][1]]


# --- measures of stability, against worked examples ---------------------------------------------------------------


def test_subjects_with_similar_measurements_are_identified():
    draw = torch.Generator().manual_seed(0)
    people = torch.randn(10, 50, generator=draw)
    names, sites = [f"p{i}" for i in range(10)], ["A", "B"] * 5
    again = people + 0.1 * torch.randn(10, 50, generator=draw)
    found = identification(people, again, names, sites)
    assert found["anywhere"] == pytest.approx({"rate": 1.0, "chance": 0.1, "n": 20})
    assert found["same_site"] == pytest.approx({"rate": 1.0, "chance": 0.2, "n": 20})
    assert "other_sites" not in found  # no subject was measured at two
    other = identification(people, again.roll(1, 0), names, sites)
    assert other["anywhere"]["rate"] == 0.0


def test_a_measurement_is_not_compared_with_itself():
    values = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    assert identification(values, values, list("aabbcd"), ["A"] * 6)["anywhere"]["n"] == 4
    assert identification(values, values, list("abcdef"), ["A"] * 6) == {}
    twice = values[[0, 0, 2, 2, 4, 5]] + 1e-3 * torch.randn(6, 20)
    found = identification(twice, twice, list("aabbcd"), list("ABABAB"))
    assert found["anywhere"]["rate"] == found["other_sites"]["rate"] == 1.0


def test_icc_is_the_share_of_variance_between_subjects():
    draw = torch.Generator().manual_seed(0)
    person = torch.randn(4000, 8, generator=draw)
    first, second = (person + torch.randn(4000, 8, generator=draw) for _ in range(2))
    assert intraclass_correlation(first, second)["median"] == pytest.approx(0.5, abs=0.04)
    assert intraclass_correlation(person, person)["median"] == pytest.approx(1.0)
    assert first_two(list("abcab")) == ([0, 1], [3, 4])


# --- the report ---------------------------------------------------------------------------------------------------


def test_the_report_has_every_part(report):
    parts = (
        "codes",
        "reconstruction",
        "connectivity_r",
        "coskewness_r",
        "identification",
        "icc",
        "site",
        "motion",
    )
    assert {*parts, "phenotypes", "retrieval"} <= set(report)
    assert report["n_scans"] == 2 * N_SCANS
    assert report["n_seen_in_training"] is None
    levels = report["codes"]["levels"]
    assert all(level["used"] + level["dead"] == report["codes"]["n_codes"] == 4**6 for level in levels)
    assert report["identification"]["other_scan"] == {"left_out": "No subject has a second scan."}
    assert set(report["phenotypes"]) == {"diagnosis", "sex", "age"}
    assert report["retrieval"] == {"left_out": "There are no texts: give a corpus and the text model of the training."}
    halves = report["identification"]["halves"]
    assert halves["connectivity"]["anywhere"]["rate"] > 10 * halves["connectivity"]["anywhere"]["chance"]


def test_a_tokenizer_that_forgets_nothing_keeps_everything(cohort, extractor, monkeypatch):
    model = tokenizer(cohort)
    rows, inputs = list(range(6)), []
    encode, decode = model.encode, model.decode
    monkeypatch.setattr(model, "encode", lambda **given: inputs.append(given) or encode(**given))

    def perfect(codes, token_mask):
        output = decode(codes, token_mask)
        output.reconstruction = inputs[-1]["input_values"]
        return output

    monkeypatch.setattr(model, "decode", perfect)
    kept = read_tokens(model, extractor, cohort.dataset, rows).values
    assert kept["unexplained_signal"].abs().max() < 1e-6
    for name in ("edges", "coskewness"):
        torch.testing.assert_close(kept[name], kept[f"{name}_again"], equal_nan=True)
    # co-skewness as it is defined, of one scan
    signal = inputs[-1]["input_values"][0].double()
    unit = signal - signal.mean(-1, keepdim=True)
    unit = unit / unit.norm(dim=-1, keepdim=True)
    chosen = torch.randint(len(unit), (3, 20_000), generator=torch.Generator().manual_seed(0))
    chosen = chosen[:, (chosen[0] != chosen[1]) & (chosen[1] != chosen[2]) & (chosen[0] != chosen[2])]
    expected = torch.einsum("nt,nt,nt->n", *unit[chosen])
    torch.testing.assert_close(kept["coskewness"][0].double(), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("quantizer", "features"), [("vq", "connectivity"), ("titok", "signal")])
def test_every_quantizer_and_input_is_reported(cohort, extractor, quantizer, features):
    report = tokens_report(tokenizer(cohort, quantizer, features), extractor, cohort.dataset.select(range(8)))
    assert "mean" in report["connectivity_r"]["whole"]
    assert ("left_out" in report["coskewness_r"]) == (features == "connectivity")


def test_texts_that_encode_their_scans_are_retrieved(cohort, extractor, monkeypatch):
    model, scans = tokenizer(cohort), cohort.dataset.select(range(12))
    model.alignment.text_mean.zero_()
    draw = torch.Generator().manual_seed(0)
    inputs = [extractor(scan) for scan in scans]
    own = torch.cat([model.embed_scans(**each) for each in inputs])
    texts = dict(zip(scans["scan_id"], own))
    found = tokens_report(model, extractor, scans, texts=texts)["retrieval"]
    assert found["scan_to_text"]["r@1"] == found["text_to_scan"]["r@1"] == 1.0
    assert found["chance"]["r@5"] == pytest.approx(5 / 12)
    same = dict.fromkeys(scans["scan_id"], torch.randn(12, generator=draw))
    found = tokens_report(model, extractor, scans, texts=same)["retrieval"]
    assert found["scan_to_text"] == {"r@1": 0.0, "r@5": 0.0}  # of equals half are before it


def test_probes_of_an_unseen_site_are_trained_on_the_others(cohort, extractor):
    def labelled(scan):  # at B the label says the opposite of what it says at A
        return {"sex": scan["sex"] if scan["site"] == "A" else {"female": "male", "male": "female"}[scan["sex"]]}

    model = tokenizer(cohort)
    turned = tokens_report(model, extractor, cohort.dataset.map(labelled), holdout_site="B")
    report = tokens_report(model, extractor, cohort.dataset, holdout_site="B")
    assert report["n_scans"] == N_SCANS
    assert report["site"]["connectivity"]["n"] == 2 * N_SCANS
    auc, other = (each["phenotypes"]["sex"]["connectivity"]["auc"] for each in (report, turned))
    assert auc == pytest.approx(1 - other)


def test_the_command_writes_report_table_and_page(cohort, extractor, tmp_path, capsys):
    write_scan_dataset(cohort.dataset, tmp_path / "scans", cohort.atlas, parameters={"simulated": True})
    tokenizer(cohort).save_pretrained(tmp_path / "model")
    extractor.save_pretrained(tmp_path / "model")
    words = ["tokens", "report", str(tmp_path / "model"), "--scans", str(tmp_path / "scans")]
    assert main([*words, "--out", str(tmp_path / "out"), "--labels", "diagnosis"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    assert "subject identification, split halves" in printed
    assert "Codes in use, of 4096, by stage: " in printed
    assert page.count("data:image/png") == 3
    assert "it has no clinical meaning" in page
    assert report["simulated"] is True
    assert str(tmp_path) not in page + json.dumps(report)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corpus", "c"], "--text-model is missing: give both --corpus and --text-model"),
        (["--labels", "height"], "The scan dataset has no column height: it has "),
        (["--holdout-site", "C"], "No scan is from site 'C': give one of the sites of the scans, A, B."),
    ],
)
def test_what_cannot_be_reported_is_refused(cohort, extractor, tmp_path, capsys, words, message):
    write_scan_dataset(cohort.dataset.select([0, 1, 30]), tmp_path / "scans", cohort.atlas)
    tokenizer(cohort).save_pretrained(tmp_path / "model")
    extractor.save_pretrained(tmp_path / "model")
    given = ["tokens", "report", str(tmp_path / "model"), "--scans", str(tmp_path / "scans"), *words]
    assert main([*given, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
