"""Stage 1: train the fMRI tokenizer on scans, aligned with embeddings of their descriptions.

    fmri-lm train tokenizer training/recipes/tokenizer.yaml
    python training/train_tokenizer.py training/recipes/tokenizer.yaml
    accelerate launch --num_processes 4 -m fmri_lm_hf.training.tokenizer training/recipes/tokenizer.yaml --bf16

A recipe is a YAML file of the options below; options after it override it. The tokenizer, preprocessor_config.json
and training_info.json are saved in `output_dir`.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from transformers import TrainerCallback, default_data_collator

from ..files import weights_hash
from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
from .arguments import ScanArguments, argument, fields_of, parse
from .backbone import load_backbone
from .data import ScanInputs, TrainingScans
from .run import train_and_save
from .texts import CorpusTexts
from .trainer import FmriTrainer

TextInputs = dict[str, dict[str, torch.Tensor]]  # inputs of the model that come from texts, by name and `scan_id`


@dataclass
class TokenizerArguments(ScanArguments):
    """Tokenizer and texts."""

    stage: ClassVar[str] = "tokenizer"

    tokenizer: dict | str | None = argument(
        "fields of FmriTokenizerConfig; --tokenizer.NAME changes one of the recipe's"
    )
    t_r: float = argument("repetition time in seconds to which scans are resampled", 2.0)
    normalization: Literal["scan", "cohort"] = argument(
        "scale each ROI by its median and interquartile range in the scan, or in all training scans", "scan"
    )
    network_means: bool = argument("add means over networks to a connectivity profile", False)
    text_model: str | None = argument("language model that embeds the texts: a folder, a Hub id, or bundled")
    text_length: str = argument("texts to align with: sentence, paragraph or full", "paragraph")
    text_tokens: int = argument("align tokens with this many of each text, as published; 0: scans with texts", 0)

    def __post_init__(self):
        super().__post_init__()
        if (self.corpus is None) != (self.text_model is None):
            raise ValueError("Alignment needs both `corpus` and `text_model`: give both, or neither.")
        if self.text_tokens < 0:
            raise ValueError(f"`text_tokens` must not be negative, got {self.text_tokens}.")


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with the options of the command line."""
    train(parse(TokenizerArguments, words))


def train(arguments: TokenizerArguments) -> FmriTrainer:
    """Train a tokenizer and save it in `output_dir`."""
    scans = TrainingScans(arguments)
    texts = None
    if arguments.corpus is not None:
        texts = CorpusTexts(arguments.corpus, arguments.corpus_config, [arguments.text_length])
    rows = scans.split_rows(None if texts is None else texts.rows(scans.scan_ids))

    shape = _shape(arguments, scans)
    n_timepoints = FmriTokenizerConfig(**shape).n_timepoints
    extractor = FmriFeatureExtractor(
        atlas=scans.atlas, n_rois=scans.n_rois, n_timepoints=n_timepoints, t_r=arguments.t_r
    )
    if arguments.normalization == "cohort":
        extractor.fit_normalization(scans.dataset[row] for row in rows["train"])
    inputs, ids = scans.read(extractor, rows)

    text_inputs: TextInputs = {}
    if texts is not None:
        text_inputs = _text_inputs(texts, ids, arguments, scans)
        shape["text_embed_dim"] = len(next(iter(text_inputs["text_embeds"].values())))
        if shape.get("contrastive_loss", "").startswith("soft_"):
            all_ids = [scan_id for scan_ids in ids.values() for scan_id in scan_ids]
            if descriptors := texts.descriptors(all_ids, ids["train"]):
                text_inputs["descriptors"] = descriptors
    # seeded again, so that fresh weights do not depend on what ran before
    torch.manual_seed(arguments.seed)
    model = FmriTokenizerForPreTraining(FmriTokenizerConfig(**shape))
    if text_inputs:
        # of training subjects only: whitening fitted on all texts would leak those of validation subjects
        model.fit_texts(torch.stack([text_inputs["text_embeds"][scan_id] for scan_id in ids["train"]]))
    trainer = FmriTrainer(
        model,
        arguments,
        data_collator=default_data_collator,
        train_dataset=ScanInputs(inputs, ids["train"], **text_inputs),
        eval_dataset=ScanInputs(inputs, ids["validation"], **text_inputs) if "validation" in ids else None,
        callbacks=[CodebooksMustStart()],
    )
    train_and_save(trainer, extractor, **scans.facts(ids["train"]))
    return trainer


class CodebooksMustStart(TrainerCallback):
    """Refuses a training that ends before its codebooks start."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        n_warm, n_steps = model.config.codebook_warmup_steps, state.max_steps
        if n_warm >= n_steps:
            raise ValueError(
                f"`codebook_warmup_steps` is {n_warm}, but the training has {n_steps} steps: its codebooks would "
                "never start. Give fewer of these, or train longer."
            )


def _shape(arguments: TokenizerArguments, scans: TrainingScans) -> dict[str, Any]:
    """Collect fields of FmriTokenizerConfig from the recipe and the scans."""
    shape = {"n_rois": scans.n_rois, **fields_of(FmriTokenizerConfig, "tokenizer", arguments.tokenizer)}
    if arguments.network_means:
        if scans.atlas is None:
            raise ValueError(
                f"`network_means` needs the networks of the ROIs, but {arguments.scans} has no atlas.json."
            )
        shape["roi_networks"] = list(map(scans.atlas.network_names.index, scans.atlas.networks))
    return shape


def _text_inputs(
    texts: CorpusTexts, ids: dict[str, list[str]], arguments: TokenizerArguments, scans: TrainingScans
) -> TextInputs:
    """Embed the texts about each scan and, with `text_tokens`, tokens of the first one."""
    backbone = load_backbone(str(arguments.text_model))
    model = backbone.language_model.to(arguments.device).eval()
    tokenizer = backbone.tokenizer_of(scans.atlas)
    all_ids = [scan_id for scan_ids in ids.values() for scan_id in scan_ids]
    embeds = scans.store.embed(
        ["\n".join(texts.texts(scan_id)) for scan_id in all_ids],
        # The names of networks belong to the key: a tokenizer may have tokens for them, so that with another atlas the
        # same text has other tokens.
        [weights_hash(model), tokenizer.name_or_path, *(scans.atlas.network_names if scans.atlas else ())],
        lambda: embed_descriptions(texts, all_ids, model, tokenizer),
    )
    text_inputs = {"text_embeds": dict(zip(all_ids, embeds))}
    if arguments.text_tokens:
        first = [texts.texts(scan_id)[0] for scan_id in all_ids]
        tokens = embed_tokens(model, tokenizer, first, arguments.text_tokens)
        text_inputs["text_token_embeds"] = dict(zip(all_ids, tokens))
    return text_inputs


def embed_descriptions(texts: CorpusTexts, scan_ids: Sequence[str], model: Any, tokenizer: Any) -> torch.Tensor:
    """Embed the descriptions of each scan: the mean over all texts about it.

    The texts about a scan state the same facts in different words. The embedding of a single text varies mostly with
    its wording, which a scan cannot predict and a contrastive loss memorises.

    Returns
    -------
    torch.Tensor of shape (n_scans, hidden_size), float32, on the CPU
    """
    groups = [texts.texts(scan_id) for scan_id in scan_ids]
    embeds = embed_texts(model, tokenizer, [text for group in groups for text in group])
    return torch.stack([group.mean(0) for group in embeds.split(list(map(len, groups)))])


@torch.inference_mode()
def embed_tokens(model: Any, tokenizer: Any, texts: Sequence[str], n_tokens: int) -> torch.Tensor:
    """Embed `n_tokens` tokens of each text, spread over it: (n_texts, n_tokens, hidden_size), float32.

    These are input embeddings. A text with fewer tokens has some of them twice.
    """
    chosen = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        chosen.append([ids[position * len(ids) // n_tokens] for position in range(n_tokens)])
    return model.get_input_embeddings()(torch.tensor(chosen, device=model.device)).float().cpu()


@torch.inference_mode()
def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 32) -> torch.Tensor:
    """Embed texts with a language model: the mean of each text's last hidden states.

    Parameters
    ----------
    model : PreTrainedModel
        With or without a language modelling head.
    tokenizer : PreTrainedTokenizerBase
        Tokenizer with a padding token. Texts are truncated to the longest input of the model.
    texts : sequence of str
    batch_size : int

    Returns
    -------
    torch.Tensor of shape (n_texts, hidden_size), float32, on the CPU
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    embedded = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]),
            padding=True,
            padding_side="right",
            truncation=longest is not None,
            max_length=longest,
            return_tensors="pt",
        ).to(model.device)
        # Padded on the right, so that positions count from the first token. `token_type_ids`, which some tokenizers
        # return, are left out, since GPT-2 would add them to its embeddings.
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        hidden = model.base_model(**inputs).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        embedded.append(((hidden * mask).sum(1) / mask.sum(1)).cpu())
    return torch.cat(embedded)


if __name__ == "__main__":
    main()
