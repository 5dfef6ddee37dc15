"""Stage 1: train the fMRI tokenizer on scans, aligned with what their descriptions mean to a language model.

    python training/train_tokenizer.py training/recipes/tokenizer.yaml
    accelerate launch --num_processes 4 training/train_tokenizer.py training/recipes/tokenizer.yaml --bf16

A recipe is a YAML file of the arguments below; arguments behind it overrule it. Into `output_dir` come the tokenizer,
preprocessor_config.json and training_info.json. `--resume_from_checkpoint true` continues an interrupted training.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from common import ScanArguments, Scans, argument, finish, parse
from texts import Descriptions
from transformers import AutoModel, AutoTokenizer, default_data_collator

from fmri_lm_hf import FmriFeatureExtractor, FmriTokenizer, FmriTokenizerConfig
from fmri_lm_hf.training.data import ScanInputs, embed_texts
from fmri_lm_hf.training.trainer import FmriTrainer


@dataclass
class InputArguments:
    """How scans are brought into the form of the model's input."""

    _argument_group_name: ClassVar[str] = "model input"

    n_timepoints: int = argument("length of the input; longer scans are cut, shorter ones padded", 160)
    t_r: float = argument("repetition time of the input in seconds, to which scans are resampled", 2.0)
    normalization: Literal["scan", "cohort"] = argument(
        "scale each ROI by its median and interquartile range in the scan, or in all training scans", "scan"
    )


@dataclass
class ModelArguments:
    """Shape of the tokenizer: fields of FmriTokenizerConfig."""

    _argument_group_name: ClassVar[str] = "tokenizer"

    patch_size: int = argument("time points of a token; n_timepoints is a multiple of it", 160)
    input_features: list[str] = argument(
        "what a token sees: its patch of the `signal`, its ROI's `connectivity` profile, or both", ["signal"]
    )
    hidden_size: int = argument("width of the encoder", 768)
    num_hidden_layers: int = argument("layers of the encoder", 12)
    num_decoder_layers: int | None = argument(
        "layers of the decoder; as many as the encoder has if not given", None
    )
    num_attention_heads: int = argument("attention heads of both", 12)
    codebook_size: int = argument("codes of each codebook", 8192)
    codebook_dim: int = argument("dimension of a code", 128)
    num_quantizers: int = argument("levels of residual quantization, each with a codebook", 1)
    codebook_decay: float = argument("decay of the moving averages that train the codebooks", 0.99)
    contrastive_loss_weight: float = argument("weight of the SigLIP loss between scans and texts", 1.0)
    domain_loss_weight: float = argument(
        "weight of the classifier that should not tell scans from texts", 0.5
    )


@dataclass
class AlignmentArguments:
    """Texts that scans are aligned with; no alignment without a corpus."""

    _argument_group_name: ClassVar[str] = "alignment with texts"

    corpus: str | None = argument(
        "corpus of the scans: a folder that `fmri-lm corpus build` made, or on the Hub", None
    )
    corpus_config: str | None = argument("all (default), or a family such as connectivity", None)
    text_length: str = argument(
        "sentence, paragraph or full; the first text of this length is used", "paragraph"
    )
    text_model: str | None = argument(
        "language model (Hub id or folder) whose mean last hidden state is the text", None
    )


def embed(texts: Descriptions, rows: list[int], text_model: str, device: torch.device) -> torch.Tensor:
    """Embeddings (n_rows, hidden_size) of the first text about each scan."""
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModel.from_pretrained(text_model).to(device).eval()
    return embed_texts(model, tokenizer, [texts.texts(row)[0] for row in rows])


def main() -> None:
    kinds = (ScanArguments, InputArguments, ModelArguments, AlignmentArguments)
    *given, training = parse(__doc__, *kinds)
    scan_arguments, inputs, shape, alignment = given
    if (alignment.corpus is None) != (alignment.text_model is None):
        raise ValueError("Alignment needs both `corpus` and `text_model`: give the other one, or neither.")
    scans = Scans(scan_arguments, alignment.corpus)
    extractor = FmriFeatureExtractor(
        atlas=scans.atlas, n_rois=scans.n_rois, n_timepoints=inputs.n_timepoints, t_r=inputs.t_r
    )
    if alignment.corpus is None:
        rows = scans.split_rows(training, extractor)
        embeds = {}
    else:
        texts = Descriptions(
            scans.dataset, alignment.corpus, alignment.corpus_config, [alignment.text_length]
        )
        rows = scans.split_rows(training, extractor, texts.rows)
        embeds = {split: embed(texts, rows[split], alignment.text_model, training.device) for split in rows}
    if inputs.normalization == "cohort":
        extractor.fit_normalization(scans.dataset[row] for row in rows["train"])
    examples = {split: ScanInputs(scans.dataset, extractor, rows[split], embeds.get(split)) for split in rows}
    model = FmriTokenizer(
        FmriTokenizerConfig(
            n_rois=extractor.n_rois,
            n_timepoints=extractor.n_timepoints,
            text_embed_dim=embeds["train"].shape[1] if embeds else None,
            **asdict(shape),
        )
    )
    trainer = FmriTrainer(
        model,
        training,
        data_collator=default_data_collator,
        train_dataset=examples["train"],
        eval_dataset=examples.get("validation"),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    finish(trainer, extractor, given, stage="tokenizer", **scans.facts(rows["train"]))


if __name__ == "__main__":
    main()
