"""Secrets planted in files and names of every kind: a push refuses each of them, or leaves it behind."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_processes import ClientError
from safetensors.numpy import save

TOKEN = "hf_" + "Q7x9" * 9
USER, HOST, KEY = "jdoe-lab17", "node-0342", "5f1d" * 10
PUSH = f"""
import os, socket
os.environ |= {{"LOGNAME": {USER!r}, "WANDB_API_KEY": {KEY!r}}}
socket.gethostname = lambda: "{HOST}.cluster.example.org"
from fmri_lm_hf.hub import push_to_hub
result = list(push_to_hub(folder, repo, **options).left_out)
"""


def record(**said) -> bytes:
    return json.dumps({"simulated": True, **said}).encode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*more: bytes, behind: bytes = b"") -> bytes:
    """An image of one pixel."""
    header, pixels = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(b"\0\0")
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + behind


def weights(metadata: dict[str, str] | None = None, **arrays: np.ndarray) -> bytes:
    return save(arrays or {"x": np.zeros(1, "float32")}, metadata)


def escaped(content: bytes) -> bytes:
    """Weights with slashes of their header written as JSON may write them."""
    size = 8 + int.from_bytes(content[:8], "little")
    header = content[8:size].replace(b"/", b"\\u002f")
    return struct.pack("<Q", len(header)) + header + content[size:]


def zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", text)
    return buffer.getvalue()


def objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([TOKEN], dtype=object))
    return buffer.getvalue()


PICKLE = pickle.dumps({"run": "x"})
ADAPTER = "adapter_model.safetensors"

# case: the file of a model, its content, what is said
IN_MODELS = {
    "a token in a name": (f"notes_{TOKEN}.md", b"x", "a Hugging Face token"),
    "a key in a name": ("key_AKIAABCDEFGHIJKLMNOP.txt", b"x", "an access key"),
    "a user in a name": (f"results_{USER}_v2.md", b"x", "the name of the local user"),
    "a user in capitals": ("JDoe-Lab17.md", b"x", "the name of the local user"),
    "a user in a folder": (f"{USER}/plot.png", png(), "the name of the local user"),
    "a user in a template's name": (f"additional_chat_templates/{USER}.jinja", b"x", "of the local user"),
    "a machine in a name": (f"log_{HOST}_1.txt", b"x", "the name of this machine"),
    "a user": ("training_info.json", record(by=f"by {USER.upper()}"), "the name of the local user"),
    "a machine": ("training_info.json", record(run=f"{HOST}.cluster.example.org"), "of this machine"),
    "a key of the environment": (
        "training_info.json",
        record(run=f"with {KEY}"),
        r"value of \$WANDB_API_KEY \(5f1d5f\.\.\.\)",
    ),
    "a file of a bibliography": ("refs.bib", b"file = {:home/jdoe/Zotero/x.pdf:PDF}", "a local path"),
    "a key in base64": ("notes.md", b"client-key-data: LS0tLS1CRUdJTiBSU0EgUFJJ", "a private key"),
    "a tokenizer's folder": ("tokenizer_config.json", b'{"name_or_path": "/scratch/x/qwen"}', "a local path"),
    "an index of weights": (
        "model.safetensors.index.json",
        b'{"metadata": {"from": "/lustre/x/y"}, "weight_map": {}}',
        "a local path",
    ),
    "a nested configuration": (
        "config.json",
        b'{"model_type": "fmri_lm", "a": [{"b": "/cbica/home/x"}]}',
        "a local path",
    ),
    "a licence": ("LICENSE", b"see /n/fs/lab/licences/x", "a local path"),
    "a mail address": ("training_info.json", record(by="jdoe@example.org"), "a mail address"),
    "a text of an image": (
        "plot.png",
        png(chunk(b"tEXt", b"Source\0/cbica/home/jdoe/plot.py")),
        "a local path",
    ),
    "a deflated text of an image": (
        "plot.png",
        png(chunk(b"zTXt", b"Source\0\0" + zlib.compress(b"/cbica/home/jdoe/plot.py"))),
        r"plot.png \(zTXt\): a local path",
    ),
    "an international text of an image": (
        "figures/plot.png",
        png(chunk(b"iTXt", b"Source\0\1\0\0\0" + zlib.compress(TOKEN.encode()))),
        r"\(iTXt\): a Hugging Face token",
    ),
    "exif": ("plot.png", png(chunk(b"eXIf", b"MM\0*" + TOKEN.encode())), "a Hugging Face token"),
    "an archive behind an image": ("plot.png", png(behind=zipped(TOKEN)), "does not hold what its name says"),
    "metadata of weights": (ADAPTER, weights({"made": "/gpfs01/lab/x"}), "a local path"),
    "escaped metadata of weights": (ADAPTER, escaped(weights({"made": "/ceph/lab/x"})), "a local path"),
    "a tensor's name": (ADAPTER, weights(**{"/home/jdoe/x": np.zeros(1)}), "a local path"),
    "a tensor that spells": (
        ADAPTER,
        weights(note=np.frombuffer(f"by {TOKEN}\0\0".encode(), "uint8")),
        r"\(tensor note\): a Hugging Face token",
    ),
    "a key that comes twice": (
        "training_info.json",
        f'{{"simulated": true, "a": "{TOKEN}", "a": "clean"}}'.encode(),
        "a Hugging Face token",
    ),
    "json inside of json": ("training_info.json", record(run='{"p": "\\/home\\/jdoe\\/x"}'), "a local path"),
    "json inside of json of json": (
        "training_info.json",
        record(run=json.dumps(json.dumps({"password": "correct-horse"}))),
        "a password",
    ),
    "escaped json": (
        "training_info.json",
        b'{"simulated": true, "p": "\\u002fdata1\\u002flab"}',
        "a local path",
    ),
    "a key of json": ("training_info.json", record(**{"/ceph/lab/x": []}), "a local path"),
    "arguments": ("training_info.json", record(argv=["--password", "correct-horse"]), "a password"),
    "a list of passwords": ("results.json", record(password=["correct-horse"]), "a password"),
    "metadata of a card": ("README.md", b"---\nsource: /data1/lab/x\n---\n# M\n", "a local path"),
    "a vocabulary": ("vocab.json", json.dumps({TOKEN: 1}).encode(), "a Hugging Face token"),
    "a vocabulary of pieces": ("tokenizer.model", b"\n\x20\0" + TOKEN.encode(), "a Hugging Face token"),
    "generation": ("generation_config.json", b'{"note": "/home/jdoe/x"}', "a local path"),
    "a pickle as json": ("results.json", PICKLE, "does not hold what its name says"),
    "a pickle as text": ("notes.txt", PICKLE, "does not hold what its name says"),
    "a pickle as a template": ("additional_chat_templates/x.jinja", PICKLE, "does not hold what its name"),
    "a pickle as a vocabulary": ("tokenizer.model", PICKLE, "does not hold what its name says"),
    "an archive as a vocabulary": ("spiece.model", zipped("x"), "does not hold what its name says"),
    "a pickle as weights": (ADAPTER, PICKLE, "cannot be read as safetensors"),
    "a pickle as an image": ("plot.png", PICKLE, "does not hold what its name says"),
    "gzip as json": ("results.json", gzip.compress(record(run=TOKEN)), "does not hold what its name says"),
    "wide characters": ("notes.txt", f"by {TOKEN}".encode("utf-16"), "does not hold what its name says"),
    "weights of torch": ("pytorch_model.bin", PICKLE, "files that can run code"),
    "a pickle in capitals": ("X.PKL", PICKLE, "files that can run code"),
    "foreign code": (
        "tokenizer_config.json",
        b'{"auto_map": {"AutoTokenizer": ["org/other--m.T", null]}}',
        "points at code of another repository",
    ),
}


def of_column(array: pa.Array) -> pa.Table:
    return pa.table({"x": array})


def of_field(metadata: dict[str, str], name: str = "x") -> pa.Table:
    inner = pa.struct([pa.field(name, pa.string(), metadata=metadata)])
    return pa.table({"x": pa.array([{name: "b"}], inner)})


SECRET = f"by {TOKEN}"
RAW = SECRET.encode()
LONG = {"from": "words " * 30 + "/cbica/home/jdoe"}
# case: a table of a dataset, what is said
IN_TABLES = {
    "large list": (lambda: of_column(pa.array([[SECRET]], pa.large_list(pa.string()))), "column x"),
    "list of one": (lambda: of_column(pa.array([[SECRET]], pa.list_(pa.string(), 1))), "column x"),
    "binary dictionary": (lambda: of_column(pa.array([RAW]).dictionary_encode()), "column x"),
    "binary view": (lambda: of_column(pa.array([RAW], pa.binary_view())), "column x"),
    "nested": (lambda: of_column(pa.array([[{"a": {"b": RAW}}]])), "column x"),
    "numbers row by row": (lambda: of_column(pa.array(list(RAW), pa.int8())), "column x"),
    "wide characters": (lambda: of_column(pa.array([SECRET.encode("utf-16-le")])), "column x"),
    "json": (lambda: of_column(pa.array(['{"p": "\\/home\\/jdoe\\/x"}'])), "a local path"),
    "a late row": (lambda: of_column(pa.array(["a"] * 5000 + [SECRET])), "column x"),
    "a name with a dot": (lambda: pa.table({"a.b": [SECRET]}), "column a.b"),
    "a name that comes twice": (
        lambda: pa.Table.from_arrays([pa.array(["a"]), pa.array([SECRET])], ["x", "x"]),
        "column x",
    ),
    "a field's metadata": (lambda: of_field(LONG), r"\(columns\).*: a local path"),
    "a field's name": (lambda: of_field({}, SECRET), r"\(columns\).*: a Hugging Face token"),
    "escaped metadata": (
        lambda: pa.table({"x": ["a"]}).replace_schema_metadata({"pandas": '{"p": "\\u002fhome\\u002fjdoe"}'}),
        r"\(metadata\).*: a local path",
    ),
    "gzip": (lambda: of_column(pa.array([gzip.compress(RAW)])), "holds an archive or compressed data"),
    "zip": (lambda: of_column(pa.array([[zipped(TOKEN)]])), "holds an archive or compressed data"),
    "npz": (lambda: of_column(pa.array([objects()])), "holds an archive or compressed data"),
    "pickle": (
        lambda: of_column(pa.array([{"a": PICKLE}])),
        r"\(column x\) holds a pickle, which cannot be searched",
    ),
}
# case: a file beside the table of a dataset, its content, what is said
BESIDE_TABLES = {
    "provenance": ("provenance.json", record(run="/data1/lab"), "a local path"),
    "failures": ("failures.json", record(sub="FileNotFoundError: /home/jdoe/x"), "a local path"),
    "a user in a folder": (f"data/{USER}/train-00000.parquet", None, "the name of the local user"),
    "a pickle as a table": ("data/y.parquet", PICKLE, "does not hold what its name says"),
    "a table cut short": ("data/y.parquet", b"PAR1" + bytes(30), "does not hold what its name says"),
    "a pickle as rows": ("data/x.arrow", PICKLE, "does not hold what its name says"),
    "a pickle as a reference": ("reference/reference.safetensors", PICKLE, "cannot be read as safetensors"),
    "metadata of a reference": (
        "reference/reference.safetensors",
        weights({"p": "/data1/lab"}),
        "a local path",
    ),
}
NOT_PUBLISHED = [
    *(
        "train.py",
        "modeling_own.py",
        "analysis.ipynb",
        "recipe.yaml",
        "setup.toml",
        "run.sh",
        "slurm-1234.out",
    ),
    *(
        "scan.npz",
        "scan.npy",
        "log.gz",
        "code.zip",
        "participants.csv",
        "scan.nii.gz",
        "scan.mat",
        "report.html",
    ),
    *(
        "plot.svg",
        "paper.pdf",
        "rows.jsonl",
        "README.md~",
        "NOTES.TXT",
        ".env",
        ".git/config",
        "jose\u0301.md",
    ),
    *("trainer_state.json", "checkpoint-7/config.json", "wandb/run/config.json", "training_args.bin"),
    *(f"events.out.tfevents.17.{HOST}.1.0", f"runs/a/events.out.tfevents.17.{HOST}.1.0"),
]


@pytest.fixture
def model(saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "data" / "test-00000.parquet")
    return tmp_path


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def refuses(hub, client, folder, message, **options):
    hub.faults()
    with pytest.raises(ClientError, match=f"^ValueError: (.|\n)*{message}"):
        client.run(PUSH, folder=folder, repo="org/planted", options=options)
    assert hub.log() == [], "something was asked or sent before the refusal"


@pytest.mark.parametrize("case", IN_MODELS)
def test_no_secret_leaves_with_a_model(hub, client, model, case):
    name, content, message = IN_MODELS[case]
    put(model, name, content)
    refuses(hub, client, model, message)


@pytest.mark.parametrize("case", IN_TABLES)
def test_no_secret_leaves_in_a_table(hub, client, dataset, case):
    make, message = IN_TABLES[case]
    pq.write_table(make(), dataset / "data" / "train-00000.parquet")
    refuses(hub, client, dataset, message)


@pytest.mark.parametrize("case", BESIDE_TABLES)
def test_no_secret_leaves_beside_a_table(hub, client, dataset, case):
    name, content, message = BESIDE_TABLES[case]
    table = (dataset / "data" / "test-00000.parquet").read_bytes()
    put(dataset, name, table if content is None else content)
    refuses(hub, client, dataset, message)


@pytest.mark.parametrize("what", ["commit_message", "commit_description"])
def test_no_secret_leaves_with_what_is_said_about_a_commit(hub, client, saved, what):
    refuses(hub, client, saved, f"{what.replace('_', ' ')}: a local path", **{what: "of /cbica/home/jdoe/x"})


def test_what_is_not_on_the_list_stays_behind(hub, client, model):
    for name in NOT_PUBLISHED:
        put(model, name, SECRET.encode())
    left_out = client.run(PUSH, folder=model, repo="org/planted-others", options={})
    assert sorted(left_out) == sorted(NOT_PUBLISHED)
    assert not set(hub.state("models/org/planted-others")["files"]) & set(NOT_PUBLISHED)


def test_images_as_they_are_drawn_are_published(hub, client, model):
    put(model, "plot.png", png(chunk(b"tEXt", b"Software\0Matplotlib, https://matplotlib.org/")))
    client.run(PUSH, folder=model, repo="org/planted-none", options={})
    assert "plot.png" in hub.state("models/org/planted-none")["files"]


SAVED = f"""
import pathlib
import datasets
rows = datasets.Dataset.from_dict({{"x": ["a"]}})
rows.info.description, rows.info.citation = "made in /cbica/home/jdoe", "{TOKEN}"
rows.to_parquet(folder + "/rows.parquet")
loaded = datasets.load_dataset("parquet", data_files=folder + "/rows.parquet", split="train")
from fmri_lm_hf.hub import push_to_hub
from huggingface_hub import snapshot_download
push_to_hub(rows, "org/planted-info"); push_to_hub(loaded, "org/planted-loaded")
folders = [pathlib.Path(snapshot_download(f"org/planted-{{name}}", repo_type="dataset")) for name in ("info", "loaded")]
found = b"".join(path.read_bytes() for place in folders for path in place.rglob("*") if path.is_file())
result = [word for word in ("{TOKEN}", "cbica", folder) if word.encode() in found]
"""


def test_what_datasets_knows_of_its_source_is_not_published(client, tmp_path):
    assert client.run(SAVED, folder=str(tmp_path)) == []
