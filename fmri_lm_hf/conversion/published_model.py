"""Turn a checkpoint of the published fMRI-LM program (arXiv 2511.21760) into one of this package."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..cards.model_card import ModelFacts, converted_model_card
from ..cards.rendering import sign_card
from ..files import write_json
from ..models.atlas import Atlas
from ..models.configuration_fmri_lm import FmriLMConfig
from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.modeling_fmri_tokenizer import FmriTokenizer
from ..models.processing_fmri_lm import FmriLMProcessor
from .checkpoint import read_checkpoint
from .pickle_data import CheckpointError, printable, to_plain
from .published_inputs import (
    find_delimiter_ids,
    load_text_model_files,
    published_chat_template,
    published_feature_extractor,
)
from .published_names import (
    WEIGHT_DTYPES,
    clean_state_dict,
    is_language_model,
    match_tensors,
    published_name,
    split_lora,
    split_stage_1,
    stage_1_fields,
    tensor_shape,
    tokenizer_fields,
)

MAX_SHARD_SIZE = "1GB"
MAX_TOKENS = 1_000_000  # of a scan


@dataclass
class Conversion:
    """What `convert_upstream` wrote.

    Attributes
    ----------
    folder : Path
    model : PreTrainedModel
        The converted model, over the memory-mapped checkpoint; load it from `folder` to use it.
    preprocessor : FmriLMProcessor or FmriFeatureExtractor
        The latter where no text tokenizer is known.
    lora : {None, "adapter", "merged"}
    source, sha256 : str
        Name and checksum of the checkpoint file.
    notes : list of str
        What the user should know: what was assumed, left out or is missing.
    """

    folder: Path
    model: PreTrainedModel
    preprocessor: FmriLMProcessor | FmriFeatureExtractor
    source: str
    sha256: str
    lora: str | None = None
    notes: list[str] = field(default_factory=list)


def convert_upstream(
    checkpoint: str | Path,
    out: str | Path,
    text_config: str | Path | dict[str, Any] | PreTrainedConfig | None = None,
    encoder_heads: int | None = None,
    lora_alpha: float | None = None,
    delimiter_ids: tuple[Sequence[int], Sequence[int]] | None = None,
    atlas: str | Path | Atlas | None = None,
    normalization: str | Path | None = None,
    n_timepoints: int | None = None,
    merge: bool = False,
) -> Conversion:
    """Convert a checkpoint of the published program, without running anything in it.

    Parameters
    ----------
    checkpoint : str or Path
        A stage-1 `ckpt.pt`, or a stage-2 or stage-3 file with `model` and `model_args`, as the released one.
    out : str or Path
        Folder for the converted model; it is created, and must not hold a model yet.
    text_config : str, Path, dict or PreTrainedConfig, optional
        Configuration of the language model: a JSON file, a model folder, or an id on the Hub. With a folder or an
        id the text tokenizer comes along. The id that `model_args` names when not given.
    encoder_heads : int, optional
        Attention heads of the scan encoder: 6, 12 or 16 for the published widths 384, 768 and 1024 when not given.
    lora_alpha : float, optional
        The LoRA adapter is scaled by `lora_alpha` over its rank. Twice the rank when not given.
    delimiter_ids : tuple of two sequences of int, optional
        Token ids before and after a scan. The text tokenizer's encoding of `<fmri>` and `</fmri>` when not given
        and the checkpoint says that it uses delimiters.
    atlas : str, Path or Atlas, optional
        Names of the ROI slots: a JSON file, a name that `Atlas.load` knows, or an atlas. The published 450 slots
        when not given.
    normalization : str or Path, optional
        `.npz` or JSON file with `medians` and `iqrs`, one number or one for each ROI, of the cohort that the scans
        come from. Each scan is normalised by its own when not given.
    n_timepoints : int, optional
        Length of the model's input, which no shape of a stage-2 or stage-3 checkpoint tells. What their
        `num_fmri_tokens` comes to when not given.
    merge : bool, default=False
        Merge the LoRA adapter into the weights, in place of a PEFT adapter beside them.

    Returns
    -------
    Conversion

    Examples
    --------
    >>> convert_upstream("fMRI-LM-B-Qwen3-0.6B-instruct.pt", "fmri-lm-qwen3", merge=True).notes
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if (out / "config.json").exists():
        raise ValueError(f"'{out}' holds a model already: give a new folder, or remove it first.")
    tree = read_checkpoint(checkpoint)
    state = clean_state_dict(tree)
    _check_finite(state)
    notes: list[str] = []
    lora: dict[str, torch.Tensor] = {}
    if is_language_model(state):
        arguments = to_plain(tree.get("model_args") or {})
        if not isinstance(arguments, dict):
            arguments = {}
            notes.append("`model_args` of the checkpoint could not be read.")
        config = _encoder_config(state, arguments, encoder_heads, n_timepoints, notes)
        extractor = published_feature_extractor(config, atlas, normalization, notes)
        text, tokenizer = load_text_model_files(text_config, arguments, notes)
        delimiters = find_delimiter_ids(delimiter_ids, arguments, text.vocab_size, tokenizer, notes)
        preprocessor = _processor(extractor, tokenizer, config.patch_size, delimiters)
        state, lora = split_lora(state)
        lm_config = FmriLMConfig(
            fmri_config=config,
            text_config=text,
            # outside of the vocabulary, so that no text can hold it
            fmri_token_id=getattr(preprocessor, "fmri_token_id", text.vocab_size),
            # for whoever writes `input_ids` without a processor
            fmri_start_ids=delimiters[0],
            fmri_end_ids=delimiters[1],
        )
        model = _language_model(lm_config, state, bool(lora), notes)
        model.generation_config = _generation_config(text, tokenizer)
    else:
        state, left_out = split_stage_1(state)
        if left_out:
            notes.append(f"Left out what only training needs: {', '.join(left_out)}.")
        fields = tokenizer_fields(state, "encoder.", encoder_heads) | stage_1_fields(state)
        config = FmriTokenizerConfig(**fields)
        preprocessor = published_feature_extractor(config, atlas, normalization, notes)
        model = _load(FmriTokenizer, config, state)
        if config.n_patches > 1:
            notes.append(
                "Tokens are in time-major order (all ROIs of time patch 0, then of patch 1); the published program has "
                "them ROI-major. Its order of codes of ours is "
                f"`codes.unflatten(1, ({config.n_patches}, {config.n_rois})).transpose(1, 2).flatten(1)`."
            )
    notes = [printable(note) for note in notes]  # which may hold names from the file
    result = Conversion(out, model, preprocessor, checkpoint.name, _checksum(checkpoint), notes=notes)
    _write(result, lora, lora_alpha, merge)
    return result


def _encoder_config(state, arguments, encoder_heads, n_timepoints, notes) -> FmriTokenizerConfig:
    """Configuration of the scan encoder in a stage-2 or stage-3 checkpoint."""
    fields = tokenizer_fields(state, "tokenizer.", encoder_heads)
    if n_timepoints is None:
        n_tokens = arguments.get("num_fmri_tokens")
        if not isinstance(n_tokens, int):
            n_tokens = fields["n_rois"]
            notes.append(
                f"Assumed one time patch, {fields['patch_size']} points, since `model_args` tells no length."
            )
        if not 1 <= n_tokens <= MAX_TOKENS or n_tokens % fields["n_rois"]:
            raise ValueError(
                f"`model_args` has num_fmri_tokens={n_tokens}, which is no multiple of the {fields['n_rois']} ROIs "
                f"(up to {MAX_TOKENS}): give the length of the model's input as `n_timepoints` (`--n-timepoints`)."
            )
        n_timepoints = fields["patch_size"] * (n_tokens // fields["n_rois"])
    if n_timepoints > fields["patch_size"]:
        notes.append(
            "With more than one time patch the published program lays a time-major mask over ROI-major tokens; this "
            "package computes what it describes, so the outputs of its language model differ from the program's."
        )
    codebook_size = tensor_shape(state, "llm.fmri_lm_head.weight", 2)[0]
    return FmriTokenizerConfig(
        **fields, n_timepoints=n_timepoints, codebook_size=codebook_size, encoder_only=True
    )


def _processor(extractor, tokenizer, patch_size, delimiters) -> FmriLMProcessor | FmriFeatureExtractor:
    """The processor, or where no text tokenizer is known, what prepares the scans alone."""
    if tokenizer is None:
        return extractor
    return FmriLMProcessor(
        extractor,
        tokenizer,
        chat_template=published_chat_template(tokenizer),
        patch_size=patch_size,
        fmri_start_ids=delimiters[0],
        fmri_end_ids=delimiters[1],
    )


def _language_model(config: FmriLMConfig, state, has_lora, notes) -> FmriLMForCausalLM:
    if config.text_config.tie_word_embeddings:
        with torch.device("meta"):
            model = FmriLMForCausalLM(config)
        names = {module: name for name, module in model.named_modules()}
        source, tied = (
            published_name(f"{names[module]}.weight", has_lora)
            for module in (model.get_input_embeddings(), model.get_output_embeddings())
        )
        if tied not in state and source in state:
            state = state | {tied: state[source]}
        elif source in state and not torch.equal(state[source], state[tied]):
            config.text_config.tie_word_embeddings = False
            notes.append(
                "Input and output embeddings differ, so they are kept apart and not tied as configured."
            )
    return _load(FmriLMForCausalLM, config, state, has_lora)


def _load(model_class, config, state, has_lora=False) -> Any:
    """The model over the tensors of the checkpoint, which are not copied."""
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(match_tensors(model.state_dict(), state, has_lora), assign=True)
    model.tie_weights()
    return model.requires_grad_(False).eval()


def _generation_config(text, tokenizer) -> GenerationConfig:
    ends = tokenizer if tokenizer is not None else text
    pad = ends.pad_token_id
    if pad is None:
        pad = ends.eos_token_id[0] if isinstance(ends.eos_token_id, list) else ends.eos_token_id
    return GenerationConfig(bos_token_id=ends.bos_token_id, eos_token_id=ends.eos_token_id, pad_token_id=pad)


def _check_finite(state: dict[str, torch.Tensor]) -> None:
    for name, tensor in tqdm(state.items(), desc="Checking weights", unit="tensor"):
        # the extremes carry NaN along, and unlike `isfinite` take no memory
        extremes = torch.aminmax(tensor) if tensor.dtype in WEIGHT_DTYPES and tensor.numel() else ()
        if not all(map(math.isfinite, extremes)):
            raise CheckpointError(f"The tensor `{name}` of the checkpoint holds NaN or infinity.")


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file, tqdm(total=size, desc="Checksum", unit="B", unit_scale=True) as progress:
        while block := file.read(2**24):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()


def _lora_model(model: FmriLMForCausalLM, lora: dict[str, torch.Tensor], lora_alpha: float | None):
    """The model with the checkpoint's LoRA adapter, as PEFT has it."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    ranks = {len(tensor) for name, tensor in lora.items() if ".lora_A." in name}
    modules = dict(model.named_modules())
    targets = sorted({name.split(".lora_")[0] for name in lora})
    kinds = sorted({name.rsplit(".", 1)[-1] for name in targets})
    if len(ranks) != 1 or not all(name in modules for name in targets):
        unknown = [name for name in targets if name not in modules]
        raise CheckpointError(
            f"The LoRA adapter does not fit: expected one rank, found {sorted(ranks)}; modules that the language model "
            f"does not have: {unknown[:5]}."
        )
    rank = ranks.pop()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank if lora_alpha is None else lora_alpha,
        target_modules=rf"language_model\..*\.({'|'.join(kinds)})",
        fan_in_fan_out=any(isinstance(modules[name], Conv1D) for name in targets),
    )
    peft_model = get_peft_model(model, config)
    expected = {
        name.removeprefix("base_model.model.").replace(".default.", "."): tuple(value.shape)
        for name, value in peft_model.state_dict().items()
        if ".lora_" in name
    }
    found = {name: tuple(value.shape) for name, value in lora.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        raise CheckpointError(
            f"The LoRA adapter has {len(wrong)} tensor(s) missing, left over or of the wrong shape, such as "
            f"{wrong[0]}: found {found.get(wrong[0])}, expected {expected.get(wrong[0])}."
        )
    set_peft_model_state_dict(peft_model, {f"base_model.model.{name}": value for name, value in lora.items()})
    return peft_model


def _write(result: Conversion, lora: dict[str, torch.Tensor], lora_alpha: float | None, merge: bool) -> None:
    """Write model, preprocessor and card into a temporary folder, then move them to their place."""
    out = result.folder
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
        model = result.model
        if lora and merge:
            # merged in place: a changed page of the mapped file becomes memory of ours, and the file stays as it is
            result.model = model = _lora_model(model, lora, lora_alpha).merge_and_unload()
            result.lora = "merged"
        model.save_pretrained(partial, max_shard_size=MAX_SHARD_SIZE)
        if lora and not merge:
            adapted = _lora_model(model, lora, lora_alpha)
            adapted.save_pretrained(partial, save_embedding_layers=False)
            result.lora = "adapter"
        result.preprocessor.save_pretrained(partial)
        record = {
            "conversion": {"source": result.source, "sha256": result.sha256, "notes": result.notes},
        }
        write_json(record, Path(partial, "training_info.json"))
        Path(partial, "README.md").write_text(sign_card(_card(result, record)), encoding="utf-8")
        # the configuration last: with it the folder is a model
        for name in sorted(os.listdir(partial), key=lambda name: (name == "config.json", name)):
            os.replace(Path(partial, name), out / name)


def _card(result: Conversion, record: dict[str, Any]) -> str:
    prepares = result.preprocessor
    has_tokenizer = isinstance(prepares, FmriLMProcessor)
    extractor = prepares.feature_extractor if isinstance(prepares, FmriLMProcessor) else prepares
    facts = ModelFacts(
        kind=result.model.config.model_type,
        config=result.model.config.to_dict() | {"architectures": [type(result.model).__name__]},
        extractor=extractor.to_dict() | {"has_tokenizer": has_tokenizer},
        training=record,
        n_parameters=result.model.num_parameters(),
        lora=result.lora,
    )
    return converted_model_card(facts, "path/to/this/folder")
