"""Stage 2: teach a language model to read the tokens of scans, from pairs of scans and descriptions.

    fmri-lm train alignment training/recipes/alignment.yaml
    python training/train_alignment.py training/recipes/alignment.yaml
    accelerate launch --num_processes 4 -m fmri_lm_hf.training.alignment training/recipes/alignment.yaml --bf16

The loss is F2T + 0.1 F2F + 0.5 T2T: describe the scan; predict the codes of the next time patch, if a scan has
several; and continue plain text, so that the model keeps its language. The tokenizer stays frozen. A recipe is a YAML
file of the options below; options after it override it. `output_dir` gets the model (adapters merged), its processor
and training_info.json.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..bundled import suppress_unnamed_words
from ..corpus.queries import DESCRIBE
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.modeling_fmri_tokenizer import FmriTokenizer
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LanguageModelArguments, argument, parse
from .backbone import Backbone, add_adapter, load_backbone
from .data import TrainingScans
from .run import train_on_conversations
from .texts import CorpusTexts, joined, plain_text_blocks, reading_or_corpus
from .trainer import FmriLMTrainer


@dataclass
class AlignmentArguments(LanguageModelArguments):
    """Model, losses and plain text."""

    stage: ClassVar[str] = "alignment"
    required: ClassVar[tuple[str, ...]] = (
        "output_dir",
        "scans",
        "corpus",
        "fmri_tokenizer",
        "language_model",
    )

    fmri_tokenizer: str | None = argument("checkpoint of stage 1: a folder or Hub id; required")
    language_model: str | None = argument(
        "a folder or Hub id such as gpt2, a GGUF file, smollm2, or bundled; required"
    )
    attention_dropout: float = argument("dropout of attention weights; 0 allows fused attention", 0.0)
    scan_tokens: list[str] = argument("tokens of a scan: of its rois, its network_pairs, or both", ["rois"])
    fmri_embedding_source: Literal["encoder", "codes"] = argument(
        "features that the language model reads: of the encoder, as published, or of the codes", "encoder"
    )
    projector_layer_norm: bool = argument("normalise scan features before the projector", False)
    initializer_range: float = argument("scale of the weights between tokenizer and language model", 0.02)
    fmri_loss_weight: float = argument("weight of F2F, the next codes; 0 leaves it out", 0.1)
    text_only_loss_weight: float = argument("weight of T2T, plain text; 0 leaves it out", 0.5)
    requests: list[str] = argument("what the user says before a text", list(DESCRIBE), f"{DESCRIBE[0]} ...")
    plain_text: str | None = argument("text for T2T: a .txt, .jsonl or .parquet file, or a dataset")
    plain_text_tokens: int = argument("length of the blocks that plain text is cut into", 256)
    plain_text_share: float = argument("plain texts in an epoch, as a share of the scans", 1.0)

    def __post_init__(self):
        super().__post_init__()
        if self.text_only_loss_weight and self.plain_text is None:
            raise ValueError(
                "T2T needs plain text: give `plain_text`, or set `text_only_loss_weight: 0` to train without it."
            )


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with the options of the command line."""
    train(parse(AlignmentArguments, words))


def train(arguments: AlignmentArguments) -> FmriLMTrainer:
    """Join tokenizer and language model, train them to describe scans, and save the model in `output_dir`."""
    assert arguments.corpus
    assert arguments.fmri_tokenizer
    assert arguments.language_model
    scans = TrainingScans(arguments)
    texts = CorpusTexts(arguments.corpus, arguments.corpus_config, arguments.text_lengths, arguments.requests)
    rows = scans.split_rows(texts.rows(scans.scan_ids))
    fmri_tokenizer = FmriTokenizer.from_pretrained(arguments.fmri_tokenizer)
    extractor = FmriFeatureExtractor.from_pretrained(arguments.fmri_tokenizer)
    backbone = load_backbone(arguments.language_model, arguments.attention_dropout)
    plain_texts = None
    if arguments.text_only_loss_weight:
        # the first process writes the blocks to the cache, from which the others read them
        with arguments.main_process_first():
            plain_texts = plain_text_blocks(
                str(arguments.plain_text), backbone.text_tokenizer, arguments.plain_text_tokens
            )

    model, processor = _join(fmri_tokenizer, extractor, backbone, arguments)
    adapter = add_adapter(model, arguments)
    model.freeze_fmri_tokenizer()
    # Scans with one time patch have no next codes. The head is then frozen, or DDP would wait for its gradient.
    next_codes = arguments.fmri_loss_weight > 0 and len(fmri_tokenizer.config.block_sizes) > 1
    if model.fmri_head is not None:
        model.fmri_head.requires_grad_(next_codes)
    return train_on_conversations(
        model,
        processor,
        arguments,
        scans,
        rows,
        joined(*reading_or_corpus(arguments, texts, processor)),
        earlier={"fmri_tokenizer": arguments.fmri_tokenizer},
        adapter=adapter,
        next_codes=next_codes,
        plain_texts=plain_texts,
        plain_text_share=arguments.plain_text_share,
        text_only_loss_weight=arguments.text_only_loss_weight,
    )


def _join(
    fmri_tokenizer: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    backbone: Backbone,
    arguments: AlignmentArguments,
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Make a model that reads scans with a language model, and its processor."""
    processor = FmriLMProcessor(
        extractor,
        backbone.tokenizer_of(extractor.atlas),
        patch_size=fmri_tokenizer.config.patch_size,
        num_latent_tokens=fmri_tokenizer.config.num_latent_tokens,
        scan_tokens=arguments.scan_tokens,
    )
    torch.manual_seed(arguments.seed)  # fresh weights must not depend on what ran before
    model = FmriLMForCausalLM.from_components(
        fmri_tokenizer,
        backbone.language_model,
        fmri_token_id=processor.fmri_token_id,
        network_name_ids=processor.network_name_ids() if "network_pairs" in arguments.scan_tokens else [],
        fmri_embedding_source=arguments.fmri_embedding_source,
        projector_layer_norm=arguments.projector_layer_norm,
        fmri_loss_weight=arguments.fmri_loss_weight,
        initializer_range=arguments.initializer_range,
        scan_tokens=arguments.scan_tokens,
    )
    backbone.copy_network_pairs(model)
    n_names = 0 if extractor.atlas is None else len(extractor.atlas.network_names)
    suppress_unnamed_words(model.generation_config, processor.tokenizer, n_names)
    return model, processor


if __name__ == "__main__":
    main()
