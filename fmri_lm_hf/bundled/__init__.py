"""The reader that comes with the package: true sentences about a scan, without the Hub and without training.

Its weights lie in `weights/`, with their card and the recipe that made them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers

from ..models.atlas import Atlas
from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor

__all__ = [
    "NETWORK_WORDS",
    "READER_FOLDER",
    "add_network_words",
    "load_reader",
    "name_networks",
    "say_named_alone",
    "shape_of_scans",
    "with_atlas",
]


# Words of a reader's vocabulary that stand for networks: each atlas gives them its names.

# Characters for private use: they stand in no text, so that only a network's name becomes one.
NETWORK_WORDS = tuple(chr(0xE000 + number) for number in range(24))


def add_network_words(tokenizer: Any) -> None:
    """Give a tokenizer words for networks, as yet without names."""
    # the space before a name belongs to its word, as it does to any word inside a sentence
    tokenizer.add_tokens([AddedToken(word, lstrip=True, normalized=True) for word in NETWORK_WORDS])


def name_networks(tokenizer: Any, names: Sequence[str]) -> Any:
    """A tokenizer whose words for networks are the names of an atlas, in any case; another one stays as it is.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    names : sequence of str
        Of the networks; the first name becomes the first word.

    Raises
    ------
    ValueError
        If there are more names than words, or a name is empty.
    """
    if NETWORK_WORDS[0] not in tokenizer.get_vocab():
        return tokenizer
    if len(names) > len(NETWORK_WORDS):
        raise ValueError(
            f"The atlas has {len(names)} networks, and this model has words for {len(NETWORK_WORDS)}. Join "
            "networks: `Atlas.with_networks(table)`, with a table of columns name and network."
        )
    if not all(name.strip() for name in names):
        raise ValueError(f"Each network needs a name to be asked about, found {list(names)}.")
    tokenizer = copy.deepcopy(tokenizer)
    named = dict(zip(names, NETWORK_WORDS))
    # "default mode" before "default", which it contains
    longest_first = sorted(named, key=len, reverse=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(rf"(?i)(?<!\w){re.escape(name)}(?!\w)"), named[name])
            for name in longest_first
        ]
    )
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            *(decoders.Replace(word, f" {name}") for name, word in named.items()),
        ]
    )
    return tokenizer


def say_named_alone(generation_config: Any, tokenizer: Any, n_names: int) -> None:
    """Keep words for networks that an atlas of so many networks gives no name from being written.

    A tokenizer that has no such words leaves `generation_config` as it is.
    """
    if NETWORK_WORDS[0] in tokenizer.get_vocab():
        unnamed = tokenizer.convert_tokens_to_ids(list(NETWORK_WORDS[n_names:]))
        generation_config.suppress_tokens = unnamed or None


READER_FOLDER = Path(__file__).parent / "weights"


def load_reader(atlas: Atlas | str | None = None) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Load the reader of network pairs that comes with the package.

    Parameters
    ----------
    atlas : Atlas or str, optional
        Any atlas whose networks have names, or its name for `Atlas.load`; the 160 ROIs of Dosenbach 2010 when None.

    Returns
    -------
    model : FmriLMForCausalLM
        In evaluation mode.
    processor : FmriLMProcessor
        Takes tables, arrays and 4D NIfTI images of scans.

    Examples
    --------
    >>> from transformers import pipeline
    >>> model, processor = load_reader()
    >>> describe = pipeline("fmri-to-text", model=model, processor=processor)
    """
    model = FmriLMForCausalLM.from_pretrained(READER_FOLDER).eval()
    processor = FmriLMProcessor.from_pretrained(READER_FOLDER)
    if atlas is None:
        return model, processor
    return with_atlas(model, processor, Atlas.load(atlas) if isinstance(atlas, str) else atlas)


def with_atlas(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, atlas: Atlas
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """A reader for scans of another atlas: the same weights, with that atlas's networks and their names.

    Parameters
    ----------
    model, processor
        A model that reads network pairs alone (``scan_tokens=["network_pairs"]``).
    atlas : Atlas
        With a network for every ROI.

    Raises
    ------
    ValueError
        If weights of the model depend on its atlas, a network has no name, or there are more networks than the reader
        has words for.
    """
    if not model.config.reads_network_pairs or model.config.reads_rois:
        raise ValueError(
            "Only a model that reads network pairs alone can change its atlas, but `scan_tokens` are "
            f"{model.config.scan_tokens}."
        )
    old = processor.feature_extractor
    extractor = FmriFeatureExtractor(
        atlas, n_timepoints=old.n_timepoints, t_r=old.t_r, min_timepoints=old.min_timepoints
    )
    tokenizer = name_networks(processor.tokenizer, atlas.network_names)
    processor = FmriLMProcessor(extractor, tokenizer, scan_tokens=["network_pairs"])
    config = type(model.config).from_dict(
        {
            **model.config.to_dict(),
            "fmri_config": shape_of_scans(atlas, old.n_timepoints),
            "network_name_ids": processor.network_name_ids(),
        }
    )
    other = FmriLMForCausalLM(config)
    other.load_state_dict(model.state_dict())
    other.generation_config = copy.deepcopy(model.generation_config)
    say_named_alone(other.generation_config, tokenizer, len(atlas.network_names))
    return other.eval(), processor


def shape_of_scans(atlas: Atlas, n_timepoints: int) -> FmriTokenizerConfig:
    """The shape of the scans of an atlas, for a model that reads network pairs alone."""
    return FmriTokenizerConfig(
        n_rois=atlas.n_rois,
        n_timepoints=n_timepoints,
        patch_size=n_timepoints,
        roi_networks=[atlas.network_names.index(name) for name in atlas.networks],
    )
