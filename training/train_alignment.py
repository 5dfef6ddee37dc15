"""Stage 2: teach a language model to read the tokens of scans, from pairs of scans and descriptions.

    python training/train_alignment.py training/recipes/alignment.yaml
    accelerate launch --num_processes 4 training/train_alignment.py training/recipes/alignment.yaml --bf16

The loss is F2T + 0.1 F2F + 0.5 T2T: describe the scan; predict the codes of the next time patch (where a scan has
more than one); and go on with plain text, so that the model keeps its language. The tokenizer stays frozen. A recipe
is a YAML file of the arguments below; arguments behind it overrule it. Into `output_dir` come the model (adapters
merged), its processor and training_info.json. `--resume_from_checkpoint true` continues an interrupted training.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from common import LoraArguments, ScanArguments, Scans, argument, finish, lora_config, parse
from peft import get_peft_model
from texts import Descriptions, plain_text_blocks
from transformers import AutoModelForCausalLM, AutoTokenizer

from fmri_lm_hf import FmriFeatureExtractor, FmriLMForCausalLM, FmriLMProcessor, FmriTokenizer
from fmri_lm_hf.training.data import ScanConversations, ScanInputs
from fmri_lm_hf.training.trainer import FmriLMCollator, FmriLMTrainer


@dataclass
class ModelArguments:
    """What is joined, and how."""

    _argument_group_name: ClassVar[str] = "model"

    fmri_tokenizer: str = argument("checkpoint of stage 1: a folder or Hub id")
    language_model: str = argument(
        "causal language model with its tokenizer: a folder or Hub id, such as gpt2"
    )
    fmri_embedding_source: Literal["encoder", "codes"] = argument(
        "what the language model reads: the encoder's features (as published) or only what the codes say",
        "encoder",
    )
    projector_layer_norm: bool = argument("normalise scan features before the projector", False)
    fmri_loss_weight: float = argument("weight of F2F, the next codes; 0 leaves it out", 0.1)
    text_only_loss_weight: float = argument("weight of T2T, plain text; 0 leaves it out", 0.5)
    roi_dropout: float = argument("largest share of a scan's ROIs that are hidden while training", 0.0)


@dataclass
class TextArguments:
    """Descriptions of the scans, and plain text."""

    _argument_group_name: ClassVar[str] = "texts"

    corpus: str = argument("corpus of the scans: a folder that `fmri-lm corpus build` made, or on the Hub")
    corpus_config: str | None = argument("all (default), or a family such as connectivity", None)
    text_lengths: list[str] = argument(
        "texts of these lengths are used, one drawn each time", ["sentence", "paragraph"]
    )
    requests: list[str] = argument("what the user says before a description; drawn", ["Describe this scan."])
    plain_text: str | None = argument(
        "plain text for T2T: a .txt, .jsonl or .parquet file, or a dataset with `text`", None
    )
    plain_text_tokens: int = argument("length of the blocks that plain text is cut into", 256)


def main() -> None:
    *given, training = parse(__doc__, ScanArguments, ModelArguments, TextArguments, LoraArguments)
    scan_arguments, names, texts, lora = given
    if names.text_only_loss_weight and texts.plain_text is None:
        raise ValueError(
            "T2T needs plain text: give `plain_text`, or set `text_only_loss_weight: 0` to train without it."
        )
    scans = Scans(scan_arguments, texts.corpus)
    describe = Descriptions(
        scans.dataset, texts.corpus, texts.corpus_config, texts.text_lengths, texts.requests
    )
    fmri_tokenizer = FmriTokenizer.from_pretrained(names.fmri_tokenizer)
    extractor = FmriFeatureExtractor.from_pretrained(names.fmri_tokenizer)
    language_model = AutoModelForCausalLM.from_pretrained(names.language_model, dtype=torch.float32)
    text_tokenizer = AutoTokenizer.from_pretrained(names.language_model, padding_side="left")
    text_tokenizer.pad_token = text_tokenizer.pad_token or text_tokenizer.eos_token
    processor = FmriLMProcessor(extractor, text_tokenizer, patch_size=fmri_tokenizer.config.patch_size)
    model = FmriLMForCausalLM.from_components(
        fmri_tokenizer,
        language_model,
        fmri_token_id=processor.fmri_token_id,
        fmri_embedding_source=names.fmri_embedding_source,
        projector_layer_norm=names.projector_layer_norm,
        fmri_loss_weight=names.fmri_loss_weight,
    )
    adapter = None
    if lora.lora_rank:
        adapter = get_peft_model(model, lora_config(model, lora))  # changes `model` itself
        for starts_fresh in (model.projector, model.roi_embeddings, model.fmri_head):
            starts_fresh.requires_grad_(True)
    model.freeze_fmri_tokenizer()

    plain_texts = None
    if names.text_only_loss_weight:
        with training.main_process_first():
            plain_texts = plain_text_blocks(texts.plain_text, text_tokenizer, texts.plain_text_tokens)
    rows = scans.split_rows(training, extractor, describe.rows)
    examples = {
        split: ScanConversations(
            ScanInputs(scans.dataset, extractor, rows[split]),
            describe,
            plain_texts if split == "train" else None,
        )
        for split in rows
    }
    trainer = FmriLMTrainer(
        model,
        training,
        data_collator=FmriLMCollator(processor),
        train_dataset=examples["train"],
        eval_dataset=examples.get("validation"),
        text_only_loss_weight=names.text_only_loss_weight,
        next_codes=names.fmri_loss_weight > 0 and fmri_tokenizer.config.n_patches > 1,
        roi_dropout=names.roi_dropout,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    if adapter is not None:
        adapter.merge_and_unload()
    finish(
        trainer,
        processor,
        given,
        stage="alignment",
        **scans.facts(rows["train"]),
        fmri_tokenizer=scans.earlier_info(names.fmri_tokenizer),
    )


if __name__ == "__main__":
    main()
