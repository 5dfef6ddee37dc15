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
from .arguments import ScanArguments, argument, parse
from .backbone import load_backbone
from .data import ScanInputs, TrainingScans
from .run import train_and_save
from .texts import CorpusTexts
from .trainer import FmriTrainer

OfTexts = dict[str, dict[str, torch.Tensor]]  # inputs of the model that come from texts, by name and `scan_id`


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
    text_tokens: int = argument("align tokens with so many of each text, as published; 0: scans with texts", 0)

    def __post_init__(self):
        super().__post_init__()
        if (self.corpus is None) != (self.text_model is None):
            raise ValueError("Alignment needs both `corpus` and `text_model`: give the other one, or neither.")
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

    of_texts: OfTexts = {}
    if texts is not None:
        of_texts = _of_texts(texts, ids, arguments, scans)
        shape["text_embed_dim"] = len(next(iter(of_texts["text_embeds"].values())))
        if shape.get("contrastive_loss", "").startswith("soft_"):
            every_id = [name for of_split in ids.values() for name in of_split]
            if descriptors := texts.descriptors(every_id, ids["train"]):
                of_texts["descriptors"] = descriptors
    # seeded here, so that fresh weights do not depend on what ran before
    torch.manual_seed(arguments.seed)
    model = FmriTokenizerForPreTraining(FmriTokenizerConfig(**shape))
    if of_texts:
        model.fit_texts(torch.stack([of_texts["text_embeds"][scan_id] for scan_id in ids["train"]]))
    trainer = FmriTrainer(
        model,
        arguments,
        data_collator=default_data_collator,
        train_dataset=ScanInputs(inputs, ids["train"], **of_texts),
        eval_dataset=ScanInputs(inputs, ids["validation"], **of_texts) if "validation" in ids else None,
        callbacks=[CodebooksMustStart()],
    )
    train_and_save(trainer, extractor, **scans.facts(ids["train"]))
    return trainer


class CodebooksMustStart(TrainerCallback):
    """Refuses a training that is over before its codebooks start."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        n_warm, n_steps = model.config.codebook_warmup_steps, state.max_steps
        if n_warm >= n_steps:
            raise ValueError(
                f"`codebook_warmup_steps` is {n_warm}, but the training has {n_steps} steps: its codebooks would "
                "never start."
            )


def _shape(arguments: TokenizerArguments, scans: TrainingScans) -> dict[str, Any]:
    """Fields of FmriTokenizerConfig, from the recipe and the scans."""
    assert not isinstance(arguments.tokenizer, str)
    shape: dict[str, Any] = {"n_rois": scans.n_rois, **(arguments.tokenizer or {})}
    if unknown := sorted(set(shape) - set(FmriTokenizerConfig.__dataclass_fields__)):
        raise ValueError(
            f"`tokenizer` has unknown fields: {', '.join(unknown)}. Those of FmriTokenizerConfig are known."
        )
    if arguments.network_means:
        if scans.atlas is None:
            raise ValueError(
                f"`network_means` needs the networks of the ROIs, but {arguments.scans} has no atlas.json."
            )
        shape["roi_networks"] = list(map(scans.atlas.network_names.index, scans.atlas.networks))
    return shape


def _of_texts(
    texts: CorpusTexts, ids: dict[str, list[str]], arguments: TokenizerArguments, scans: TrainingScans
) -> OfTexts:
    """Embeddings of the texts about each scan, and of tokens of the first one if asked for."""
    backbone = load_backbone(str(arguments.text_model))
    model = backbone.language_model.to(arguments.device).eval()
    tokenizer = backbone.tokenizer_of(scans.atlas)
    names = [name for of_split in ids.values() for name in of_split]
    embeds = scans.store.embed(
        ["\n".join(texts.texts(name)) for name in names],
        # names of networks may be words of the vocabulary, so that other names make other tokens of a text
        [weights_hash(model), tokenizer.name_or_path, *(scans.atlas.network_names if scans.atlas else ())],
        lambda: embed_descriptions(texts, names, model, tokenizer),
    )
    of_texts = {"text_embeds": dict(zip(names, embeds))}
    if arguments.text_tokens:
        first = [texts.texts(name)[0] for name in names]
        tokens = embed_tokens(model, tokenizer, first, arguments.text_tokens)
        of_texts["text_token_embeds"] = dict(zip(names, tokens))
    return of_texts


def embed_descriptions(texts: CorpusTexts, scan_ids: Sequence[str], model: Any, tokenizer: Any) -> torch.Tensor:
    """The embedding of each scan's descriptions: the mean over all texts about it.

    The texts about a scan say the same in other words. The embedding of one text alone varies mostly with its wording,
    which cannot be predicted from a scan, and which a contrastive loss learns by heart.

    Returns
    -------
    torch.Tensor of shape (n_scans, hidden_size), float32, on the CPU
    """
    of_scans = [texts.texts(scan_id) for scan_id in scan_ids]
    embeds = embed_texts(model, tokenizer, [text for each in of_scans for text in each])
    return torch.stack([each.mean(0) for each in embeds.split([len(each) for each in of_scans])])


@torch.inference_mode()
def embed_tokens(model: Any, tokenizer: Any, texts: Sequence[str], n_tokens: int) -> torch.Tensor:
    """Input embeddings of so many tokens of each text, spread over it: (n_texts, n_tokens, hidden_size), float32.

    A text with fewer tokens gives some of them twice.
    """
    chosen = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        chosen.append([ids[position * len(ids) // n_tokens] for position in range(n_tokens)])
    return model.get_input_embeddings()(torch.tensor(chosen, device=model.device)).float().cpu()


@torch.inference_mode()
def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 32) -> torch.Tensor:
    """Embeddings of texts by a language model: the mean of each text's last hidden states.

    Parameters
    ----------
    model : PreTrainedModel
        With or without a language modelling head.
    tokenizer : PreTrainedTokenizerBase
        With a padding token. Texts are cut to the length that the model takes.
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
        # Padded on the right, so that positions count from the first token. A tokenizer may also give
        # `token_type_ids`, which GPT-2 would add to its embeddings.
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        hidden = model.base_model(**inputs).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        embedded.append(((hidden * mask).sum(1) / mask.sum(1)).cpu())
    return torch.cat(embedded)


if __name__ == "__main__":
    main()
