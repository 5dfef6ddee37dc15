"""Configuration of the language model that reads fMRI tokens."""

# No `from __future__ import annotations`: `strict` checks the types of fields only if they are not strings.
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_fmri_tokenizer import FmriTokenizerConfig, check_config_is_inert

SCAN_TOKENS = ("rois", "network_pairs")
DTYPES = ("float64", "float32", "bfloat16", "float16")


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
        Input of the language model: the continuous encoder features (the published form), or the sum of the code
        vectors.
    projector_layer_norm : bool, default=False
        Normalise the scan features before the projector (Linear, GELU).
    scan_tokens : list of {"rois", "network_pairs"}, default=["rois"]
        Tokens of a scan: its ROIs in each time patch (the published form), its network pairs, or both. Network pairs
        need no weight that depends on an atlas. A model of network pairs alone has no fMRI tokenizer, and uses only
        the shape of the scans and `roi_networks` of `fmri_config`.
    network_name_ids : list of list of int, optional
        Text ids of the name of each network, in the order of `fmri_config.roi_networks`. Needed with network pairs.
    fmri_loss_weight : float
        Weight of the next-code loss if `fmri_labels` are given.
    initializer_range : float
    part_dtypes : dict of str to str, optional
        Precision of parts that differ from the whole (`dtype`), such as ``{"language_model": "bfloat16"}``; written by
        `save_pretrained`.
    answers : dict of str to list of str, optional
        The questions about labels that the weights were trained on, each with its answers; written by the stage
        `instruction`. Pipelines decline other labels.
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
    scan_tokens: list[str] = field(default_factory=lambda: ["rois"])
    network_name_ids: list[list[int]] = field(default_factory=list)
    fmri_loss_weight: float | int = 0.1
    initializer_range: float | int = 0.02
    part_dtypes: dict[str, str] | None = None
    answers: dict[str, list[str]] | None = None

    def __post_init__(self, **kwargs):
        for name in ("fmri_config", "text_config"):
            if not isinstance(getattr(self, name), (PreTrainedConfig, dict, type(None))):
                raise ValueError(
                    f"`{name}` must be a configuration or its dict, got {getattr(self, name)!r}. "
                    "`AutoConfig.from_pretrained` turns a model's name into its configuration."
                )
        check_config_is_inert({**kwargs, "text_config": self.text_config, "fmri_config": self.fmri_config})
        if not __name__.startswith("transformers_modules."):
            # the pipelines of a checkpoint are for where this package, which registers them, is not installed
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check the fields, each and together; called when a configuration is made."""
        if self.fmri_embedding_source not in ("encoder", "codes"):
            raise ValueError(
                f"`fmri_embedding_source` must be 'encoder' or 'codes', got {self.fmri_embedding_source!r}."
            )
        if set((self.part_dtypes or {}).values()) - set(DTYPES):
            raise ValueError(f"`part_dtypes` must name some of {list(DTYPES)}, got {self.part_dtypes}.")
        if self.fmri_embedding_source == "codes" and self.fmri_config.encoder_only:
            raise ValueError("`fmri_embedding_source='codes'` needs a codebook, but the tokenizer is `encoder_only`.")
        if not self.scan_tokens or set(self.scan_tokens) - set(SCAN_TOKENS):
            raise ValueError(f"`scan_tokens` must name some of {list(SCAN_TOKENS)}, got {self.scan_tokens}.")
        if self.reads_network_pairs:
            networks, names = self.fmri_config.roi_networks, self.network_name_ids
            n_networks = 0 if networks is None else max(networks) + 1
            if not n_networks or len(names) != n_networks or not all(names):
                raise ValueError(
                    "Network-pair tokens need `roi_networks` in `fmri_config` and the text ids of each network's name "
                    f"in `network_name_ids`, got {n_networks} networks and {len(names)} names."
                )

    @property
    def reads_rois(self) -> bool:
        """Whether a scan has tokens for its ROIs."""
        return "rois" in self.scan_tokens

    @property
    def reads_network_pairs(self) -> bool:
        """Whether a scan has tokens for its network pairs."""
        return "network_pairs" in self.scan_tokens

    @property
    def n_roi_tokens(self) -> int:
        """Tokens of a scan that stand for ROIs."""
        return self.fmri_config.n_tokens if self.reads_rois else 0

    @property
    def block_sizes(self) -> list[int]:
        """Tokens of each block of a scan: its ROIs in each time patch, then one block of the scan and its pairs."""
        blocks = list(self.fmri_config.block_sizes) if self.reads_rois else []
        if self.reads_network_pairs:
            blocks.append(n_pair_tokens(len(self.network_name_ids)))
        return blocks

    @property
    def n_scan_tokens(self) -> int:
        """Tokens of a scan."""
        return sum(self.block_sizes)


def n_pair_tokens(n_networks: int) -> int:
    """Count the tokens of network pairs (each network with itself included), and one for the scan as a whole."""
    return 1 + n_networks * (n_networks + 1) // 2
