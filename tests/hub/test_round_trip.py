"""Every object, published by one process and loaded by another with an empty cache: the same bytes and outputs."""

from __future__ import annotations

import pytest
from hub_processes import Client, client_environment

pytestmark = pytest.mark.slow

PUBLISH = """
import hashlib, pathlib
import torch, tiny
from datasets import Array2D, Dataset, Features, List, Value
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from fmri_lm_hf.hub import push_to_hub

def sha(folder, name="model.safetensors"):
    return hashlib.sha256((pathlib.Path(folder) / name).read_bytes()).hexdigest()

tiny.save("lm")
lm_push = push_to_hub("lm", "org/lm")
model, processor = tiny.language_model(), tiny.processor()
push_to_hub(model, "org/lm-object", processor=processor)

tokenizer, extractor = tiny.fmri_tokenizer(), tiny.feature_extractor()
tokenizer.save_pretrained("tokenizer"); extractor.save_pretrained("tokenizer")
push_to_hub("tokenizer", "org/tokenizer")
latents = tiny.fmri_tokenizer(quantizer="titok", num_latent_tokens=3)
push_to_hub(latents, "org/latents")
push_to_hub(processor, "org/processor")

base = AutoModelForCausalLM.from_pretrained("org/lm")
adapted = get_peft_model(base, LoraConfig(
    r=2, target_modules=r".*language_model.*\\.(q_proj|v_proj)", modules_to_save=["projector"], task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.05)
inputs = processor(text=["<fmri> What is the sex ? Answer : female"], fmri=[tiny.scan()], t_r=2.0)
for _ in range(3):
    adapted(**inputs, labels=inputs["input_ids"].clamp(max=31)).loss.backward()
    optimizer.step(); optimizer.zero_grad()
adapted.eval()
adapted.save_pretrained("adapter")
push_to_hub(adapted, "org/adapter")

rows = [{"scan_id": f"s{i}", "subject_id": f"u{i}", "site": "A", "t_r": 2.0, "bold": tiny.scan(i)} for i in range(6)]
features = Features({"scan_id": Value("string"), "subject_id": Value("string"), "site": Value("string"),
                     "t_r": Value("float32"), "bold": Array2D((None, tiny.N_ROIS), "float32")})
scans = Dataset.from_list(rows, features=features)
push_to_hub(scans, "org/scans")
scans.save_to_disk("scans"); tiny.atlas().to_json("scans/atlas.json")
push_to_hub("scans", "org/scans-with-atlas")
pairs = Dataset.from_list([{"scan_id": f"s{i}", "text": f"Scan {i}.", "facts": "[]"} for i in range(6)])
push_to_hub(pairs, "org/pairs")

from transformers import pipeline
scores = pipeline("fmri-zero-shot-classification", model="org/lm")(
    tiny.scan(), candidate_labels=["female", "male"], question="What is the sex ?", t_r=2.0, force=True)
text = pipeline("fmri-to-text", model="org/lm")(tiny.scan(), text="What is the sex ?", t_r=2.0, max_new_tokens=4)

result = {
    "told": {"scores": {score["label"]: score["score"] for score in scores}, "text": text},
    "commit": lm_push.commit,
    "sha": {"lm": sha("lm"), "tokenizer": sha("tokenizer"), "adapter": sha("adapter", "adapter_model.safetensors")},
    "logits": tiny.logits(model, processor),
    "adapted": tiny.logits(adapted, processor),
    "codes": tiny.codes(tokenizer, extractor),
    "latents": tiny.codes(latents, extractor),
    "bold": [row["bold"].tolist() for row in rows],
    "cwd": str(pathlib.Path.cwd()),
}
"""


@pytest.fixture(scope="module")
def published(client):
    return client.run(PUBLISH)


@pytest.fixture(scope="module")
def fresh(hub, published, tmp_path_factory):
    """A process with an empty cache."""
    home = tmp_path_factory.mktemp("fresh_home")
    fresh = Client(client_environment(hub, home), home, ("fmri_lm_hf", "tiny", "peft", "datasets"))
    yield fresh
    fresh.close()


def test_the_language_model_is_the_same(hub, fresh, published):
    load = """
import hashlib
from huggingface_hub import hf_hub_download
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer
for repo in ("org/lm", "org/lm-object"):
    model, processor = AutoModelForCausalLM.from_pretrained(repo).eval(), AutoProcessor.from_pretrained(repo)
    assert tiny.logits(model, processor) == logits, repo
assert type(model).__module__ == "fmri_lm_hf.models.modeling_fmri_lm"   # no remote code where the package is installed
assert processor.feature_extractor.atlas == tiny.atlas()
assert AutoTokenizer.from_pretrained("org/lm")("female")["input_ids"] == [6]
path = hf_hub_download("org/lm", "model.safetensors")
result = hashlib.sha256(open(path, "rb").read()).hexdigest()
"""
    assert fresh.run("import tiny\n" + load, logits=published["logits"]) == published["sha"]["lm"]
    assert "org/lm/resolve" in str(hub.log()), "it was not loaded from the server"


def test_the_tokenizer_is_the_same(fresh, published):
    load = """
import hashlib, tiny
from huggingface_hub import hf_hub_download
from transformers import AutoFeatureExtractor, AutoModel
tokenizer = AutoModel.from_pretrained("org/tokenizer").eval()
assert tiny.codes(tokenizer, AutoFeatureExtractor.from_pretrained("org/tokenizer")) == codes
result = hashlib.sha256(open(hf_hub_download("org/tokenizer", "model.safetensors"), "rb").read()).hexdigest()
"""
    assert fresh.run(load, codes=published["codes"]) == published["sha"]["tokenizer"]


def test_the_processor_is_the_same(fresh):
    load = """
import tiny
from transformers import AutoProcessor
loaded, made = AutoProcessor.from_pretrained("org/processor"), tiny.processor()
ask = {"text": ["<fmri> sex ?", "<fmri> What is the sex ?"], "fmri": [tiny.scan(1), tiny.scan(2)], "t_r": 2.0}
there, here = loaded(**ask), made(**ask)
result = all((there[name] == here[name]).all().item() for name in here) and set(there) == set(here)
"""
    assert fresh.run(load) is True


def test_the_adapter_loads_onto_its_base(fresh, published):
    load = """
import hashlib, tiny
from huggingface_hub import hf_hub_download
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("org/lm"), "org/adapter").eval()
assert tiny.logits(adapted, tiny.processor()) == logits
assert tiny.logits(AutoPeftModelForCausalLM.from_pretrained("org/adapter").eval(), tiny.processor()) == logits
result = hashlib.sha256(open(hf_hub_download("org/adapter", "adapter_model.safetensors"), "rb").read()).hexdigest()
"""
    assert fresh.run(load, logits=published["adapted"]) == published["sha"]["adapter"]
    assert published["adapted"] != published["logits"]


def test_both_pipelines_load_from_a_repository(fresh):
    ask = """
import tiny
from transformers import pipeline
classify = pipeline("fmri-zero-shot-classification", model="org/lm")
scores = classify(tiny.scan(), candidate_labels=["female", "male"], question="What is the sex ?", t_r=2.0, force=True)
text = pipeline("fmri-to-text", model="org/lm")(tiny.scan(), text="What is the sex ?", t_r=2.0)
result = [round(sum(score["score"] for score in scores), 5), str(type(text))]
"""
    assert fresh.run(ask)[0] == 1.0


def test_datasets_load_whole_and_streaming(hub, fresh, published):
    load = """
import numpy as np
from datasets import load_dataset
whole = load_dataset("org/scans-with-atlas", split="train").with_format("numpy")
stream = load_dataset("org/scans", split="train", streaming=True).with_format("numpy")
for dataset in (whole, stream):
    for row, wanted in zip(dataset, bold, strict=True):
        assert row["bold"].dtype == np.float32
        assert (row["bold"] == np.array(wanted, "float32")).all()
pairs = load_dataset("org/pairs", split="train")
result = [whole["scan_id"][:].tolist(), pairs["text"][:]]
"""
    scan_ids, texts = fresh.run(load, bold=published["bold"])
    assert scan_ids == [f"s{i}" for i in range(6)]
    assert texts == [f"Scan {i}." for i in range(6)]
    files = hub.state("datasets/org/scans-with-atlas")["files"]
    assert {"atlas.json", "README.md", "data/train-00000-of-00001.parquet"} <= set(files)
    assert not [name for name in files if name.endswith(".arrow") or name == "state.json"]


def test_revision_pins_a_commit(client, fresh, published):
    """A later push is seen by who asks for the default branch, not by who asks for the commit."""
    client.run(
        "import tiny; from fmri_lm_hf.hub import push_to_hub; push_to_hub(tiny.language_model(seed=7), 'org/lm-object')"
    )
    load = """
import tiny
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM
first = HfApi().list_repo_commits("org/lm-object")[1].commit_id
pinned = AutoModelForCausalLM.from_pretrained("org/lm-object", revision=first).eval()
latest = AutoModelForCausalLM.from_pretrained("org/lm-object").eval()
assert tiny.logits(latest, tiny.processor()) != logits
result = tiny.logits(pinned, tiny.processor()) == logits
"""
    assert fresh.run(load, logits=published["logits"]) is True


def test_offline_after_the_first_fetch(fresh, hub):
    """What the fresh process fetched above is enough; nothing is asked of the server."""
    hub.faults()
    offline = """
import os, subprocess, sys, tiny
code = '''
import tiny, fmri_lm_hf
from transformers import AutoModelForCausalLM, AutoProcessor
model, processor = AutoModelForCausalLM.from_pretrained("org/lm").eval(), AutoProcessor.from_pretrained("org/lm")
print(len(tiny.logits(model, processor)))
from fmri_lm_hf.hub import clear_errors
try:
    with clear_errors("org/never-fetched"):
        AutoProcessor.from_pretrained("org/never-fetched")
except OSError as error:
    print(error)
'''
environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.path.dirname(tiny.__file__)}
done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
assert done.returncode == 0, done.stderr
result = done.stdout.splitlines()
"""
    n_logits, error = fresh.run(offline)
    assert n_logits == "32"
    assert error.startswith("org/never-fetched (revision main) is not in the cache, and HF_HUB_OFFLINE=1 forbids")
    assert hub.log() == []


WITHOUT_THE_PACKAGE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fmri_lm_hf", "nibabel", "nilearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoProcessor
from transformers import AutoModelForSequenceClassification
trusted = {"trust_remote_code": True}
model = AutoModelForCausalLM.from_pretrained("org/lm", **trusted).eval()
processor = AutoProcessor.from_pretrained("org/lm", **trusted)
scan = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
inputs = processor(text=["<fmri> What is the sex ?"], fmri=[scan], t_r=2.0)
with torch.no_grad():
    assert model(**inputs).logits[0, -1].tolist() == logits
assert type(AutoModel.from_pretrained("org/lm", **trusted)).__name__ == "FmriLMForCausalLM"
with torch.no_grad():
    classifier = AutoModelForSequenceClassification.from_pretrained("org/lm", num_labels=3, **trusted)
    assert classifier(**inputs).logits.shape == (1, 3)
generated = model.generate(**inputs, max_new_tokens=2, do_sample=False)
from transformers import pipeline
ask = {"question": "What is the sex ?", "t_r": 2.0, "force": True}
scores = pipeline("fmri-zero-shot-classification", model="org/lm", **trusted)(
    scan, candidate_labels=["female", "male"], **ask)
assert {score["label"]: score["score"] for score in scores} == told["scores"]
question = {"type": "choice", "instructions": "What is the sex ?", "criteria": {"female": None, "male": None}}
decided = pipeline("fmri-decision", model="org/lm", **trusted)(scan, questions={"sex": question}, t_r=2.0, force=True)
assert decided["sex"]["probabilities"] == told["scores"]
text = pipeline("fmri-to-text", model="org/lm", **trusted)(scan, text="What is the sex ?", t_r=2.0, max_new_tokens=4)
assert text == told["text"]
tokenizer = AutoModel.from_pretrained("org/tokenizer", **trusted).eval()
extractor = AutoFeatureExtractor.from_pretrained("org/tokenizer", **trusted)
with torch.no_grad():
    encoded = tokenizer.encode(**extractor(scan, t_r=2.0))
    of_latents = AutoModel.from_pretrained("org/latents", **trusted).eval().encode(**extractor(scan, t_r=2.0))
assert encoded.fmri_codes.flatten().tolist() == codes
assert of_latents.fmri_codes.flatten().tolist() == latents and len(latents) == 3
for name in ("org/tokenizer", "org/lm"):
    features = pipeline("fmri-feature-extraction", model=name, **trusted)(scan, t_r=2.0)
    assert features["tokens"].shape == (12, 16)
    if name == "org/tokenizer":
        assert (features["tokens"] == encoded.embeddings[0].numpy()).all()
assert not [name for name in sys.modules if name.startswith(("fmri_lm_hf", "nilearn"))]
try:
    AutoModelForCausalLM.from_pretrained("org/lm", trust_remote_code=False)
except ValueError as error:
    refused = str(error)
result = [type(model).__module__.split(".")[0], "trust_remote_code=True" in refused]
"""


def test_the_code_in_the_repository_is_enough_where_only_transformers_is_installed(hub, published, tmp_path):
    bare = Client(client_environment(hub, tmp_path, PYTHONPATH=""), tmp_path, ())
    try:
        names = {name: published[name] for name in ("logits", "codes", "latents", "told")}
        assert bare.run(WITHOUT_THE_PACKAGE, **names) == ["transformers_modules", True]
    finally:
        bare.close()
