"""The stage `understanding`: train the question encoder on questions and what they mean, and on a grammar of wordings.

    fmri-lm train understanding understanding --output_dir my_encoder
    python training/train_understanding.py training/recipes/understanding.yaml --output_dir my_encoder

It needs no scans. Questions are files of JSON lines, each the voice of somebody (`training/questions/README.md`);
`hold_out` leaves voices out, which the result is then judged on. `output_dir` gets the encoder in 8 bits, and
understanding.json with the scores.
"""

# ruff: noqa: RUF009 - `argument` makes a dataclass field
from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast, Trainer, set_seed

from ..bundled.gguf_files import PACKAGED
from ..files import project_folder, write_json
from ..questions.classes import PLACEHOLDERS, Reader
from ..questions.encoder import QuestionEncoder, QuestionReader, encode, padded
from ..questions.language_model import LanguageModelReader, QuestionLanguageModel, load_packaged, prompt
from ..questions.lexicon import Lexicon
from ..questions.understanding import understand
from .arguments import StageArguments, argument, parse
from .wordings import Example, GrammarQuestions, composition, joined, labelled, noisy, queries_of

IGNORED = -100

_Encode = Callable[[str], list[int]]


@dataclass
class UnderstandingArguments(StageArguments):
    """Questions and encoder."""

    stage: ClassVar[str] = "understanding"

    encoder: str | None = argument(
        "folder or Hub id of a pretrained BERT, such as all-MiniLM-L6-v2; or smollm2, which gets adapters; required"
    )
    lora_rank: int = argument("rank of the adapters of a language model", 16)
    questions: str = argument("folder of questions (*.jsonl), with atlases.json and wordings/", "training/questions")
    hold_out: list[str] = argument("voices (names of files) that are not trained on, but judged", [])
    vocabulary: int = argument("subwords of the encoder that are kept, besides those of the training texts", 6000)
    share_grammar: float = argument("share of the examples from the grammar of wordings", 0.3)
    share_joined: float = argument("share of the examples that join two questions", 0.12)
    never_joined: str | None = argument(
        "JSON file of pairs of intents that no example joins, to be judged on (default: none)"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Run the stage with the options of the command line."""
    train(parse(UnderstandingArguments, words))


def train(arguments: UnderstandingArguments) -> QuestionReader | LanguageModelReader:
    """Train a question encoder, judge it on the voices held out, and save it in `output_dir`."""
    if arguments.encoder is None:
        raise ValueError("No encoder to start from: give `--encoder`, the folder or Hub id of a pretrained BERT.")
    folder = Path(arguments.questions)
    if not folder.is_dir():
        folder = project_folder(arguments.questions)
    rows, networks = read_questions(folder)
    if unknown := sorted(set(arguments.hold_out) - {row["voice"] for row in rows}):
        raise ValueError(f"There are no questions {', '.join(unknown)} to hold out in {folder.name}.")
    lexicons = {atlas: Lexicon(names) for atlas, names in networks.items()}
    never = read_compositions(arguments.never_joined)
    known = [
        labelled(row, lexicons[row["atlas"]])
        for row in rows
        if row["voice"] not in arguments.hold_out and composition(queries_of(row)) not in never
    ]
    grammar = GrammarQuestions(folder / "wordings")
    set_seed(arguments.seed)
    new_reader = language_model_reader if arguments.encoder in PACKAGED else encoder_reader
    reader, encode = new_reader(arguments, [*(example.text for example in known), *grammar.texts()])
    per_epoch = round(len(known) / max(1 - arguments.share_grammar - arguments.share_joined, 0.05))
    examples = Examples(known, grammar, arguments, encode, per_epoch, never)
    n_epochs, arguments.num_train_epochs = arguments.num_train_epochs, 1  # `examples` are those of all epochs
    trainer = Trainer(
        reader.model,
        arguments,
        train_dataset=examples,
        data_collator=collate,
        optimizers=(optimizer(reader.model, arguments), None),
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    reader.model.cpu().eval()
    output = Path(str(arguments.output_dir))
    reader.save(output)
    if isinstance(reader, QuestionReader):
        reader = QuestionReader.load(output)  # as it will be used: in 8 bits
    held_out = [row for row in rows if row["voice"] in arguments.hold_out]
    write_json(
        {
            "encoder": Path(arguments.encoder).name,
            "n_examples": len(examples),
            "questions": dict(Counter(row["voice"] for row in rows)),
            "held_out": list(arguments.hold_out),
            "seed": arguments.seed,
            "epochs": n_epochs,
            "scores": judge(reader, held_out, networks),
        },
        output / "understanding.json",
    )
    return reader


def optimizer(model: Any, arguments: UnderstandingArguments) -> torch.optim.Optimizer:
    """Make the optimiser: the classifiers, which start from nothing, learn five times as fast as what is pretrained."""
    fresh = list(model.classify.parameters())
    ids = set(map(id, fresh))
    pretrained = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in ids]
    groups = [{"params": pretrained}, {"params": fresh, "lr": 5 * arguments.learning_rate}]
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return torch.optim.AdamW(groups, arguments.learning_rate, betas, weight_decay=arguments.weight_decay)


def encoder_reader(arguments: UnderstandingArguments, texts: Sequence[str]) -> tuple[QuestionReader, _Encode]:
    """Make an untrained question encoder, and what turns a text into its token ids.

    Raises
    ------
    ValueError
        If the pretrained encoder is no BERT.
    """
    found = AutoConfig.from_pretrained(arguments.encoder).model_type
    if found != "bert":
        raise ValueError(
            f"The encoder {arguments.encoder} is a model of the type {found!r}, expected 'bert': give a BERT, such as "
            "sentence-transformers/all-MiniLM-L6-v2."
        )
    tokenizer, kept = smaller_vocabulary(AutoTokenizer.from_pretrained(arguments.encoder), texts, arguments.vocabulary)
    model = new_encoder(str(arguments.encoder), kept, len(tokenizer))
    return QuestionReader(model, tokenizer), partial(encode, tokenizer)


def language_model_reader(
    arguments: UnderstandingArguments, texts: Sequence[str]
) -> tuple[LanguageModelReader, _Encode]:
    """Make a language model with untrained adapters, and what turns a text into its token ids."""
    language_model, tokenizer = load_packaged(str(arguments.encoder))
    model = QuestionLanguageModel(language_model, arguments.lora_rank)
    return LanguageModelReader(model, tokenizer), partial(prompt, tokenizer)


# ----- questions -----


def read_questions(folder: Path) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Read the questions of a folder, with the name of their file as `voice`, and the networks of each atlas."""
    rows = []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            rows.append({**json.loads(line), "voice": file.stem})
    if not rows:
        raise ValueError(f"There are no questions (*.jsonl) in {folder}.")
    return rows, json.loads((folder / "atlases.json").read_text(encoding="utf-8"))


def read_compositions(file: str | None) -> set[frozenset[str]]:
    """Read pairs of intents from a JSON file, in the package or next to it; none without a file."""
    if file is None:
        return set()
    path = Path(file)
    if not path.is_file():
        path = project_folder(str(path.parent)) / path.name
    return {frozenset(pair) for pair in json.loads(path.read_text(encoding="utf-8"))}


class Examples(Dataset):
    """Examples of an epoch: questions as written, joined ones, and some of the grammar, all with slips of the pen.

    An example depends on seed and number alone.
    """

    def __init__(
        self,
        known: Sequence[Example],
        grammar: GrammarQuestions,
        arguments: UnderstandingArguments,
        encode: _Encode,
        per_epoch: int,
        never: Collection[frozenset[str]] = (),
    ):
        self.never = never
        self.known, self.grammar, self.arguments, self.encode = known, grammar, arguments, encode
        self.n = round(per_epoch * arguments.num_train_epochs)  # one pass over it is the training
        self.order = [number for epoch in range(-(-self.n // len(known))) for number in self._shuffled(epoch)]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.known)))
        random.Random(f"{self.arguments.seed}/order/{epoch}").shuffle(order)
        return order

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        rng = random.Random(f"{self.arguments.seed}/{number}")
        kind = rng.random()
        if kind < self.arguments.share_grammar:
            example = self.grammar.draw(rng)
        elif kind < self.arguments.share_grammar + self.arguments.share_joined:
            example = joined(rng.choice(self.known), rng.choice(self.known), rng, self.never)
        else:
            example = self.known[self.order[number]]
        return {"input_ids": self.encode(noisy(example.text, rng)), "labels": list(example.labels)}


def collate(examples: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad examples to a batch; to a multiple of 8, so that kernels meet few different shapes."""
    ids, mask = padded([example["input_ids"] for example in examples], 8)
    labels = torch.tensor([example["labels"] for example in examples])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# ----- encoder -----


def smaller_vocabulary(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], n_common: int
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Keep the subwords that texts use, single characters and the most common ones of a WordPiece vocabulary.

    Returns
    -------
    tokenizer : PreTrainedTokenizerFast
        With `PLACEHOLDERS`, and the characters of the texts that it did not know.
    kept : list of int
        The old id of each of its subwords; -1 for new ones.
    """
    texts = list(texts)
    vocabulary = tokenizer.get_vocab()
    used = {id for text in texts for id in tokenizer(text)["input_ids"]}
    special = {vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    # BERT's vocabulary is in the order of how common a word is, after its unused places
    words = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    common = [token for token in words if not token.startswith("[unused")]
    keep = used | special | {vocabulary[token] for token in common if len(token.removeprefix("##")) == 1}
    keep |= {vocabulary[token] for token in common[: n_common + len(special)]}
    kept = sorted(keep)
    tokens = [words[id] for id in kept]
    normalizer = tokenizer.backend_tokenizer.normalizer
    characters = {char for text in texts for char in normalizer.normalize_str(text) if not char.isspace()}
    new = sorted(char for char in characters if char not in vocabulary)
    new += [f"##{char}" for char in sorted(characters) if f"##{char}" not in vocabulary]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {token: id for id, token in enumerate([*tokens, *new])}
    state["added_tokens"] = [
        {**added, "id": state["model"]["vocab"][added["content"]]} for added in state["added_tokens"]
    ]
    for part in ("cls", "sep"):  # ids inside the post-processor
        token = {"cls": "[CLS]", "sep": "[SEP]"}[part]
        specials = state["post_processor"].get("special_tokens", {})
        if token in specials:
            specials[token]["ids"] = [state["model"]["vocab"][token]]
        elif part in state["post_processor"]:
            state["post_processor"][part] = [token, state["model"]["vocab"][token]]
    state["truncation"] = state["padding"] = None
    small = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), pad_token="[PAD]")
    small.add_special_tokens({"additional_special_tokens": list(PLACEHOLDERS)})
    return small, [*kept, *[-1] * (len(small) - len(kept))]


def new_encoder(name: str, kept: Sequence[int], size: int) -> QuestionEncoder:
    """Make a question encoder of a pretrained BERT with the kept rows of its embeddings; new rows start at the mean."""
    config = AutoConfig.from_pretrained(name)
    bert = AutoModel.from_pretrained(name, dtype=torch.float32, add_pooling_layer=False)
    old = bert.get_input_embeddings().weight.detach()
    new = old.mean(0) + 0.02 * torch.randn(size, old.shape[1])
    known = torch.tensor(kept) >= 0
    new[known] = old[torch.tensor(kept)[known]]
    config.vocab_size = size
    model = QuestionEncoder(config)
    state = {name: weight for name, weight in bert.state_dict().items() if "word_embeddings" not in name}
    model.bert.load_state_dict(state, strict=False)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.copy_(new)
    return model


# ----- scores -----


def judge(reader: Reader, rows: Sequence[Mapping[str, Any]], networks: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Judge the whole way from text to query: shares of right, wrong and declined questions, by voice and language.

    Of answerable questions, `right` and `wrong` (another query) and the rest declined; of the others, `declined`.
    """
    lexicons = {atlas: Lexicon(names) for atlas, names in networks.items()}
    scores: dict[str, Counter] = {}
    for row in rows:
        found = understand(row["text"], lexicons[row["atlas"]], reader)
        truth = queries_of(row)
        if truth:
            outcome = "right" if [q.key for q in found.queries] == [q.key for q in truth] else "wrong"
            outcome = outcome if found.queries else "not understood"
        else:
            outcome = "answered" if found.queries else "declined"
        for group in ("all", row["voice"], f"language {row['lang']}", f"intent {row['intent']}"):
            scores.setdefault(group, Counter())[outcome] += 1
    return {group: dict(counts) for group, counts in scores.items()}


if __name__ == "__main__":
    main()
