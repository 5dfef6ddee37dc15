"""The stage `reading`: train a language model to read network pairs, on random scans that are each used once.

    fmri-lm train reading reading --output_dir my_model
    python training/train_reading.py training/recipes/reading.yaml --output_dir my_model

It needs no data, since scans are drawn at random. A recipe is a YAML file of the options below; options after it
override it. The model, its processor and training_info.json are saved in `output_dir`. This stage made the bundled
model.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tqdm.auto import tqdm
from transformers import (
    AddedToken,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from ..bundled import add_network_words, name_networks, network_pair_scan_config, suppress_unnamed_words
from ..corpus.queries import BINS, BOUNDS_BETWEEN
from ..models.atlas import Atlas
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import N_FEATURES, VALUE
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LoraArguments, argument, fields_of, parse
from .attention_supervision import AttentionSupervision
from .backbone import add_adapter, load_backbone
from .random_questions import ReadingBatches, ReadingRecipe, reading_texts
from .run import train_and_save
from .trainer import FmriLMTrainer
from .vocabulary import ChatFormat, train_text_tokenizer

REPETITION_PENALTY = 1.04
# fields of ReadingRecipe that cannot be chosen for a pretrained language model
_SIZES = ("hidden_size", "num_layers", "num_heads", "vocab_size")


@dataclass
class ReadingArguments(LoraArguments):
    """Model and curriculum."""

    stage: ClassVar[str] = "reading"

    reading: dict | str | None = argument("fields of ReadingRecipe; --reading.NAME changes one of the recipe's")
    atlas: str = argument("atlas of the processor: a name for `Atlas.load`, or a JSON file", "dosenbach_2010")
    fixed_atlas: bool = argument("train on that atlas only, in place of random ones", False)
    language_model: str | None = argument(
        "a folder or Hub id, a GGUF file, smollm2, or bundled (default: a new, small one of the sizes in `reading`)"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with the options of the command line."""
    train(parse(ReadingArguments, words))


def train(arguments: ReadingArguments) -> FmriLMTrainer:
    """Train a model to read network pairs, and save it with its processor in `output_dir`."""
    if arguments.max_steps < 1:
        raise ValueError("Random scans have no end: give `max_steps`, the number of steps to train.")
    options = fields_of(ReadingRecipe, "reading", arguments.reading)
    sizes = [name for name in _SIZES if name in options]
    if arguments.language_model is not None and sizes:
        raise ValueError(
            f"`reading` gives {', '.join(sizes)}, which the language model {arguments.language_model!r} determines: "
            "leave out either."
        )
    # the default layers suit the new, small model; supervision would disturb them in a pretrained one
    defaults = {} if arguments.language_model is None else {"supervised_layers": None}
    recipe = ReadingRecipe(**{"steps": arguments.max_steps, "seed": arguments.seed, **defaults, **options})
    is_file = arguments.atlas.endswith(".json")
    atlas = Atlas.from_json(arguments.atlas) if is_file else Atlas.load(arguments.atlas)
    if arguments.language_model is None:
        model, processor = new_model(recipe, atlas)
    else:
        model, processor = pretrained_model(arguments.language_model, atlas, recipe.seed)
    # sampled before adapters are added: these texts stand for the language that the model has to keep
    texts: list[list[int]] = []
    if recipe.share_sampled_texts:
        language_model = model.language_model.to(arguments.device)
        texts = sample_texts(language_model, processor.tokenizer, recipe.n_sampled_texts, seed=recipe.seed)
    adapter = add_adapter(model, arguments)
    per_step = arguments.world_size * arguments.gradient_accumulation_steps
    fixed = atlas if arguments.fixed_atlas else None
    batches = ReadingBatches(processor.tokenizer, recipe, fixed, texts, per_step)
    arguments.per_device_train_batch_size = 1  # an example is a batch of scans
    arguments.train_sampling_strategy = "sequential"  # from easy to hard
    layers = recipe.supervised_layers
    trainer = FmriLMTrainer(
        model,
        arguments,
        data_collator=_only,
        train_dataset=batches,
        supervision=AttentionSupervision(model.language_model, layers) if layers else None,
    )
    train_and_save(trainer, processor, adapter, simulated=True, n_scans=len(batches) * recipe.batch_size)
    return trainer


def _only(batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Collate a list of one: an example of `ReadingBatches` is a batch. Not a lambda, which workers cannot pickle."""
    return batches[0]


def new_model(
    recipe: ReadingRecipe, atlas: Atlas, n_timepoints: int = 240
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Make a small, untrained model for network pairs, and its processor.

    Parameters
    ----------
    recipe : ReadingRecipe
    atlas : Atlas
        Atlas of the processor; no weight depends on it.
    n_timepoints : int, default=240
        Longest input, in points of two seconds.
    """
    tokenizer: PreTrainedTokenizerFast = train_text_tokenizer(reading_texts(1500), recipe.vocab_size)
    # A token for each bin. If two bins begin with the same token ("markedly"), learning takes several times as long.
    long_names = [name for name in BINS if " " in name]
    tokenizer.add_tokens(
        [AddedToken(f"{space}{name}", normalized=False) for space in (" ", "") for name in long_names]
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
            # wide heads: names differ as whole vectors, and narrow heads take long to tell them apart
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
    model, processor = join_network_pairs(language_model, tokenizer, atlas, std, n_timepoints)
    _attend_to_same_embeddings(language_model)
    # against descriptions that repeat the last pair
    model.generation_config.repetition_penalty = REPETITION_PENALTY
    return model, processor


@torch.no_grad()
def _attend_to_same_embeddings(language_model: LlamaForCausalLM, sharpness: float = 3.0) -> None:
    """Initialise heads that attend to tokens with the same embedding, and copy them.

    A question's names and the token of their pair share embeddings. With independent random queries and keys, it takes
    hundreds of steps until the model uses this, before it learns anything else. So from the second layer on, the keys
    of every second head start equal to its queries; the sharpness favours the pair of both names over pairs of one.
    The other heads stay random, since such a head attends to little else. Output weights start as the transpose of
    those of the values: with independent random ones, names are not copied even after thousands of steps.
    """
    for layer in language_model.model.layers[1:]:
        attention = layer.self_attn
        heads = attention.q_proj.weight.view(-1, attention.head_dim, attention.q_proj.in_features)
        heads[::2] *= sharpness
        attention.k_proj.weight.view_as(heads)[::2] = heads[::2]
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def pretrained_model(name: str, atlas: Atlas, seed: int = 0) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Prepare a pretrained language model for network pairs, and make its processor.

    Names of networks are embedded with the model's own text embeddings, and tokens of pairs have the same scale.

    Parameters
    ----------
    name : str
        A name for `load_backbone`, such as ``smollm2``. A model that reads network pairs keeps its tokens of pairs.
    atlas : Atlas
        Atlas of the processor; no weight depends on it.
    seed : int
        Seed of the weights between scans and language model.
    """
    backbone = load_backbone(name)
    embeddings = backbone.language_model.get_input_embeddings().weight
    torch.manual_seed(seed)
    scale = float(embeddings.detach().square().mean().sqrt())
    model, processor = join_network_pairs(backbone.language_model, backbone.text_tokenizer, atlas, scale)
    if backbone.network_pairs is None:
        _start_values_as_words(model, processor.tokenizer)
    else:
        backbone.copy_network_pairs(model)
    return model, processor


@torch.no_grad()
def _start_values_as_words(model: FmriLMForCausalLM, tokenizer: Any, n_points: int = 4000) -> None:
    """Initialise the embedding of a pair's connectivity as the text embedding of its bin.

    A pretrained model can copy words from tokens that it attends to, so it then only has to learn where to attend. A
    part of the random embedding stays, which distinguishes values of the same bin.
    """
    pairs, text_embeddings = model.network_pairs, model.get_input_embeddings().weight
    assert pairs is not None
    words = torch.stack(
        [text_embeddings[tokenizer(name, add_special_tokens=False)["input_ids"]].mean(0) for name in BINS]
    )
    words = words / words.square().mean(-1, keepdim=True).sqrt()
    values = 4 * torch.rand(n_points, 1) - 1.3
    features = torch.rand(n_points, N_FEATURES)  # ranks lie between 0 and 1
    features[:, VALUE] = values[:, 0]
    bounds = torch.tensor(BOUNDS_BETWEEN)
    # (n_points, 4): whether a value is beyond each bound, with soft edges that a smooth function can follow. The
    # differences of neighbouring columns are the shares of the five bins, which add up to one.
    above = torch.sigmoid((values - bounds) / 0.05)
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
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Join a language model with network-pair tokens, and make the processor.

    Parameters
    ----------
    language_model : PreTrainedModel
        Not copied: training the result trains it.
    tokenizer : PreTrainedTokenizerBase
        If it has tokens for networks, they get the names of the atlas.
    atlas : Atlas
        Atlas of the processor; no weight depends on it.
    initializer_range : float
        Scale of tokens of pairs and of fresh weights.
    n_timepoints : int, default=240
        Longest input, in points of two seconds.
    """
    extractor = FmriFeatureExtractor(atlas, n_timepoints=n_timepoints, t_r=2.0, min_timepoints=30)
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


@torch.inference_mode()
def sample_texts(
    language_model: PreTrainedModel,
    tokenizer: Any,
    n: int,
    n_tokens: int = 96,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[int]]:
    """Sample texts from a language model without a prompt, as token ids; trained on them, it keeps its language.

    Half of them begin like a user's turn in the chat template, half with an empty line.

    Parameters
    ----------
    language_model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer, with a chat template.
    n : int
        Number of texts.
    n_tokens : int, default=96
        Tokens of each text after its beginning.
    seed : int, default=0
    batch_size : int, default=64
        Texts that are sampled at the same time.

    Returns
    -------
    list of list of int
    """
    language_model.eval()
    set_seed(seed)
    sampling = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=n_tokens,
        pad_token_id=tokenizer.pad_token_id,
        # No end of text: after a user's turn comes the answer, which belongs to the text. `<fmri>` is suppressed, since
        # a placeholder without a scan is an error.
        suppress_tokens=tokenizer.convert_tokens_to_ids(["<fmri>"]),
    )
    beginnings = [
        list(ChatFormat.of(tokenizer).prefix),
        tokenizer("\n\n", add_special_tokens=False)["input_ids"],
    ]
    texts: list[list[int]] = []
    with tqdm(total=n, desc="Sampling texts from the language model", unit="text") as progress:
        for number, beginning in enumerate(beginnings):
            n_texts = (n + number) // 2
            for start in range(0, n_texts, batch_size):
                size = min(batch_size, n_texts - start)
                ids = torch.tensor([beginning] * size, device=language_model.device)
                sampled = language_model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=sampling)
                texts += sampled.tolist()
                progress.update(size)
    return texts


if __name__ == "__main__":
    main()
