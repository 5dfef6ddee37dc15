"""Nothing private is published: secrets planted in every kind of file, and ordinary text that is none."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from fmri_lm_hf.hub.contents import kind_of, read_folder, shard_group
from fmri_lm_hf.hub.privacy import find_private

TOKEN = "hf_" + "A1b2" * 9

SECRETS = {
    "token": TOKEN,
    "aws": "AKIA" + "Z" * 16,
    "aws session": "ASIA" + "Z" * 16,
    "github": "ghp_" + "a" * 36,
    "gitlab": "glpat-" + "a" * 20,
    "openai": "sk-" + "a" * 40,
    "slack": "xoxb-" + "1" * 12,
    "slack hook": "https://hooks.slack.com/services/T000/B000/" + "x" * 24,
    "google": "AIza" + "b" * 35,
    "npm": "npm_" + "c" * 36,
    "web token": "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "url": "https://jdoe:hunter2@example.org/data",
    "query": "https://example.org/x?access_token=abcdefgh12345678",
    "signed": "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=abcdef0123456789",
    "password": "password=correct-horse",
    "api key": "WANDB_API_KEY: 0123456789abcdef0123",
    "home": "/home/jdoe/scans/a.nii.gz",
    "users": "/Users/jdoe/Desktop",
    "data1": "/data1/lab/ukb",
    "cbica": "/cbica/home/jdoe",
    "gpfs": "/gpfs01/projects/x",
    "ceph": "/ceph/group/scans",
    "after a colon": "scans:/storage01/group/x",
    "file url": "file:///Users/jdoe/a",
    "tilde": "~jdoe/scans",
    "windows": r"C:\Users\jdoe\x",
    "drive": "D:/lab/scans/x",
    "share": r"\\fileserver\neuro",
    "user homes": "/usr/users/jdoe/x",
    "people": "/usr/people/jdoe/x",
    "shared memory": "/dev/shm/jdoe/x",
    "a digit first": "/4tb/lab/scans",
    "other letters": "/数据/项目/扫描",
    "wsl": r"\\wsl$\Ubuntu\home\jdoe",
    "share, escaped": r"\\\\fileserver\\neuro\\x",
    "nfs": "nfs://storage/export/x",
    "sftp": "sftp://node/export/x",
    "percent": "?path=%2Fhome%2Fjdoe%2Fx",
    "link": "[scans](/data1/lab/x)",
    "tag": "<td>/home/jdoe/x</td>",
    "redirect": "2>/home/jdoe/log.txt",
    "url without user": "redis://:hunter2@cache.example.org:6379",
    "url with a token": "https://a8f5f167f44f4964e6c9@git.example.org/x",
    "database": "Server=x;User Id=jdoe;Password=hunter2;",
    "query password": "jdbc:mysql://h/db?user=x&password=hunter2",
    "fragment": "https://example.org/#access_token=abcdefgh12345678",
    "discord": "https://discord.com/api/webhooks/123456789012345678/" + "aB3" * 20,
    "bearer": "Authorization: Bearer abcdef0123456789abcdef",
    "basic": "Authorization: Basic amRvZTpodW50ZXIy",
    "curl": "curl -u jdoe:hunter2 https://example.org",
    "netrc": "machine x.org login jdoe password hunter2",
    "docker": '"auth": "amRvZTpodW50ZXIyMg=="',
    "kaggle": '{"username": "x", "key": "' + "0a" * 16 + '"}',
    "plain token": "token: a8f5f167f44f4964",
    "option": "--token a8f5f167f44f4964e6c9",
    "option=": "--password=correct-horse",
    "pwd": "DB_PWD=correct-horse",
    "passphrase": "passphrase: correct-horse",
    "header": "X-Auth-Token: a8f5f167f44f4964",
    "refresh": "refresh_token=a8f5f167f44f4964",
    "api-key": "api-key: a8f5f167f44f4964",
    "wandb": "wandb login " + "0a" * 20,
    "stripe": "sk_live_" + "a1" * 12,
    "databricks": "dapi" + "0a1b" * 8,
    "telegram": "123456789:AA" + "h1" * 16,
    "vault": "hvs." + "aB1" * 10,
    "one part": "eyJ" + "hcGlfYWRk" * 8,
    "joined by _": f"my_{TOKEN}",
    "joined by nothing": f"my{TOKEN}",
    "putty": "PuTTY-User-Key-File-3: ssh-ed25519",
}
HARMLESS = [
    "connectivity between default mode/frontoparietal and/or visual/somatomotor networks, 1/2/3",
    "https://huggingface.co/datasets/org/name and http://x.org/a/b/c",
    "text/plain; mm/s; ./relative/path ../up/one data/train-00000.parquet",
    "/usr/share/fsl/data/standard and /dev/null/x",
    "pad_token: <pad>, bos_token: <s>, token: <|fmri|>",
    "Answer:\nfemale A:\nmale",
    "[base](/datasets/org/name) [app](/spaces/org/name)",
    "low_pass = transform(0.1), secrets of the trade, --token $HF_TOKEN, bearer of news",
    "authorization: the committee decides; token: the_first_of_all_tokens; key: sub-01_ses-1_task-rest",
    "https://medium.com/@user/x https://x.org/a?page=12 git+ssh://git@github.com/org/name",
    "/usr/bin/python /lib64/ld.so/x ftp://surfer.example.org/pub/data/x.zip C:\n D:\t",
]


@pytest.mark.parametrize("case", SECRETS)
def test_secrets_are_found_in_json_in_rows_and_in_prose(case, tmp_path):
    secret = SECRETS[case]
    pq.write_table(pa.table({"note": ["x", f"see {secret} ."]}), tmp_path / "a.parquet")
    files = {
        "training_info.json": json.dumps({"deep": [{"value": f"see {secret} ."}]}).encode(),
        "README.md": f"# Model\n\nsee {secret} .\n".encode(),
        "data/a.parquet": tmp_path / "a.parquet",
    }
    found = find_private(files)
    assert len(found) == 3, found
    assert not any(TOKEN in line or "hunter2" in line or "correct-horse" in line for line in found)


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_text_passes(text, tmp_path):
    pq.write_table(pa.table({"text": [text]}), tmp_path / "a.parquet")
    files = {"results.json": json.dumps({"text": text}).encode(), "README.md": text.encode()}
    assert find_private({**files, "data/a.parquet": tmp_path / "a.parquet"}) == []


def column_of(kind, text):
    raw = text.encode()
    return {
        "string": lambda: pa.array([text]),
        "large_string": lambda: pa.array([text], pa.large_string()),
        "string_view": lambda: pa.array([text], pa.string_view()),
        "binary": lambda: pa.array([raw]),
        "large_binary": lambda: pa.array([raw], pa.large_binary()),
        "fixed": lambda: pa.array([raw], pa.binary(len(raw))),
        "dictionary": lambda: pa.array([text]).dictionary_encode(),
        "list": lambda: pa.array([[text]]),
        "struct": lambda: pa.array([{"bytes": raw, "path": "x"}]),
        "map": lambda: pa.array([[("key", text)]], pa.map_(pa.string(), pa.string())),
        "bytes as numbers": lambda: pa.array([list(raw)], pa.list_(pa.uint8())),
    }[kind]()


KINDS = [
    "string",
    "large_string",
    "string_view",
    "binary",
    "large_binary",
    "fixed",
    "dictionary",
    "list",
    "struct",
]


@pytest.mark.parametrize("kind", [*KINDS, "map", "bytes as numbers"])
def test_columns_are_read_whatever_their_type(kind, tmp_path):
    pq.write_table(pa.table({"x": column_of(kind, f"by {TOKEN}")}), tmp_path / "a.parquet")
    (finding,) = find_private({"a.parquet": tmp_path / "a.parquet"})
    assert "a.parquet (column x)" in finding
    assert "a Hugging Face token (hf_A1b...)" in finding


def test_names_of_columns_and_of_files_are_read(tmp_path):
    pq.write_table(pa.table({"/data1/lab/x": [1]}), tmp_path / "a.parquet")
    assert "(columns)" in " ".join(find_private({"a.parquet": tmp_path / "a.parquet"}))
    assert find_private({f"{TOKEN}.md": b""}) == [f"the name of '{TOKEN}.md': a Hugging Face token (hf_A1b...)"]


def test_the_names_of_user_and_machine_are_found_outside_of_prose(monkeypatch):
    monkeypatch.setenv("LOGNAME", "jdoe17")
    monkeypatch.setattr("socket.gethostname", lambda: "node-0342.cluster.example.org")
    for text in ("by jdoe17", "on node-0342", "jdoe17@example.org"):
        record = {"training_info.json": json.dumps({"run": text}).encode()}
        assert len(find_private(record)) == 1, text
        assert find_private({"README.md": text.encode()}) == []
    assert len(find_private({"data/jdoe17_scans-00000.parquet.md": b""})) == 1
    assert find_private({"training_info.json": b'{"run": "by jdoe17"}'}, namespace="jdoe17") == []


@pytest.mark.parametrize("account", ["jos\u00e917", "jose\u030117"])
def test_a_name_is_found_however_its_letters_are_written(monkeypatch, account):
    monkeypatch.setenv("LOGNAME", account)
    for written in ("jos\u00e917", "jose\u030117", "JOS\u00c917"):
        record = {"training_info.json": json.dumps({"run": f"by {written}"}).encode()}
        assert len(find_private(record)) == 1, written


def test_the_line_of_a_finding_is_that_of_the_file():
    ligatures = "ﬃ " * 40  # each becomes three letters in the form of the text that is searched
    findings = find_private({"notes.md": f"{ligatures}\n{ligatures}\nby {TOKEN}\n\n\n".encode()})
    assert findings == ["notes.md line 3: a Hugging Face token (hf_A1b...)"]


def test_shards_of_a_split_are_one_group_wherever_they_lie():
    for folder in ("", "data/", "data/graph/"):
        group = (folder.rstrip("/"), "train")
        assert shard_group(f"{folder}train.parquet") == shard_group(f"{folder}train-00000-of-00002.parquet") == group
    assert shard_group("README.md") is None


def test_a_dataset_without_rows_is_of_no_known_kind():
    with pytest.raises(ValueError, match=r"nor a dataset \(parquet or arrow files\); found dataset_dict.json"):
        kind_of(["dataset_dict.json"], {})


def test_numbers_are_not_taken_for_text(tmp_path):
    table = pa.table({"bold": [np.random.default_rng(0).normal(size=50).tolist()], "n": [3]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert find_private({"a.parquet": tmp_path / "a.parquet"}) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


STAYS = [
    "helper.py",
    "modeling_fmri_lm.py",
    "participants.tsv",
    "weights.dat",
    "events.out.tfevents.1700000000.node-0342.77.0",
    "runs/Nov01_node-0342/events.out.tfevents.1.node-0342",
    ".env",
    "wandb/run.json",
    "notes.yaml",
    "scan.npy",
    "debug/config.json",
]


def test_only_files_of_the_list_are_published_and_the_others_are_named(folder):
    whole = set(read_folder(folder).files)
    for name in STAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"token = {TOKEN!r}")
    publication = read_folder(folder)
    assert set(publication.files) == whole
    assert set(publication.left_out) == set(STAYS)


DISGUISED = {
    "results.json": b"\x80\x04\x95",
    "vocab.txt": b"\x80\x04\x00",
    "README.md": b"PK\x03\x04\x00\x00",
}


@pytest.mark.parametrize("name", DISGUISED)
def test_a_pickle_or_archive_under_another_name_is_refused(folder, name):
    (folder / name).write_bytes(DISGUISED[name])
    with pytest.raises(ValueError, match=rf"{name} does not hold what its name says: expected .*, found other"):
        read_folder(folder)


@pytest.mark.parametrize("reference", ["org/other--m.T", "m.T"])
def test_code_that_a_text_tokenizer_names_is_refused(folder, reference):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [reference, None]}}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tokenizer_config.json: `auto_map` (points at|names) code"):
        read_folder(folder)
