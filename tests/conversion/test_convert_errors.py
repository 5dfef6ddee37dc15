"""Each way in which a checkpoint or an option can be wrong has its own error, and leaves no model behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from fmri_lm_hf.cli import main
from fmri_lm_hf.conversion import CheckpointError, convert_upstream, published_atlas
from fmri_lm_hf.models.atlas import Atlas


@pytest.fixture
def changed(golden, tmp_path):
    """Convert a golden checkpoint after `change(state dict, tree)`, with `options` in place of the right ones."""

    def convert(name, change=lambda state, tree: None, **options):
        tree = torch.load(golden[name].folder / "checkpoint.pt", weights_only=True)
        change(tree["model"], tree)
        torch.save(tree, tmp_path / "ckpt.pt")
        return convert_upstream(tmp_path / "ckpt.pt", tmp_path / "out", **golden[name].options | options)

    yield convert
    assert not (tmp_path / "out" / "config.json").exists()


def remove(*names):
    return lambda state, tree: [state.pop(name) for name in names]


def put(**tensors):
    return lambda state, tree: state.update({name.replace("__", "."): value for name, value in tensors.items()})


def to(dtype, name="tokenizer.norm.bias"):
    return lambda state, tree: state.update({name: state[name].to(dtype)})


def nested(depth):
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


TENSOR_PROBLEMS = {
    "float8": (
        "gpt2",
        to(torch.float8_e4m3fn),
        r"1 tensor\(s\) that are not floating-point weights of 16, 32 or 64 bits: tokenizer.norm.bias of float8_e4m3fn",
    ),
    "integers": ("gpt2", to(torch.int64), "weights of 16, 32 or 64 bits: tokenizer.norm.bias of int64"),
    "booleans": ("vq_patch10", to(torch.bool, "encoder.norm.bias"), "encoder.norm.bias of bool"),
    "deep settings": (
        "gpt2",
        lambda state, tree: tree.update(model_args={"lr": nested(400)}),
        "settings in the checkpoint are nested too deeply",
    ),
    "no name": ("gpt2", lambda state, tree: state.update({3: torch.ones(1)}), "names a tensor by a int"),
    "terminal": (
        "gpt2",
        put(**{"\x1b]0;owned\x07\u202e": torch.ones(1)}),
        r"no place for: \\x1b]0;owned\\x07\\u202e\. Check",
    ),
    "long name": ("gpt2", put(**{"x" * 9000: torch.ones(1)}), r"no place for: x{160}\[8841 more\] Check"),
    "missing": (
        "gpt2",
        remove("tokenizer.norm.bias", "pos_embed.weight"),
        r"lacks 2 tensor\(s\): tokenizer.norm.bias",
    ),
    "no ROIs": ("gpt2", remove("tokenizer.pos_embed"), r"lacks tensors: `tokenizer.pos_embed`"),
    "no head": ("gpt2", remove("llm.fmri_lm_head.weight"), r"lacks tensors: `llm.fmri_lm_head.weight`"),
    "no codes": (
        "vq_patch10",
        remove("quantize.embedding.weight"),
        r"lacks tensors: `quantize.embedding.weight`",
    ),
    "decoder": (
        "vq_patch10",
        remove("decoder_raw.norm.weight"),
        r"lacks 1 tensor\(s\): decoder_raw.norm.weight",
    ),
    "extra": (
        "gpt2",
        put(llm__cls_head__weight=torch.ones(2, 32)),
        r"has 1 tensor\(s\) that this model has no place",
    ),
    "titok": ("vq_patch10", put(latent_tokens=torch.ones(2)), r"no place for: latent_tokens"),
    "shape": (
        "gpt2",
        put(pos_embed__weight=torch.ones(11, 32)),
        r"wrong shape: pos_embed.weight \(11, 32\) instead of",
    ),
    "axes": (
        "vq_patch10",
        put(encoder__pos_embed=torch.ones(12, 48)),
        r"wrong shape: `encoder.pos_embed` is \(12, 48\)",
    ),
    "class token": ("gpt2", put(tokenizer__cls_token=torch.ones(1, 1, 48)), "has a class token"),
    "NaN": (
        "gpt2",
        put(tokenizer__norm__bias=torch.full((48,), torch.nan)),
        "`tokenizer.norm.bias`.*holds NaN",
    ),
    "repeated": (
        "gpt2",
        put(tokenizer__norm__bias=torch.zeros(1).expand(48)),
        "repeats values in place of storing",
    ),
    "text": ("gpt2", put(note="text"), "`note` of the checkpoint's `model` is a str, expected a tensor"),
    "empty": ("gpt2", lambda state, tree: state.clear(), "holds no weights"),
}


@pytest.mark.parametrize("problem", TENSOR_PROBLEMS)
def test_tensors(changed, problem):
    name, change, message = TENSOR_PROBLEMS[problem]
    with pytest.raises(CheckpointError, match=message):
        changed(name, change)


LORA = "llm.base_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove(LORA), r"LoRA adapter lacks 1 tensor\(s\): language_model"),
        (lambda state, tree: state.update({LORA: torch.ones(4, 32)}), r"expected one rank, found \[4, 8\]"),
        (lambda state, tree: state.update({LORA.replace("default", "second"): torch.ones(8, 32)}), "2 LoRA adapters"),
        (lambda state, tree: state.update({LORA.replace("q_proj", "r_proj"): torch.ones(8, 32)}), r"have: .*r_proj"),
    ],
)  # fmt: skip
def test_lora(changed, change, message):
    with pytest.raises(CheckpointError, match=message):
        changed("qwen3_lora", change)


DEEPER = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "vocab_size": 128,
    "n_positions": 256,
}
OPTION_PROBLEMS = {
    "heads": (
        "gpt2",
        {"encoder_heads": None},
        ValueError,
        r"no published one .* of width 48.*--encoder-heads",
    ),
    "type": ("gpt2", {"text_config": {"vocab_size": 128}}, ValueError, "no `model_type`"),
    "file": ("gpt2", {"text_config": "nowhere.json"}, FileNotFoundError, r"no file 'nowhere\.json'"),
    "depth": (
        "gpt2",
        {"text_config": DEEPER},
        CheckpointError,
        r"lacks 12 tensor\(s\): llm.base_model.*h.2.",
    ),
    "ids": (
        "qwen3_lora",
        {"delimiter_ids": ([5], [128])},
        ValueError,
        r"ids \[128\] lie outside the vocabulary",
    ),
    "atlas": ("gpt2", {"atlas": Atlas("two", ("a", "b"), ("n", "n"))}, ValueError, "'two' has 2 ROIs, but"),
    "norm": ("gpt2", {"normalization": "nowhere.npz"}, FileNotFoundError, r"no file 'nowhere\.npz'"),
}


@pytest.mark.parametrize("problem", OPTION_PROBLEMS)
def test_options(changed, problem):
    name, options, error, message = OPTION_PROBLEMS[problem]
    with pytest.raises(error, match=message):
        changed(name, **options)


def test_language_model_that_cannot_be_found(changed, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"'Qwen/Qwen3-tiny' could not be loaded.*--text-config"):
        changed("qwen3_lora", text_config=None)
    with pytest.raises(ValueError, match="does not name its language model"):
        changed("qwen3_lora", lambda state, tree: tree.pop("model_args"), text_config=None)


@pytest.mark.parametrize("kind", ["configuration", "tokenizer", "tokenizer of a kind that has none"])
def test_code_that_a_checkpoint_names_is_not_run(changed, golden, tmp_path, monkeypatch, kind):
    """A repository named by the file may hold code; nobody is asked whether to run it."""
    folder, marker = tmp_path / "org" / "name", tmp_path / "was_run"
    folder.mkdir(parents=True)
    config = {"configuration": {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}}
    config["tokenizer"] = golden["gpt2"].meta["lm_config"]
    config["tokenizer of a kind that has none"] = {"model_type": "llama", "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config[kind]))
    tokenizer = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: ...\n")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    monkeypatch.chdir(tmp_path)

    def name_it(state, tree):
        tree["model_args"]["base_model"] = "org/name"

    if kind == "configuration":
        with pytest.raises(ValueError, match="'org/name' needs code from its repository, which is not run"):
            changed("gpt2", name_it, text_config=None)
    elif kind != "tokenizer":
        with pytest.raises(ValueError, match="The checkpoint lacks"):
            changed("gpt2", name_it, text_config=None)
    else:
        result = changed("gpt2", name_it, text_config=None)
        assert "'org/name' has no text tokenizer that could be loaded." in result.notes
        (tmp_path / "out" / "config.json").unlink()
    assert not asked
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b/c", "org/na\x1b[2Jme", ["org/name"], {"a": 1}])
def test_a_language_model_that_is_named_by_no_id(changed, name):
    message = r"The checkpoint names .* as its language model .*, which is not an id on the Hub"
    with pytest.raises(ValueError, match=message) as error:
        changed("gpt2", lambda state, tree: tree["model_args"].update(base_model=name), text_config=None)
    assert str(error.value).isprintable()


def test_flipped_bits_are_noticed(golden, tmp_path):
    """Damage to a weight is not silently converted; of a file without checksums it is said that it has none."""
    whole = (golden["gpt2"].folder / "checkpoint.pt").read_bytes()
    weight = torch.load(golden["gpt2"].folder / "checkpoint.pt", weights_only=True)["model"]["pos_embed.weight"]
    place = whole.index(weight.numpy().tobytes()) + 40
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(CheckpointError, match=r"the content of `.*/data/\d+` does not fit its checksum"):
        convert_upstream(tmp_path / "flipped.pt", tmp_path / "out", **golden["gpt2"].options)
    assert not (tmp_path / "out" / "config.json").exists()


def test_length_that_the_checkpoint_does_not_tell(changed):
    with pytest.raises(
        ValueError, match=r"num_fmri_tokens=30, which is not a multiple of the 12 ROIs.*--n-timepoints"
    ):
        changed("gpt2", lambda state, tree: tree["model_args"].update(num_fmri_tokens=30))
    with pytest.raises(ValueError, match=r"num_fmri_tokens=12\d+, .*up to 1000000"):
        changed("gpt2", lambda state, tree: tree["model_args"].update(num_fmri_tokens=12 * 10**15))


def test_files_with_statistics(golden, tmp_path):
    source, options = golden["vq_patch10"].folder / "checkpoint.pt", golden["vq_patch10"].options
    np.savez(tmp_path / "cohort.npz", medians=np.float32(0.5), iqrs=np.arange(1.0, 13.0))
    convert_upstream(source, tmp_path / "out", normalization=tmp_path / "cohort.npz", **options)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert extractor.normalization == "cohort"
    assert (extractor.roi_median, extractor.roi_iqr) == ([0.5] * 12, list(range(1, 13)))
    for content, message in (
        ({"median": 1}, "must hold `medians` and `iqrs`"),
        ({"medians": [1, 2], "iqrs": 1}, "has 2 val"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            convert_upstream(source, tmp_path / "other", normalization=tmp_path / "wrong.json", **options)


def test_a_model_is_not_overwritten(golden, converted):
    with pytest.raises(ValueError, match="holds a model already"):
        convert_upstream(golden["gpt2"].folder / "checkpoint.pt", converted["gpt2"], **golden["gpt2"].options)


def test_published_slots():
    atlas = published_atlas()
    assert atlas.n_rois == len(set(atlas.roi_names)) == 450
    counts = [atlas.networks.count(network) for network in atlas.network_names]
    assert atlas.network_names[:4] == ("Subcortex", "Vis", "SomMot", "DorsAttn")
    assert counts == [50, 61, 77, 46, 47, 26, 52, 91]
    # label 1, the last of the right hemisphere, the first cortical parcel, the first of the right, and the last
    assert [atlas.roi_names[i] for i in (0, 24, 50, 250, 449)] == [
        "HIP-head-m-rh", "aGP-rh", "7Networks_LH_Vis_1", "7Networks_RH_Vis_1", "7Networks_RH_Default_pCunPCC_9"
    ]  # fmt: skip
    assert atlas.labels == tuple(range(1, 451))


def test_command(golden, tmp_path, capsys):
    text_config = tmp_path / "qwen3.json"
    text_config.write_text(json.dumps(golden["qwen3_lora"].meta["lm_config"]))
    arguments = [
        "convert-upstream",
        str(golden["qwen3_lora"].folder / "checkpoint.pt"),
        str(tmp_path / "out"),
    ]
    options = ["--text-config", str(text_config), "--encoder-heads", "4", "--lora-alpha", "16"]
    assert main([*arguments, *options, "--delimiter-ids", "5,6", "7,8,9", "--merge"]) == 0
    said = capsys.readouterr().out
    assert "FmriLMForCausalLM with 84,880 parameters, LoRA merged" in said
    assert "Scan tokens are enclosed by the token ids [5, 6] and [7, 8, 9]." in said
    assert main([*arguments, *options]) == 2
    assert "holds a model already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--delimiter-ids", "<fmri>", "</fmri>"])
    assert "token ids separated by commas" in capsys.readouterr().err
