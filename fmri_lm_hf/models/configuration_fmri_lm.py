"""Configuration of the language model that reads fMRI tokens."""

# Annotations stay evaluated here: `strict` checks the types of fields only where they are not strings.
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .config_safety import check_config_is_inert
from .configuration_fmri_tokenizer import FmriTokenizerConfig


@strict
class FmriLMConfig(PreTrainedConfig):
    """Shape of a [`FmriLMForCausalLM`]: a fMRI tokenizer, a projector and any causal language model.

    Parameters
    ----------
    fmri_config : FmriTokenizerConfig or dict
    text_config : PreTrainedConfig or dict
        Configuration of a causal language model; a dict names its class with `model_type`.
    fmri_token_id : int
        Id of the placeholder that stands for each scan token in `input_ids`. It may lie outside the language
        model's vocabulary, since placeholders are replaced before the text embeddings are looked up.
    fmri_start_ids, fmri_end_ids : list of int
        Text ids around the tokens of each scan, for callers who build `input_ids` without a processor (which has
        its own). The model itself reads them as the text they are.
    fmri_embedding_source : {"encoder", "codes"}, default="encoder"
        What the language model reads of a scan: the continuous encoder features (the published form), or only
        what the discrete codes say (the sum of their code vectors).
    projector_layer_norm : bool, default=False
        Normalise the scan features before the projector (Linear, GELU).
    fmri_loss_weight : float
        Weight of the next-code loss when `fmri_labels` are given.
    initializer_range : float
    language_model_dtype : str, optional
        Precision of the language model, such as "bfloat16", where it is not that of the other parts; written by
        `save_pretrained`.
    """

    model_type = "fmri_lm"
    sub_configs_defaults = {
        "fmri_config": SubConfigSpec(config_class=FmriTokenizerConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3"),
    }

    # dicts and None become configuration objects before `validate_architecture` runs
    fmri_config: Any = None
    text_config: Any = None
    fmri_token_id: int = 151669
    fmri_start_ids: list[int] = field(default_factory=list)
    fmri_end_ids: list[int] = field(default_factory=list)
    fmri_embedding_source: str = "encoder"
    projector_layer_norm: bool = False
    fmri_loss_weight: float | int = 0.1
    initializer_range: float | int = 0.02
    language_model_dtype: str | None = None

    def __post_init__(self, **kwargs):
        for name in ("fmri_config", "text_config"):
            if not isinstance(getattr(self, name), (PreTrainedConfig, dict, type(None))):
                raise ValueError(
                    f"`{name}` must be a configuration or its dict, got {getattr(self, name)!r}. "
                    "`AutoConfig.from_pretrained` turns a model's name into its configuration."
                )
        check_config_is_inert({**kwargs, "text_config": self.text_config, "fmri_config": self.fmri_config})
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check what holds between the fields; called when a configuration is made."""
        if self.fmri_embedding_source not in ("encoder", "codes"):
            raise ValueError(
                f"`fmri_embedding_source` must be 'encoder' or 'codes', got {self.fmri_embedding_source!r}."
            )
        if self.language_model_dtype not in (None, "float32", "bfloat16", "float16", "float64"):
            raise ValueError(
                "`language_model_dtype` must be 'float32', 'bfloat16', 'float16' or 'float64', got "
                f"{self.language_model_dtype!r}."
            )
        if self.fmri_embedding_source == "codes" and self.fmri_config.encoder_only:
            raise ValueError(
                "`fmri_embedding_source='codes'` needs a codebook, but the tokenizer is `encoder_only`."
            )


__all__ = ["FmriLMConfig"]
