"""The reader that comes with the package: true sentences about a scan, without the Hub and without training.

Its weights lie in `weights/`, with their card and the recipe that made them.
"""

from __future__ import annotations

import copy
from pathlib import Path

from ..models.atlas import Atlas
from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .network_words import name_networks, say_named_alone

__all__ = ["READER_FOLDER", "load_reader", "shape_of_scans", "with_atlas"]

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
