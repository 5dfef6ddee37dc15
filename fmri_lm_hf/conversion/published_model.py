"""Convert a checkpoint of the published fMRI-LM program (arXiv 2511.21760) into a model of this package.

"Published" in names of modules and functions means that program, which `fmri-lm convert-upstream` calls upstream.
[`convert_upstream`] reads the checkpoint (`checkpoint`), renames its tensors (`published_names`), finds what belongs to
the model besides its weights (`published_inputs`), and writes a folder for `from_pretrained`.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.sha import sha_fileobj
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
    shape_problems,
    split_lora,
    split_stage_1,
    stage_1_fields,
    tensor_shape,
    tokenizer_fields,
)

MAX_SHARD_SIZE = "1GB"
MAX_SCAN_TOKENS = 1_000_000


@dataclass
class Conversion:
    """The result of `convert_upstream`.

    Attributes
    ----------
    folder : Path
    model : PreTrainedModel
        The converted model, over the memory-mapped checkpoint; load it from `folder` to use it.
    preprocessor : FmriLMProcessor or FmriFeatureExtractor
        The latter where no text tokenizer is known.
    source, sha256 : str
        Name and checksum of the checkpoint file.
    notes : list of str
        Assumptions, parts that were left out, and parts that are missing.
    lora : {None, "adapter", "merged"}
    """

    folder: Path
    model: PreTrainedModel
    preprocessor: FmriLMProcessor | FmriFeatureExtractor
    source: str
    sha256: str
    notes: list[str]
    lora: str | None = None


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
        id the text tokenizer is taken from there too. Default: the id in the checkpoint's `model_args`.
    encoder_heads : int, optional
        Attention heads of the scan encoder. Default: 6, 12 or 16 for the published widths 384, 768 and 1024.
    lora_alpha : float, optional
        The LoRA adapter is scaled by `lora_alpha` over its rank. Default: twice the rank.
    delimiter_ids : tuple of two sequences of int, optional
        Token ids before and after a scan. Default: the text tokenizer's encoding of `<fmri>` and `</fmri>` where the
        checkpoint says that it uses delimiters.
    atlas : str, Path or Atlas, optional
        Names of the ROI slots: a JSON file, a name that `Atlas.load` knows, or an atlas. Default: the published
        450 slots.
    normalization : str or Path, optional
        `.npz` or JSON file with `medians` and `iqrs`, one number or one for each ROI, of the cohort that the scans
        come from. Default: each scan is normalised by its own.
    n_timepoints : int, optional
        Length of the model's input, which no tensor of a stage-2 or stage-3 checkpoint shows. Default: from
        their `num_fmri_tokens`.
    merge : bool, default=False
        Merge the LoRA adapter into the weights, instead of a PEFT adapter next to them.

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
    adapter: dict[str, torch.Tensor] = {}
    if is_language_model(state):
        arguments = to_plain(tree.get("model_args") or {})
        unread = [] if isinstance(arguments, dict) else ["`model_args` of the checkpoint could not be read."]
        arguments = {} if unread else arguments
        config, encoder_notes = _encoder_config(state, arguments, encoder_heads, n_timepoints)
        extractor, extractor_notes = published_feature_extractor(config, atlas, normalization)
        text, tokenizer, text_notes = load_text_model_files(text_config, arguments)
        delimiters, delimiter_notes = find_delimiter_ids(delimiter_ids, arguments, text.vocab_size, tokenizer)
        preprocessor: FmriLMProcessor | FmriFeatureExtractor = extractor
        if tokenizer is not None:
            preprocessor = FmriLMProcessor(
                extractor,
                tokenizer,
                chat_template=published_chat_template(tokenizer),
                patch_size=config.patch_size,
                fmri_start_ids=delimiters[0],
                fmri_end_ids=delimiters[1],
            )
        state, adapter = split_lora(state)
        lm_config = FmriLMConfig(
            fmri_config=config,
            text_config=text,
            # without a processor the first id outside of the vocabulary, so that no text can contain it
            fmri_token_id=getattr(preprocessor, "fmri_token_id", text.vocab_size),
            # for users who write `input_ids` without a processor
            fmri_start_ids=delimiters[0],
            fmri_end_ids=delimiters[1],
        )
        model, model_notes = _language_model(lm_config, state, bool(adapter))
        model.generation_config = _generation_config(text if tokenizer is None else tokenizer)
        notes = [*unread, *encoder_notes, *extractor_notes, *text_notes, *delimiter_notes, *model_notes]
    else:
        state, left_out = split_stage_1(state)
        fields = tokenizer_fields(state, "encoder.", encoder_heads) | stage_1_fields(state)
        config = FmriTokenizerConfig(**fields)
        preprocessor, notes = published_feature_extractor(config, atlas, normalization)
        if left_out:
            notes.insert(0, f"Left out tensors that only training needs: {', '.join(left_out)}.")
        model = _load(FmriTokenizer, config, state)
        if config.n_patches > 1:
            notes.append(
                "Tokens are in time-major order (all ROIs of time patch 0, then of patch 1); those of the published "
                "program are ROI-major. Its order is "
                f"`codes.unflatten(1, ({config.n_patches}, {config.n_rois})).transpose(1, 2).flatten(1)`."
            )
    notes = [printable(note) for note in notes]  # they may quote names from the file
    result = Conversion(out, model, preprocessor, checkpoint.name, _checksum(checkpoint), notes=notes)
    _write(result, adapter, lora_alpha, merge)
    return result


def _encoder_config(
    state: dict[str, torch.Tensor], arguments: dict[str, Any], encoder_heads: int | None, n_timepoints: int | None
) -> tuple[FmriTokenizerConfig, list[str]]:
    """Read the configuration of the scan encoder of a stage-2 or stage-3 checkpoint, and return it with notes."""
    notes = []
    fields = tokenizer_fields(state, "tokenizer.", encoder_heads)
    if n_timepoints is None:
        n_tokens = arguments.get("num_fmri_tokens")
        if not isinstance(n_tokens, int):
            n_tokens = fields["n_rois"]
            notes.append(
                f"Assumed one time patch of {fields['patch_size']} points: `model_args` does not hold the length."
            )
        if not 1 <= n_tokens <= MAX_SCAN_TOKENS or n_tokens % fields["n_rois"]:
            raise ValueError(
                f"`model_args` has num_fmri_tokens={n_tokens}, which is not a multiple of the {fields['n_rois']} ROIs "
                f"(up to {MAX_SCAN_TOKENS}): give the length of the model's input as `n_timepoints` (`--n-timepoints`)."
            )
        n_timepoints = fields["patch_size"] * (n_tokens // fields["n_rois"])
    if n_timepoints > fields["patch_size"]:
        notes.append(
            "With more than one time patch the published program applies a time-major mask to ROI-major tokens. This "
            "package follows the paper instead, so the outputs of the language model differ from the program's."
        )
    codebook_size = tensor_shape(state, "llm.fmri_lm_head.weight", 2)[0]
    config = FmriTokenizerConfig(**fields, n_timepoints=n_timepoints, codebook_size=codebook_size, encoder_only=True)
    return config, notes


def _language_model(
    config: FmriLMConfig, state: dict[str, torch.Tensor], has_lora: bool
) -> tuple[FmriLMForCausalLM, list[str]]:
    """Build the language model, whose embeddings are untied where training has untied them; return it with notes."""
    notes = []
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
                "Input and output embeddings differ, so they are not tied, although the configuration says so."
            )
    return _load(FmriLMForCausalLM, config, state, has_lora), notes


def _load(model_class: Any, config: Any, state: dict[str, torch.Tensor], has_lora: bool = False) -> Any:
    """Build a model over the tensors of the checkpoint, without copying them."""
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(match_tensors(model.state_dict(), state, has_lora), assign=True)
    model.tie_weights()
    return model.requires_grad_(False).eval()


def _generation_config(special_tokens: Any) -> GenerationConfig:
    """Return a generation config with the special tokens of a text tokenizer, or of a configuration."""
    bos, eos, pad = (getattr(special_tokens, f"{name}_token_id") for name in ("bos", "eos", "pad"))
    if pad is None:
        pad = eos[0] if isinstance(eos, list) else eos
    return GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)


def _check_finite(state: dict[str, torch.Tensor]) -> None:
    for name, tensor in tqdm(state.items(), desc="Checking weights", unit="tensor"):
        # `aminmax` passes NaN on and, unlike `isfinite`, allocates no mask as large as the tensor.
        extremes = torch.aminmax(tensor) if tensor.dtype in WEIGHT_DTYPES and tensor.numel() else ()
        if not all(map(math.isfinite, extremes)):
            raise CheckpointError(f"The tensor `{name}` of the checkpoint holds NaN or infinity.")


def _checksum(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file, tqdm.wrapattr(file, "read", total=size, desc="Checksum") as measured:
        return sha_fileobj(measured).hex()


def _add_adapter(model: FmriLMForCausalLM, lora: dict[str, torch.Tensor], lora_alpha: float | None) -> Any:
    """Wrap a model in a PEFT model with a LoRA adapter."""
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
    if problems := shape_problems(expected, {name: tuple(value.shape) for name, value in lora.items()}):
        raise CheckpointError(f"The LoRA adapter {'; it '.join(problems)}.")
    set_peft_model_state_dict(peft_model, {f"base_model.model.{name}": value for name, value in lora.items()})
    return peft_model


def _write(result: Conversion, lora: dict[str, torch.Tensor], lora_alpha: float | None, merge: bool) -> None:
    """Write model, preprocessor and card into a temporary folder, then move them to their place."""
    out = result.folder
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
        model = result.model
        if lora and merge:
            # Merged in place: the mapping is copy-on-write, so that changed pages become memory and the file stays.
            result.model = model = _add_adapter(model, lora, lora_alpha).merge_and_unload()
            result.lora = "merged"
        model.save_pretrained(partial, max_shard_size=MAX_SHARD_SIZE)
        if lora and not merge:
            _add_adapter(model, lora, lora_alpha).save_pretrained(partial, save_embedding_layers=False)
            result.lora = "adapter"
        result.preprocessor.save_pretrained(partial)
        conversion = {"source": result.source, "sha256": result.sha256, "notes": result.notes}
        record = {"conversion": conversion}
        write_json(record, Path(partial, "training_info.json"))
        Path(partial, "README.md").write_text(sign_card(_card(result, record)), encoding="utf-8")
        # The configuration last: whoever finds it in a folder, `from_pretrained` or the check above, expects the rest.
        for name in sorted(os.listdir(partial), key=lambda name: (name == "config.json", name)):
            os.replace(Path(partial, name), out / name)


def _card(result: Conversion, record: dict[str, Any]) -> str:
    preprocessor = result.preprocessor
    has_tokenizer = isinstance(preprocessor, FmriLMProcessor)
    extractor: Any = getattr(preprocessor, "feature_extractor", preprocessor)
    facts = ModelFacts(
        kind=result.model.config.model_type,
        config=result.model.config.to_dict() | {"architectures": [type(result.model).__name__]},
        extractor=extractor.to_dict() | {"has_tokenizer": has_tokenizer},
        training=record,
        n_parameters=result.model.num_parameters(),
        lora=result.lora,
    )
    return converted_model_card(facts, "path/to/this/folder")
