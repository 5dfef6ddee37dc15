"""The language model reads the values of one scan: the levels that a question is about, whatever their family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..bundled import NETWORK_WORDS, with_atlas
from ..models.answers import Asked, answers_to_questions, encode_question
from ..models.atlas import Atlas
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import pad_name_ids
from ..models.processing_fmri_lm import FmriLMProcessor
from .bins import BINS
from .measures import ScanMeasures
from .query import Query
from .statements import pair_words
from .value_tables import FAMILIES, POSITION, Pair, ValueTable, family_table

MOST_NAMES = len(NETWORK_WORDS)  # of one prompt
# Wordings that the bundled model was trained on. Others need a new model.
_QUESTION = "Connectivity {pair}?"
_DESCRIBE = "Describe this scan."
_MOST_TOKENS = 160  # of a description


@dataclass(frozen=True)
class LevelReading:
    """The level of one value of a scan, as the model reads it.

    Attributes
    ----------
    family : str
        One of `FAMILIES`.
    names : tuple of str
        Two networks (one twice for the connectivity within it), a network and a measure, or `WHOLE` and a measure.
    level : str
        The most probable of `BINS`.
    probabilities : tuple of float
        Of each of `BINS`.
    by_numbers : str
        The level by the scan's own numbers.
    """

    family: str
    names: Pair
    level: str
    probabilities: tuple[float, ...]
    by_numbers: str

    @property
    def probability(self) -> float:
        """Of the level that is read."""
        return max(self.probabilities)

    @property
    def is_true(self) -> bool:
        """Whether the level agrees with the numbers."""
        return self.level == self.by_numbers


class TableReader:
    """A model of network pairs that reads value tables.

    Parameters
    ----------
    model : FmriLMForCausalLM
    processor : FmriLMProcessor
        Of any atlas: a table brings its own names.

    Raises
    ------
    ValueError
        If weights of the model depend on its atlas.
    """

    def __init__(self, model: FmriLMForCausalLM, processor: FmriLMProcessor) -> None:
        if not model.config.reads_network_pairs or model.config.reads_rois:
            raise ValueError(
                f"The `scan_tokens` of the model are {model.config.scan_tokens}, expected ['network_pairs'] alone, "
                "which hold values of any names: use `load_bundled_model()`."
            )
        self._model, self._processor = model, processor
        self._adapted: dict[tuple[str, ...], tuple[FmriLMForCausalLM, FmriLMProcessor]] = {}
        self._asked: dict[tuple[int, str, str], Asked] = {}

    def labels(self, names: Sequence[str]) -> dict[str, str]:
        """Return what stands for each name in prompts: a word of the model for networks, or itself if it has none.

        With words, no name can be mistaken for a part of another one or of the question.
        """
        has_words = NETWORK_WORDS[0] in self._processor.tokenizer.get_vocab()
        return dict(zip(names, NETWORK_WORDS if has_words else names))

    def probabilities(self, tables: Sequence[ValueTable], pairs: Sequence[Pair]) -> np.ndarray:
        """Compute the probabilities of the levels of pairs.

        Parameters
        ----------
        tables : sequence of ValueTable
            Of several scans, with the same names, at most `MOST_NAMES`.
        pairs : sequence of (str, str)
            Names of the tables.

        Returns
        -------
        ndarray of shape (n_tables, n_pairs, 5)
            Sums to one over the levels.
        """
        model, processor = self._for(tables[0].names)
        label = self.labels(tables[0].names)
        asked = [self._ask(processor, label[first], label[second]) for first, second in pairs]
        scores = answers_to_questions(model, asked, **self._inputs(tables, processor))
        return torch.stack(scores, dim=1).softmax(-1).cpu().numpy()

    @torch.inference_mode()
    def describe(self, tables: Sequence[ValueTable]) -> list[str]:
        """Let the model describe tables with the same names; names are those of `labels`."""
        model, processor = self._for(tables[0].names)
        prompt, _ = encode_question(processor, _DESCRIBE, ["-"])
        ids = torch.tensor([prompt] * len(tables), device=model.device)
        inputs = {name: values.to(model.device) for name, values in self._inputs(tables, processor).items()}
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=_MOST_TOKENS,
            do_sample=False,
            **inputs,
        )
        return [processor.decode_answer(row) for row in written[:, ids.shape[1] :].cpu()]

    def _for(self, names: Sequence[str]) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
        """Return the model and its processor with the names of a table in place of networks."""
        if len(names) > MOST_NAMES:
            raise ValueError(f"The table has {len(names)} names, expected at most {MOST_NAMES}: read its `parts`.")
        labels = tuple(self.labels(names).values())
        if labels not in self._adapted:
            # Two ROIs each: a network of one has no connectivity within it.
            networks = tuple(label for label in labels for _ in range(2))
            rois = tuple(f"roi_{number}" for number in range(len(networks)))
            self._adapted[labels] = with_atlas(self._model, self._processor, Atlas("table", rois, networks))
        return self._adapted[labels]

    def _ask(self, processor: FmriLMProcessor, first: str, second: str) -> Asked:
        """Encode the question for the level of a pair of labels; kept, since that takes as long as to answer it."""
        key = (processor.n_tokens, first, second)
        if key not in self._asked:
            self._asked[key] = encode_question(processor, _QUESTION.format(pair=pair_words(first, second)), BINS)
        return self._asked[key]

    @staticmethod
    def _inputs(tables: Sequence[ValueTable], processor: FmriLMProcessor) -> dict[str, Tensor]:
        # With ids of names, what is present follows from the features; without, from ROIs, which a table has not.
        ids = pad_name_ids(processor.network_name_ids())
        return {
            "fmri_features": torch.stack([table.features() for table in tables]),
            "network_name_ids": ids.expand(len(tables), -1, -1),
        }


# ----- levels that a query is about -----


def read_levels(
    model: FmriLMForCausalLM | TableReader, processor: FmriLMProcessor | None, measures: ScanMeasures, query: Query
) -> list[LevelReading]:
    """Let the model read the levels of all values that a query is about.

    Parameters
    ----------
    model : FmriLMForCausalLM or TableReader
        A reader keeps what it has prepared for the next query.
    processor : FmriLMProcessor or None
        None with a reader.
    measures : ScanMeasures
    query : Query

    Returns
    -------
    list of LevelReading
        Empty if the scan has no such value.
    """
    reader = as_reader(model, processor)
    readings = []
    for family in families_of(query):
        table = family_table(measures, family)
        wanted = [pair for pair in table.entries if is_asked(query, family, pair)]
        readings += read_table(reader, family, table, wanted)
    return readings


def as_reader(model: FmriLMForCausalLM | TableReader, processor: FmriLMProcessor | None) -> TableReader:
    """Return a reader as it is, or make one of a model and its processor."""
    if isinstance(model, TableReader):
        return model
    if processor is None:
        raise ValueError("Found a model without a processor, expected both, or a `TableReader` alone.")
    return TableReader(model, processor)


def read_table(reader: TableReader, family: str, table: ValueTable, pairs: Iterable[Pair]) -> list[LevelReading]:
    """Let the model read the levels of some entries of a table, in several prompts if it has many names."""
    left = dict.fromkeys(pairs)
    found: dict[Pair, LevelReading] = {}
    for part in table.parts(MOST_NAMES):
        here = [pair for pair in left if pair in part.entries and pair not in found]
        for pair, row in zip(here, reader.probabilities([part], here)[0] if here else ()):
            level = BINS[int(row.argmax())]
            found[pair] = LevelReading(family, pair, level, tuple(row.tolist()), table.entries[pair].level)
    return [found[pair] for pair in left]


def families_of(query: Query) -> tuple[str, ...]:
    """Return the families of measures that a query is about."""
    if query.intent != "describe":
        return (_FAMILY.get(query.intent, "connectivity"),)
    about = query.extra["about"]
    about = "spectral" if about == "ica" and not query.networks else about
    return FAMILIES if query.networks or about == "all" else (about,)


_FAMILY = {"graph": "graph", "gradient": "gradients", "spectral": "spectral"}


def is_asked(query: Query, family: str, pair: Pair) -> bool:
    """Whether a query is about an entry of the table of a family."""
    within = pair[0] == pair[1]
    match query.intent:
        case "describe":
            return not query.networks or query.networks[0] in pair
        case "strongest" | "weakest":
            return query.extra["scope"] in ("any", "within" if within else "between")
        case "rank" | "count":
            return not within
        case "partner":
            return query.networks[0] in pair and not within
        case "graph" | "gradient" | "spectral":
            return pair[1] == _MEASURE.get(query.extra["measure"], query.extra["measure"]) and (
                pair[0] in (query.networks or (pair[0],))
            )
    named = [query.networks[start : start + 2] for start in range(0, len(query.networks), 2)]
    return any(sorted(pair) == sorted((names[0], names[-1])) for names in named)


# measure of a query -> column of the table, where they differ
_MEASURE = {"hub": "node_strength", "ends": POSITION}
