"""The question encoder: its heads, its loss, and how it is saved in 8 bits."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file
from small_encoder import encoder, tokenizer

from fmri_lm_hf.questions.classes import CLASSES, MAX_LENGTH, NONE, PAIRINGS, SIZES
from fmri_lm_hf.questions.encoder import (
    QuestionHeads,
    QuestionReader,
    encode,
    pack,
    padded,
    to_readings,
    unpack,
)

TEXTS = ["how strong is [n1] with [n2] ?", "hub ?", "[missing] [several] [n8]", "is"]


@pytest.fixture(scope="module")
def reader():
    made = tokenizer()
    return QuestionReader(encoder(len(made)), made)


@pytest.fixture(scope="module")
def folder(reader, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "deeper" / "made"
    reader.save(path)
    return path


def logits(reader, texts=TEXTS):
    rows, mask = padded([encode(reader.tokenizer, text) for text in texts])
    with torch.inference_mode():
        return reader.model(rows, mask).logits


# ----- reading -----


def test_readings_name_the_probabilities_of_the_four_heads(reader):
    heads = logits(reader).split(SIZES, dim=-1)
    for number, reading in enumerate(reader.read(TEXTS)):
        read = (reading.first, reading.second, *reading.pairings)
        names = (CLASSES, (*CLASSES, NONE), PAIRINGS, PAIRINGS)
        for head, probabilities, expected in zip(heads, read, names, strict=True):
            assert tuple(probabilities) == tuple(expected)
            assert list(probabilities.values()) == pytest.approx(head[number].softmax(-1).tolist())


def test_a_question_is_read_alike_beside_longer_ones(reader):
    alone = [reader.read([text])[0] for text in TEXTS]
    for one, beside in zip(alone, reader.read(TEXTS), strict=True):
        assert one.first == pytest.approx(beside.first, abs=1e-5)
        assert one.second == pytest.approx(beside.second, abs=1e-5)


def test_every_placeholder_counts(reader):
    several, missing, first, second = reader.read(
        [f"is {name} strong" for name in ("[several]", "[missing]", "[n1]", "[n2]")]
    )
    read = [each.first for each in (several, missing, first, second)]
    assert all(one != pytest.approx(other, abs=1e-3) for one, other in itertools.pairwise(read))


def test_a_long_question_is_cut_in_the_middle(reader):
    words = ["how", *["is"] * MAX_LENGTH, "strong", "with", *["is"] * MAX_LENGTH, "hub"]
    ids = encode(reader.tokenizer, " ".join(words))
    known = reader.tokenizer.convert_tokens_to_ids
    assert len(ids) == MAX_LENGTH
    assert ids[1] == known("how")
    assert ids[-2:] == known(["hub", "[SEP]"])
    assert known("strong") not in ids


def test_ids_are_padded_to_a_multiple():
    rows, mask = padded([[5, 6, 7], [8]], 4)
    assert rows.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert padded([[5, 6, 7]])[0].shape == (1, 3)


# ----- learning -----


def heads_and_inputs():
    torch.manual_seed(0)
    return QuestionHeads(8, dropout=0.0), torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def test_what_is_masked_says_nothing():
    heads, hidden, mask = heads_and_inputs()
    changed = hidden.clone()
    changed[1, 2:] = 9.0
    assert torch.equal(heads(hidden, mask).logits, heads(changed, mask).logits)
    assert not torch.equal(heads(hidden, torch.ones_like(mask)).logits, heads(changed, torch.ones_like(mask)).logits)


def test_each_head_weighs_the_tokens_by_itself():
    heads, hidden, mask = heads_and_inputs()
    before = heads(hidden, mask).logits.split(SIZES, dim=-1)
    with torch.no_grad():
        heads.attend.weight[2] += 3
    after = heads(hidden, mask).logits.split(SIZES, dim=-1)
    assert [torch.equal(*both) for both in zip(before, after)] == [True, True, False, True]


def test_a_head_without_a_label_learns_nothing():
    heads, hidden, mask = heads_and_inputs()
    loss = heads(hidden, mask, torch.tensor([[3, -100, -100, -100], [-100, 4, -100, -100]])).loss
    loss.backward()
    gradients = [bool(head.weight.grad.abs().sum() > 0) for head in heads.heads]
    assert torch.isfinite(loss)
    assert gradients == [True, True, False, False]


def test_the_loss_is_the_sum_of_the_heads_for_a_question():
    heads, hidden, mask = heads_and_inputs()
    labels = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
    parts = [heads(hidden, mask, torch.where(torch.arange(4) == number, labels, -100)).loss for number in range(4)]
    assert heads(hidden, mask, labels).loss.item() == pytest.approx(sum(parts).item(), rel=1e-5)
    one = [heads(hidden[k : k + 1], mask[k : k + 1], labels[k : k + 1]).loss.item() for k in (0, 1)]
    assert heads(hidden, mask, labels).loss.item() == pytest.approx(sum(one) / 2, rel=1e-5)
    assert heads(hidden, mask).loss is None


# ----- saving -----


def test_a_saved_encoder_reads_nearly_alike(reader, folder):
    loaded = QuestionReader.load(folder)
    before, after = logits(reader), logits(loaded)
    assert after.shape == before.shape
    assert (after - before).abs().max() < 0.1 * before.std()
    assert (after - before).abs().max() > 0  # rounded, hence not the very same
    for one, other in zip(reader.read(TEXTS), loaded.read(TEXTS), strict=True):
        assert max(one.first, key=one.first.get) == max(other.first, key=other.first.get)


def test_a_loaded_encoder_saves_the_same_files(folder, tmp_path):
    QuestionReader.load(folder).save(tmp_path)
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / file).read_text(encoding="utf-8") == (folder / file).read_text(encoding="utf-8")
    first, again = (unpack(load_file(path / "model.safetensors")) for path in (folder, tmp_path))
    assert first.keys() == again.keys()
    assert all(torch.allclose(first[name], again[name], rtol=2e-2, atol=1e-3) for name in first)


def test_matrices_are_saved_in_8_bits_and_vectors_in_16(reader, folder):
    saved = load_file(folder / "model.safetensors")
    for name, weight in reader.model.state_dict().items():
        assert saved[name].dtype == (torch.int8 if weight.ndim == 2 else torch.float16)
        assert (f"{name}.scale" in saved) == (weight.ndim == 2)


def test_rounding_moves_no_weight_by_more_than_half_a_step():
    torch.manual_seed(0)
    state = {"matrix": torch.randn(6, 50) * 10.0 ** torch.arange(-3, 3)[:, None], "zeros": torch.zeros(2, 3)}
    again = unpack(pack(state))
    step = state["matrix"].abs().amax(1, keepdim=True) / 127
    assert ((again["matrix"] - state["matrix"]).abs() <= 0.6 * step).all()  # the scale itself is rounded, too
    assert torch.equal(again["zeros"], state["zeros"])


def test_other_classes_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changes = {"none": None, "fewer": CLASSES[:-1], "reordered": CLASSES[::-1]}
    for name, classes in changes.items():
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config | {"classes": classes}), encoding="utf-8")
        message = (
            rf"in {name} knows {len(classes or ())} classes .* the {len(CLASSES)} of this version: train it again"
        )
        with pytest.raises(ValueError, match=message):
            QuestionReader.load(path)


def test_logits_of_half_precision_are_named(reader):
    (reading,) = to_readings(torch.zeros(1, sum(SIZES), dtype=torch.bfloat16))
    assert reading.first["level"] == pytest.approx(1 / len(CLASSES))
    assert reading.second[NONE] == pytest.approx(1 / (len(CLASSES) + 1))
