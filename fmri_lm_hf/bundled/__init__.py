"""The bundled model: a small language model that describes network pairs of any atlas, and a scan to try it on.

`weights/` holds the model with its card and the recipe that made it. `example_scan.tsv` is simulated;
`tools/example_scan.py` made it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, decoders, normalizers

from ..deprecation import warn_renamed

# Modules of models are imported where they are used: who wants the paths alone need not wait for torch.
if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from ..models.atlas import Atlas
    from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig
    from ..models.modeling_fmri_lm import FmriLMForCausalLM
    from ..models.processing_fmri_lm import FmriLMProcessor

__all__ = [
    "NETWORK_WORDS",
    "QUESTION_ADAPTERS",
    "QUESTION_ENCODER",
    "WEIGHTS",
    "add_network_words",
    "example_scan",
    "load_bundled_model",
    "load_reader",
    "name_networks",
    "network_pair_scan_config",
    "suppress_unnamed_words",
    "with_atlas",
]

WEIGHTS = Path(__file__).parent / "weights"
# The encoder that understands questions: `fmri_lm_hf.questions.numpy_reader.load_question_reader`.
QUESTION_ENCODER = Path(__file__).parent / "understanding"
# Adapters with which SmolLM2 understands them: `fmri_lm_hf.questions.language_model.load_language_model_reader`.
QUESTION_ADAPTERS = Path(__file__).parent / "understanding_smollm2"

# Private-use characters occur in no text, so a tokenizer writes them only where it has replaced a network's name.
NETWORK_WORDS = tuple(chr(0xE000 + number) for number in range(24))


def load_bundled_model(atlas: Atlas | str | None = None) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Load the model that comes with the package, and its processor.

    Parameters
    ----------
    atlas : Atlas or str, optional
        The atlas of your scans, or its name for `Atlas.load`. Default: the 160 ROIs of Dosenbach 2010. Every network
        needs a name.

    Returns
    -------
    model : FmriLMForCausalLM
        In evaluation mode.
    processor : FmriLMProcessor
        Takes tables, arrays and 4D NIfTI images of scans.

    Examples
    --------
    >>> from transformers import pipeline
    >>> model, processor = load_bundled_model()
    >>> describe = pipeline("fmri-to-text", model=model, processor=processor)
    >>> answer = describe(example_scan(), text="Which network pair is the weakest?")
    >>> answer[0]["generated_text"]
    'between cerebellum and sensorimotor'
    """
    from ..models.atlas import Atlas
    from ..models.modeling_fmri_lm import FmriLMForCausalLM
    from ..models.processing_fmri_lm import FmriLMProcessor

    model = FmriLMForCausalLM.from_pretrained(WEIGHTS).eval()
    processor = FmriLMProcessor.from_pretrained(WEIGHTS)
    if atlas is None:
        return model, processor
    return with_atlas(model, processor, Atlas.load(atlas) if isinstance(atlas, str) else atlas)


def load_reader(atlas: Atlas | str | None = None) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Old name of `load_bundled_model`."""
    warn_renamed("load_reader", "load_bundled_model")
    return load_bundled_model(atlas)


def example_scan() -> Path:
    """Return the path of a small simulated scan: a table of Dosenbach's 160 ROIs, with a BIDS sidecar."""
    return Path(__file__).parent / "example_scan.tsv"


def with_atlas(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, atlas: Atlas
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Adapt a model to scans of another atlas: the same weights, with that atlas's networks and their names.

    Parameters
    ----------
    model, processor
        A model that reads network pairs alone (``scan_tokens=["network_pairs"]``).
    atlas : Atlas
        With a network for every ROI.

    Raises
    ------
    ValueError
        If weights of the model depend on its atlas, a network has no name, or the atlas has more networks than the
        model has words for.
    """
    from ..models.feature_extraction_fmri import FmriFeatureExtractor
    from ..models.modeling_fmri_lm import FmriLMForCausalLM
    from ..models.processing_fmri_lm import FmriLMProcessor

    if not model.config.reads_network_pairs or model.config.reads_rois:
        raise ValueError(
            "Only a model that reads network pairs alone can change its atlas, but `scan_tokens` are "
            f"{model.config.scan_tokens}."
        )
    # Only the extractor, the names of networks and the shape of scans change.
    old = processor.feature_extractor
    extractor = FmriFeatureExtractor(
        atlas, n_timepoints=old.n_timepoints, t_r=old.t_r, min_timepoints=old.min_timepoints
    )
    tokenizer = name_networks(processor.tokenizer, atlas.network_names)
    processor = FmriLMProcessor(extractor, tokenizer, scan_tokens=["network_pairs"])
    config = type(model.config).from_dict(
        {
            **model.config.to_dict(),
            "fmri_config": network_pair_scan_config(atlas, old.n_timepoints),
            "network_name_ids": processor.network_name_ids(),
        }
    )
    adapted = FmriLMForCausalLM(config)
    adapted.load_state_dict(model.state_dict())  # strict: no weight depends on the atlas
    adapted.generation_config = copy.deepcopy(model.generation_config)
    suppress_unnamed_words(adapted.generation_config, tokenizer, len(atlas.network_names))
    return adapted.eval(), processor


def network_pair_scan_config(atlas: Atlas, n_timepoints: int) -> FmriTokenizerConfig:
    """Make the scan configuration of a model that reads network pairs of an atlas alone."""
    from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig

    return FmriTokenizerConfig(
        n_rois=atlas.n_rois,
        n_timepoints=n_timepoints,
        patch_size=n_timepoints,
        roi_networks=[atlas.network_names.index(name) for name in atlas.networks],
    )


# Network words: tokens that stand for the networks of whatever atlas the model has. The tokenizer replaces a network's
# name by its word before it splits a text, and the word by the name in what is decoded: the model knows words alone, so
# an atlas with other names needs no other weights.


def add_network_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the network words to the vocabulary of a tokenizer, still without names."""
    # `lstrip`: inside a sentence the space before a name belongs to its token, as with any other word
    tokenizer.add_tokens([AddedToken(word, lstrip=True, normalized=True) for word in NETWORK_WORDS])


def name_networks(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> PreTrainedTokenizerBase:
    """Name the network words of a tokenizer after the networks of an atlas; text may spell them in any case.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Unchanged; one without network words is returned as it is.
    names : sequence of str
        The first name becomes the first word.

    Raises
    ------
    ValueError
        If there are more names than words, or a name is empty.
    """
    if NETWORK_WORDS[0] not in tokenizer.get_vocab():
        return tokenizer
    if len(names) > len(NETWORK_WORDS):
        raise ValueError(
            f"The atlas has {len(names)} networks, but this model has words for {len(NETWORK_WORDS)}. Join "
            "networks: `Atlas.with_networks(table)`, with a table of columns name and network."
        )
    if not all(name.strip() for name in names):
        raise ValueError(f"Each network needs a name to be asked about, found {list(names)}.")
    tokenizer = copy.deepcopy(tokenizer)
    named = dict(zip(names, NETWORK_WORDS))
    # Longest first: "default" would otherwise be replaced inside "default mode".
    longest_first = sorted(named, key=len, reverse=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(rf"(?i)(?<!\w){re.escape(name)}(?!\w)"), named[name]) for name in longest_first]
    )
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), *(decoders.Replace(word, f" {name}") for name, word in named.items())]
    )
    return tokenizer


def suppress_unnamed_words(
    generation_config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, n_names: int
) -> None:
    """Keep a model from generating the network words that an atlas of `n_names` networks leaves without a name."""
    if NETWORK_WORDS[0] in tokenizer.get_vocab():
        unnamed = tokenizer.convert_tokens_to_ids(list(NETWORK_WORDS[n_names:]))
        generation_config.suppress_tokens = unnamed or None
