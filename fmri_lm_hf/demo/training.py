"""The three stages at demo size, each a run of the Trainer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.modeling_fmri_tokenizer import FmriTokenizer
from ..models.processing_fmri_lm import FmriLMProcessor
from ..training.data import about_scan, embed_texts
from ..training.trainer import FmriLMCollator, FmriLMTrainer, FmriTrainer
from .data import ASK_LABEL, ASK_PAIR, DESCRIBE, DemoData, Descriptions
from .recipe import Recipe

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ ('<|assistant|>' if message['role'] == 'assistant' else '<|user|>') + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class _Progress(ProgressCallback):
    """A progress bar that says what is being trained and carries the loss, and no printed logs."""

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.title)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def _arguments(recipe: Recipe, epochs: int, out: str, **changes: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "output_dir": out,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "adam_beta2": 0.98,
        "max_grad_norm": 1.0,
        "logging_steps": 5,
        "logging_first_step": True,
        "save_strategy": "no",
        "seed": recipe.seed,
        "use_cpu": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(defaults | changes))


def _run(trainer: Trainer, title: str) -> list[dict[str, float]]:
    """Train with a bar that says what is being trained; return the logged losses."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Progress(title))
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def train_text_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the training texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<fmri>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        padding_side="left",  # generation goes on at the right
        chat_template=CHAT_TEMPLATE,
    )


class PlainTexts(Dataset):
    """Texts without scans, as examples for `FmriLMCollator`."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": self.texts[index]}


class Conversations(Dataset):
    """Questions and answers about each training scan, drawn anew every time a scan is met.

    Parameters
    ----------
    data, descriptions
    features : torch.Tensor of shape (n_views, n_train, n_tokens, size)
        Of the frozen tokenizer, computed once; each time a scan is met one of its views is drawn.
    n_pairs : int
        Questions about network pairs in each conversation.
    ask_labels : bool
        Whether labels are asked for (stage 3).
    share_described : float
        Share of the conversations that ask for a description.
    n_plain : int
        Plain texts without a scan that are added (stage 2).
    token_dropout : float
        Largest share of ROIs hidden from a conversation.
    seed : int
    """

    def __init__(
        self,
        data: DemoData,
        descriptions: Descriptions,
        features: torch.Tensor,
        n_pairs: int,
        ask_labels: bool,
        share_described: float,
        n_plain: int,
        token_dropout: float,
        seed: int,
    ):
        self.data, self.descriptions, self.features = data, descriptions, features
        self.n_pairs, self.ask_labels, self.n_plain = n_pairs, ask_labels, n_plain
        self.share_described = share_described
        self.token_dropout = token_dropout
        self.random = random.Random(seed)
        self.rows = data.train.tolist()

    def __len__(self) -> int:
        return len(self.rows) + self.n_plain

    def __getitem__(self, index: int) -> dict[str, Any]:
        choose = self.random
        if index >= len(self.rows):
            return {"text": choose.choice(self.descriptions.sentences[choose.choice(self.rows)])}
        row = self.rows[index]
        chosen = choose.sample(
            range(len(self.descriptions.pairs)), min(self.n_pairs, len(self.descriptions.pairs))
        )
        turns = [
            (ASK_PAIR.format(pair=self.descriptions.pairs[pair]), self.descriptions.answers[row][pair])
            for pair in chosen
        ]
        if self.ask_labels:
            known = [
                (name, values[row]) for name, values in self.data.labels.items() if values[row] is not None
            ]
            turns += [(choose.choice(ASK_LABEL).format(label=name), str(value)) for name, value in known]
        if choose.random() < self.share_described:
            turns.append((choose.choice(DESCRIBE), choose.choice(self.descriptions.sentences[row])))
        choose.shuffle(turns)
        hidden = torch.rand(self.data.atlas.n_rois) < self.token_dropout * choose.random()
        return {
            "conversation": about_scan(turns),
            "fmri_features": self.features[choose.randrange(len(self.features)), index],
            "roi_mask": self.data.inputs["roi_mask"][row] & ~hidden,
            "padding_mask": self.data.inputs["padding_mask"][row],
        }


class Training:
    """The demo's stages, in order; `logs` keeps what each of them logged.

    Parameters
    ----------
    data, descriptions, recipe
    out : str
        Folder for the Trainer.
    """

    def __init__(self, data: DemoData, descriptions: Descriptions, recipe: Recipe, out: str):
        self.data, self.descriptions, self.recipe, self.out = data, descriptions, recipe, out
        self.logs: dict[str, list[dict[str, float]]] = {}
        texts = [text for sentences in descriptions.sentences.values() for text in sentences]
        questions = [form.format(label=name) for form in ASK_LABEL for name in data.labels] + list(DESCRIBE)
        questions += [ASK_PAIR.format(pair=pair) for pair in descriptions.pairs]
        answers = [name for label in data.labels for name in data.classes(label)]
        self.texts = texts
        self.text_tokenizer = train_text_tokenizer(
            [*texts, *questions * 20, *answers * 20], recipe.vocab_size
        )
        self.processor = FmriLMProcessor(data.extractor, self.text_tokenizer)

    def pretrain_text(self) -> LlamaForCausalLM:
        """A small language model of the descriptions: the stand-in for a pretrained one."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(self.text_tokenizer),
                hidden_size=recipe.lm_hidden_size,
                intermediate_size=2 * recipe.lm_hidden_size,
                num_hidden_layers=recipe.lm_num_layers,
                num_attention_heads=4,
                max_position_embeddings=2048,
                initializer_range=recipe.initializer_range,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=self.text_tokenizer.eos_token_id,
                pad_token_id=self.text_tokenizer.pad_token_id,
            )
        )
        trainer = Trainer(
            model,
            _arguments(recipe, recipe.text_epochs, self.out),
            data_collator=FmriLMCollator(self.processor),
            train_dataset=PlainTexts(self.texts),
        )
        self.logs["text"] = _run(trainer, "text")
        return model.eval()

    def train_tokenizer(self, language_model: LlamaForCausalLM) -> FmriTokenizer:
        """Stage 1: scans to tokens, aligned with the text embeddings of their descriptions."""
        recipe, data = self.recipe, self.data
        torch.manual_seed(recipe.seed)
        tokenizer = FmriTokenizer(
            FmriTokenizerConfig(
                n_rois=data.atlas.n_rois,
                n_timepoints=data.extractor.n_timepoints,
                patch_size=data.extractor.n_timepoints,
                input_features=list(recipe.input_features),
                roi_networks=[data.atlas.network_names.index(name) for name in data.atlas.networks],
                hidden_size=recipe.hidden_size,
                num_hidden_layers=recipe.num_encoder_layers,
                num_attention_heads=4,
                intermediate_size=2 * recipe.hidden_size,
                codebook_size=recipe.codebook_size,
                codebook_dim=recipe.codebook_dim,
                num_quantizers=recipe.num_quantizers,
                text_embed_dim=recipe.lm_hidden_size,
                contrastive_loss_weight=0.05,
                domain_loss_weight=0.05,
                initializer_range=recipe.initializer_range,
            )
        )
        texts = [self.descriptions.sentences[row][0] for row in data.train]
        embeds = embed_texts(language_model, self.text_tokenizer, texts)
        embeds = embeds - embeds.mean(0)  # what all descriptions share says nothing about a scan
        examples = [
            {name: values[row] for name, values in data.inputs.items()} | {"text_embeds": embeds[i]}
            for i, row in enumerate(data.train.tolist())
        ]
        trainer = FmriTrainer(
            tokenizer,
            _arguments(recipe, recipe.tokenizer_epochs, self.out),
            data_collator=default_data_collator,
            train_dataset=examples,
        )
        self.logs["tokenizer"] = _run(trainer, "tokenizer")
        return tokenizer.eval()

    def join(self, tokenizer: FmriTokenizer, language_model: LlamaForCausalLM) -> FmriLMForCausalLM:
        """The model of stages 2 and 3: a frozen tokenizer, a fresh projector, a language model to train."""
        torch.manual_seed(self.recipe.seed)
        model = FmriLMForCausalLM.from_components(
            tokenizer,
            language_model,
            fmri_token_id=self.processor.fmri_token_id,
            fmri_embedding_source="codes" if self.recipe.read_codes else "encoder",
            projector_layer_norm=True,
            initializer_range=self.recipe.initializer_range,
        )
        model.freeze_fmri_tokenizer()
        return model

    def training_views(self, model: FmriLMForCausalLM) -> torch.Tensor:
        """Features of the training scans, whole and through random windows: (n_views, n_train, n_tokens, size)."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        scans = {name: values[self.data.train] for name, values in self.data.inputs.items()}
        views = [scans] + [
            windows(scans, self.recipe.shortest_window, generator) for _ in range(self.recipe.n_windows)
        ]
        titles = ["Tokens of the training scans"] + [
            f"The same, window {i + 1}" for i in range(len(views) - 1)
        ]
        return torch.stack([frozen_features(model, view, title) for view, title in zip(views, titles)])

    def train_language_model(
        self, model: FmriLMForCausalLM, features: torch.Tensor, stage: str, epochs: int, **conversations: Any
    ) -> None:
        """Stage 2 ("alignment") or 3 ("instruction"), depending on what the conversations hold."""
        recipe = self.recipe
        dataset = Conversations(
            self.data,
            self.descriptions,
            features,
            token_dropout=recipe.token_dropout,
            seed=recipe.seed,
            **conversations,
        )
        trainer = FmriLMTrainer(
            model,
            _arguments(recipe, epochs, self.out),
            data_collator=FmriLMCollator(self.processor),
            train_dataset=dataset,
        )
        self.logs[stage] = _run(trainer, stage)
        model.eval()


@torch.inference_mode()
def frozen_features(model: FmriLMForCausalLM, inputs: dict[str, torch.Tensor], title: str) -> torch.Tensor:
    """Features of scans from the frozen tokenizer: (n_scans, n_tokens, size)."""
    parts = [
        model.get_fmri_features(**{name: values[start : start + 32] for name, values in inputs.items()})
        for start in tqdm(range(0, len(inputs["input_values"]), 32), desc=title, unit="batch")
    ]
    return torch.cat(parts).clone()


def windows(
    inputs: dict[str, torch.Tensor], shortest: float, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The same scans seen through random windows in time: another sample of each person's connectivity.

    Parameters
    ----------
    inputs : dict of torch.Tensor
        Scans, with `padding_mask`.
    shortest : float
        Least share of a scan's time points that its window holds.
    generator : torch.Generator
    """
    padding_mask = inputs["padding_mask"]
    length = padding_mask.sum(1)
    share = shortest + (1 - shortest) * torch.rand(len(length), generator=generator)
    kept = (length * share).long()
    first = ((length - kept + 1) * torch.rand(len(length), generator=generator)).long()
    place = torch.arange(padding_mask.shape[1])
    inside = (place >= first[:, None]) & (place < (first + kept)[:, None])
    return inputs | {"padding_mask": padding_mask & inside}
