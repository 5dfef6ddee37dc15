"""Training: batches, the three losses and their weights, logs, accumulation, evaluation, resuming."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from small import FMRI, N_TOKENS, fmri_tokenizer, language_model, processor, scans
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, TrainingArguments, default_data_collator

from fmri_lm_hf.corpus.queries import Question
from fmri_lm_hf.training.data import FmriLMCollator, ScanConversations
from fmri_lm_hf.training.run import write_training_info
from fmri_lm_hf.training.trainer import FmriLMTrainer, FmriTrainer

PAD = 3


def conversation(answer: str, with_scan: bool = True) -> list[dict]:
    content = [{"type": "text", "text": "What is the sex ?"}]
    content = [{"type": "fmri"}, *content] if with_scan else content
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def about_scans(n: int, answers: tuple[str, ...] = ("female", "male"), **more) -> list[dict]:
    return [
        {
            "conversation": conversation(answers[i % len(answers)]),
            "input_values": scans(n)[i],
            "roi_mask": torch.ones(6, dtype=torch.bool),
            "padding_mask": torch.ones(16, dtype=torch.bool),
            **{name: values[i] for name, values in more.items()},
        }
        for i in range(n)
    ]


def arguments(folder, **changes) -> TrainingArguments:
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
        "seed": 0,
    }
    return TrainingArguments(**(defaults | changes))


def trainer(folder, examples, model=None, text_only_loss_weight: float = 0.5, **changes) -> FmriLMTrainer:
    return FmriLMTrainer(
        model or language_model(),
        arguments(folder, **changes),
        data_collator=FmriLMCollator(processor()),
        train_dataset=examples,
        eval_dataset=examples,
        text_only_loss_weight=text_only_loss_weight,
    )


def tokenizer_trainer(folder, **changes) -> FmriTrainer:
    torch.manual_seed(0)
    return FmriTrainer(
        fmri_tokenizer(text_embed_dim=10),
        arguments(folder, **changes),
        data_collator=default_data_collator,
        train_dataset=[{"input_values": scans(8)[i], "text_embeds": torch.randn(10)} for i in range(8)],
        eval_dataset=[{"input_values": scans(4, seed=1)[i]} for i in range(4)],
    )


def logged(of: FmriTrainer, name: str) -> list[float]:
    return [entry[name] for entry in of.state.log_history if name in entry]


# --- batches --------------------------------------------------------------------------------------------------


def test_examples_are_drawn_anew_in_every_epoch():
    view = SimpleNamespace(row=lambda scan_id: {})
    examples = ScanConversations([view], ["a"], lambda scan_id, draw, seen: [Question("?", str(draw.random()))])
    first, second, again = (examples[index]["questions"][0].answer for index in (0, 1, 0))
    assert first == again != second


def test_the_seed_shuffles_examples(tmp_path):
    first_values = scans(8)[:, 0, 0].tolist()

    def order(**changes) -> list[int]:
        batches = tokenizer_trainer(tmp_path, **changes).get_train_dataloader()
        return [first_values.index(value) for batch in batches for value in batch["input_values"][:, 0, 0].tolist()]

    in_order = list(range(8))
    first, again, other = (order(seed=seed) for seed in (0, 0, 1))
    assert sorted(first) == sorted(other) == in_order
    assert first == again
    assert len({tuple(each) for each in (first, other, in_order)}) == 3
    assert order(train_sampling_strategy="sequential") == in_order


def test_batches_of_conversations_and_texts():
    process = processor()
    examples = [
        *about_scans(2, ("female", "the sex is male")),
        # as a dataset with all columns gives them
        {"text": "the sex is male", "conversation": None, "input_values": None, "roi_mask": None},
        {"text": None, "conversation": conversation("male", with_scan=False)},
        {"input_ids": [4, 5, 2]},
    ]
    batch = FmriLMCollator(process)(examples)
    text = process.tokenize("the sex is male</s>")
    expected = [process.encode_chat(each["conversation"]) for each in examples[:2]]
    expected += [
        {"input_ids": text, "labels": [-100, *text[1:]]},
        process.encode_chat(examples[3]["conversation"]),
        {"input_ids": [4, 5, 2], "labels": [-100, 5, 2]},
    ]
    for i, each in enumerate(expected):
        n = len(each["input_ids"])
        rest = batch["input_ids"].shape[1] - n
        assert batch["input_ids"][i].tolist() == [PAD] * rest + each["input_ids"]
        assert batch["labels"][i].tolist() == [-100] * rest + each["labels"]
        assert batch["attention_mask"][i].tolist() == [0] * rest + [1] * n
    assert torch.equal(batch["input_values"], scans(2))
    assert batch["roi_mask"].shape == (2, 6)
    assert batch["padding_mask"].shape == (2, 16)
    again = FmriLMCollator(process)(examples[2:])
    assert sorted(again) == ["attention_mask", "input_ids", "labels"]


# --- losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_levels", [1, 2])
def test_the_loss_of_scans_is_the_loss_of_the_model(tmp_path, n_levels):
    model = language_model(tokenizer={"num_quantizers": n_levels}, fmri_loss_weight=0.3)
    codes = model.fmri_tokenizer.encode(scans(4)).fmri_codes
    for more in ({}, {"fmri_labels": codes}):
        run = trainer(tmp_path, about_scans(4, ("female", "the sex is male"), **more), model)
        batch = run.data_collator(run.train_dataset)
        ours = run.compute_loss(model, dict(batch))
        output = model(**batch)
        torch.testing.assert_close(ours, output.loss)
        assert (output.fmri_loss is not None) == bool(more)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_texts_without_scans_have_their_own_weight(tmp_path, weight):
    model = language_model()
    examples = [*about_scans(2), {"text": "the sex is male"}, {"conversation": conversation("male", False)}]
    run = trainer(tmp_path, examples, model, text_only_loss_weight=weight)
    batch = run.data_collator(examples)
    loss, outputs = run.compute_loss(model, dict(batch), return_outputs=True)
    assert outputs.loss is loss
    logits, labels = model(**{**batch, "labels": None}).logits[:, :-1], batch["labels"][:, 1:]
    parts = [cross_entropy(logits[rows].flatten(0, 1), labels[rows].flatten()) for rows in ([0, 1], [2, 3])]
    torch.testing.assert_close(loss, parts[0] + weight * parts[1])
    alone = run.compute_loss(model, run.data_collator(examples[2:]))
    torch.testing.assert_close(alone, weight * parts[1])


def test_replayed_words_have_a_mean_of_their_own(tmp_path):
    of, collate = trainer(tmp_path, about_scans(2)), FmriLMCollator(processor())
    batch, replay = collate(about_scans(2)), collate(about_scans(3))
    counts, without, alone = (of.count_units(each) for each in ({**batch, "replay": replay}, batch, replay))
    assert counts["replayed words"] == alone["words about scans"] > counts["words about scans"]
    assert counts["words about scans"] == without["words about scans"]
    part = of.loss_parts(of.model.eval(), {**batch, "replay": replay})[0]["replay_loss"]
    assert (part.unit, part.weight) == ("replayed words", 1.0)
    torch.testing.assert_close(part.total, of.loss_parts(of.model, replay)[0]["text_loss"].total)


def test_a_scan_in_the_batch_does_not_change_the_loss_of_a_text(tmp_path):
    model = language_model()
    run = trainer(tmp_path, about_scans(1), model, text_only_loss_weight=1.0)
    together = run.compute_loss(model, run.data_collator([*about_scans(1), {"text": "the sex"}]))
    alone = [run.compute_loss(model, run.data_collator(each)) for each in (about_scans(1), [{"text": "the sex"}])]
    torch.testing.assert_close(together, sum(alone))


def test_a_text_beside_scans_costs_what_it_costs_alone(tmp_path):
    model = language_model()
    model.freeze_fmri_tokenizer()
    run = trainer(tmp_path, about_scans(1), model, text_only_loss_weight=1.0)
    model.train()

    def step(examples) -> tuple[int, torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with FlopCounterMode(display=False) as counter:
            loss = run.compute_loss(model, run.data_collator(examples))
            loss.backward()
        return counter.get_total_flops(), loss.detach(), model.language_model.model.norm.weight.grad.clone()

    texts = [{"text": "the sex is male"}, {"text": "male"}]
    flops, loss, gradient = step([texts[0], *about_scans(2), texts[1]])
    apart = [step(examples) for examples in (about_scans(2), texts)]
    assert flops == sum(each[0] for each in apart)
    torch.testing.assert_close(loss, apart[0][1] + apart[1][1])
    torch.testing.assert_close(gradient, apart[0][2] + apart[1][2])


def test_logits_are_computed_where_something_is_learnt_and_nothing_is_cached(tmp_path):
    model = language_model()
    run = trainer(tmp_path, about_scans(1), model)
    heads: list[tuple] = []
    model.language_model.lm_head.register_forward_hook(lambda *args: heads.append(args[2].shape))
    model.train()
    examples = about_scans(2, ("the sex is male",))
    batch = run.data_collator(examples)
    _, outputs = run.compute_loss(model, dict(batch), return_outputs=True)
    assert heads == [(2, int((batch["labels"][0] != -100).sum()), model.config.text_config.vocab_size)]
    assert outputs.past_key_values is None
    assert model.eval()(**{**batch, "labels": None}).past_key_values is not None


def test_hidden_tokens_of_scans_cost_nothing(tmp_path, monkeypatch):
    """Prompts of different lengths, each with other ROIs hidden."""
    model = language_model()
    model.freeze_fmri_tokenizer()
    run = trainer(tmp_path, about_scans(1), model)
    lengths: list[int] = []
    model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    examples = about_scans(2, ("the sex is male",)) + about_scans(1, ("male",))
    for number, example in enumerate(examples):
        mask = torch.ones(6, dtype=torch.bool)
        mask[number : number + 3] = False
        example["roi_mask"] = mask
    batch = run.data_collator(examples)

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        model.train()
        model.zero_grad()
        loss = run.compute_loss(model, dict(batch))
        loss.backward()
        return loss.detach(), model.projector.linear.weight.grad.clone()

    without = step()
    monkeypatch.setattr(run, "_scans_come_first", lambda *args: False)
    whole = step()
    monkeypatch.undo()
    assert lengths == [lengths[1] - 3 * N_TOKENS // 6, lengths[1]]
    torch.testing.assert_close(without, whole, rtol=1e-4, atol=1e-6)
    # a scan behind an answer: columns do not move alike in all rows, so nothing is left out
    second = about_scans(1)[0]
    talk = [*second["conversation"], *conversation("male")]
    both = {name: torch.stack([second[name]] * 2) for name in ("input_values", "roi_mask", "padding_mask")}
    both["roi_mask"][:, :3] = False
    encoded = FmriLMCollator(processor())([{"conversation": talk}])
    lengths.clear()
    run.compute_loss(model.train(), {**encoded, **both})
    assert lengths == [encoded["input_ids"].shape[1]]


def test_every_weight_takes_part_in_a_step_with_only_text(tmp_path):
    model = language_model()
    model.freeze_fmri_tokenizer()
    run = trainer(tmp_path, about_scans(1), model)
    run.compute_loss(model.train(), run.data_collator([{"text": "the sex is male"}])).backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    of_scans = [name for name in trained if not name.startswith("language_model")]
    assert {name.split(".")[0] for name in of_scans} == {"projector", "roi_embeddings", "fmri_head"}
    assert not any(trained[name].grad.any() for name in of_scans)


# --- training -------------------------------------------------------------------------------------------------


def test_parts_of_the_loss_are_logged_and_training_lowers_it(tmp_path):
    model = language_model()
    codes = model.fmri_tokenizer.encode(scans(4)).fmri_codes
    model.freeze_fmri_tokenizer()
    examples = [*about_scans(4, fmri_labels=codes), *[{"text": "the sex is male"}] * 2]
    run = trainer(tmp_path, examples, model, per_device_train_batch_size=6, max_steps=12)
    run.train()
    names = ("text_loss", "text_only_loss", "fmri_loss")
    parts = {name: logged(run, name) for name in names}
    assert all(len(values) == 12 for values in parts.values())
    losses = logged(run, "loss")
    for i, loss in enumerate(losses):
        total = parts["text_loss"][i] + 0.5 * parts["text_only_loss"][i] + 0.1 * parts["fmri_loss"][i]
        assert loss == pytest.approx(total, abs=1e-3)
    assert losses[-1] < 0.5 * losses[0]
    assert parts["fmri_loss"][-1] < parts["fmri_loss"][0]


def test_stage_one_logs_its_parts(tmp_path):
    run = tokenizer_trainer(tmp_path, max_steps=2)
    run.train()
    for name in (
        "reconstruction_loss",
        "commitment_loss",
        "contrastive_loss",
        "domain_loss",
        "codebook_usage",
    ):
        assert len(logged(run, name)) == 2, name
    assert 0 < logged(run, "codebook_usage")[0] <= 1


def test_parts_are_averaged_between_logs(tmp_path):
    logs = {}
    for every in (1, 4):
        run = tokenizer_trainer(tmp_path, logging_steps=every)
        run.train()
        logs[every] = logged(run, "reconstruction_loss")
    assert logs[4] == pytest.approx([sum(logs[1]) / 4], abs=1e-3)


def test_evaluation_has_a_loss_with_its_parts_in_both_stages(tmp_path):
    run = tokenizer_trainer(tmp_path)
    metrics = run.evaluate()
    with torch.no_grad():
        output = run.model(scans(4, seed=1))
    assert metrics["eval_loss"] == pytest.approx(output.loss.item(), abs=1e-5)
    assert run.state.log_history[-1]["eval_commitment_loss"] == pytest.approx(output.commitment_loss.item(), abs=1e-4)

    examples = about_scans(4)
    run = trainer(tmp_path, examples)
    with torch.no_grad():
        expected = run.model(**run.data_collator(examples)).loss.item()
    assert run.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert run.state.log_history[-1]["eval_text_loss"] == pytest.approx(expected, abs=1e-4)
    run = trainer(tmp_path, examples, eval_strategy="steps", eval_steps=1, max_steps=2)
    run.train()
    assert len(logged(run, "eval_loss")) == len(logged(run, "eval_text_loss")) == 2
    assert len(logged(run, "text_loss")) == 2


@pytest.mark.parametrize("stage", ["tokenizer", "language model"])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, stage):
    weights = []
    for batch_size, accumulated in ((4, 1), (2, 2)):
        options = {
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulated,
            "max_steps": 1,
            "optim": "sgd",
            "max_grad_norm": 1e9,
        }
        if stage == "language model":
            run = trainer(tmp_path, about_scans(4), **options)
            run.model.freeze_fmri_tokenizer()
        else:
            run = tokenizer_trainer(tmp_path, **options)
            run.train_dataset = run.train_dataset[:4]
        run.train()
        weights.append({name: value.clone() for name, value in run.model.state_dict().items()})
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", ["tokenizer", "language model"])
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, stage):
    def make(**options):
        options = {"per_device_train_batch_size": 2, "max_steps": 6} | options
        if stage == "tokenizer":
            return tokenizer_trainer(tmp_path, **options)
        return trainer(tmp_path, about_scans(8), **options)

    whole = make(save_strategy="steps", save_steps=3)
    whole.train()
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 6
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_examples_that_are_drawn_are_drawn_anew_each_epoch(tmp_path):
    class Drawn(list):
        draws_each_epoch = True
        asked: list[int] = []

        def __getitem__(self, index):
            self.asked.append(index)
            return super().__getitem__(index % len(self))

    examples = Drawn(about_scans(4))
    trainer(tmp_path, examples, max_steps=-1, num_train_epochs=2, per_device_train_batch_size=2).train()
    assert [sorted(examples.asked[:4]), sorted(examples.asked[4:])] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    run = trainer(tmp_path, examples, eval_strategy="no")
    examples.asked.clear()
    run.evaluate()
    assert examples.asked == [0, 1, 2, 3]


def test_a_trained_model_is_loaded_as_it_is(tmp_path):
    run = trainer(tmp_path, about_scans(4), max_steps=2)
    run.train()
    run.save_model(str(tmp_path / "model"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    state = run.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_padding_and_placeholders_are_never_learnt(tmp_path):
    batch = FmriLMCollator(processor())([*about_scans(2, ("female", "the sex is male")), {"text": "male"}])
    assert not torch.isin(batch["labels"], torch.tensor([PAD, FMRI])).any()
    assert (batch["input_ids"] == FMRI).sum() == 2 * N_TOKENS


def test_training_info(tmp_path):
    path = write_training_info(tmp_path / "model", stage="instruction", simulated=True, name="größer")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["stage"], content["simulated"], content["name"]) == ("instruction", True, "größer")
    assert content["versions"]["torch"] == torch.__version__
    assert [file.name for file in path.parent.iterdir()] == ["training_info.json"]
