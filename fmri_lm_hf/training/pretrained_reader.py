"""A language model joined to network-pair tokens alone: what a reader starts from."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from ..corpus.reading import BOUNDS_BETWEEN, LEVELS
from ..models.atlas import Atlas
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import N_FEATURES, VALUE
from ..models.processing_fmri_lm import FmriLMProcessor
from ..reader import shape_of_scans
from ..reader.network_words import name_networks, say_named_alone
from .backbone import load_backbone

__all__ = ["join_network_pairs", "pretrained_reader"]


def pretrained_reader(name: str, atlas: Atlas, seed: int = 0) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """A pretrained language model that is yet to learn to read network pairs, and its processor.

    The networks' names are embedded by the model's own text embeddings, and the tokens of pairs come at their scale.

    Parameters
    ----------
    name : str
        As `load_backbone` takes it, such as ``smollm2``. A reader goes on from its network-pair tokens.
    atlas : Atlas
        That of the processor; no weight depends on it.
    seed : int
        Of the weights that join scans and language model.
    """
    backbone = load_backbone(name)
    embeddings = backbone.language_model.get_input_embeddings().weight
    torch.manual_seed(seed)
    scale = float(embeddings.detach().square().mean().sqrt())
    model, processor = join_network_pairs(backbone.language_model, backbone.text_tokenizer, atlas, scale)
    if backbone.network_pairs is None:
        _values_begin_as_words(model, processor.tokenizer)
    else:
        backbone.give_reading(model)
    return model, processor


@torch.no_grad()
def _values_begin_as_words(model: FmriLMForCausalLM, tokenizer: Any, n_points: int = 4000) -> None:
    """Let the connectivity of a pair begin as the text embedding of the words for its level.

    A pretrained model copies words from what it attends to; it then only has to learn where to look. A share of the
    random embedding stays, which tells values apart that have the same level.
    """
    pairs, text_embeddings = model.network_pairs, model.get_input_embeddings().weight
    assert pairs is not None
    words = torch.stack(
        [text_embeddings[tokenizer(level, add_special_tokens=False)["input_ids"]].mean(0) for level in LEVELS]
    )
    words = words / words.square().mean(-1, keepdim=True).sqrt()
    values = 4 * torch.rand(n_points, 1) - 1.3
    features = torch.rand(n_points, N_FEATURES)  # ranks lie between 0 and 1
    features[:, VALUE] = values[:, 0]
    bounds = torch.tensor(BOUNDS_BETWEEN)
    above = torch.sigmoid((values - bounds) / 0.05)  # (n_points, 4): softly beyond each bound
    share = torch.cat([torch.ones_like(values), above], 1) - torch.cat([above, torch.zeros_like(values)], 1)
    hidden = pairs.value_features(features)
    own = hidden @ pairs.value_out.weight.T
    own = own / own.square().mean(-1, keepdim=True).sqrt()
    solved = torch.linalg.lstsq(hidden, share @ words + 0.5 * own).solution
    pairs.value_out.weight.copy_(solved.T)


def join_network_pairs(
    language_model: PreTrainedModel,
    tokenizer: Any,
    atlas: Atlas,
    initializer_range: float,
    n_timepoints: int = 240,
    t_r: float = 2.0,
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """A model that reads network pairs with a language model, and its processor.

    Parameters
    ----------
    language_model : PreTrainedModel
        It is not copied: training the result trains it.
    tokenizer : PreTrainedTokenizerBase
        Where it has words for networks, they get the names of the atlas.
    atlas : Atlas
        That of the processor; no weight depends on it.
    initializer_range : float
        Scale of the tokens of pairs and of the fresh weights.
    n_timepoints : int, default=240
        Longest input, in points of `t_r` seconds.
    t_r : float, default=2.0
    """
    extractor = FmriFeatureExtractor(atlas, n_timepoints=n_timepoints, t_r=t_r, min_timepoints=30)
    tokenizer = name_networks(tokenizer, atlas.network_names)
    processor = FmriLMProcessor(extractor, tokenizer, scan_tokens=["network_pairs"])
    model = FmriLMForCausalLM.from_components(
        shape_of_scans(atlas, n_timepoints),
        language_model,
        scan_tokens=["network_pairs"],
        network_name_ids=processor.network_name_ids(),
        fmri_token_id=processor.fmri_token_id,
        initializer_range=initializer_range,
    )
    say_named_alone(model.generation_config, tokenizer, len(atlas.network_names))
    return model, processor
