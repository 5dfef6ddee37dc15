"""One scan on the command line, for `fmri-lm ask` and `fmri-lm describe`: its file, its atlas and its numbers.

The language model is loaded by `load_model` only: the numbers of a scan need neither it nor torch.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.atlas import Atlas
    from ..models.feature_extraction_fmri import FmriFeatureExtractor
    from ..models.modeling_fmri_lm import FmriLMForCausalLM
    from ..models.processing_fmri_lm import FmriLMProcessor
    from ..questions.answering import QuestionAnswerer
    from ..questions.labels import RecordedLabels
    from ..questions.statements import Statement

EXAMPLE = "example"
DECLINED = 3  # exit code
WIDTH = 110  # of a line of text


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `ask` and `describe` share."""
    parser.add_argument("scan", metavar="SCAN", help="table or image of one scan, or `example`")
    parser.add_argument("--model", metavar="MODEL", help="model folder or Hub id (default: the bundled model)")
    parser.add_argument(
        "--atlas",
        metavar="ATLAS",
        help="atlas of the scan: a name such as schaefer_100_7networks, an atlas JSON file or a label image "
        "(default: the networks that the ROI names of a table state, else the model's atlas)",
    )
    parser.add_argument("--labels-img", type=Path, metavar="IMAGE", help="label image of an atlas JSON file")
    parser.add_argument("--t-r", type=float, metavar="SECONDS", help="repetition time, if the scan does not state it")
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help='JSON of further names of networks, such as {"default": ["idle net"]}',
    )
    parser.add_argument(
        "--read",
        choices=("numbers", "model"),
        default="numbers",
        help="what reads the scan: its own numbers alone, or the language model, checked against them "
        "(default: numbers)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


@dataclass(frozen=True)
class OpenScan:
    """One scan as a model reads it.

    Attributes
    ----------
    extractor : FmriFeatureExtractor
    row : dict
        `bold` (n_timepoints, n_rois), `t_r` and masks, as recorded.
    name : str
        Name of the file.
    is_simulated : bool
    source : str
        A line for the user: the scan and the atlas.
    reason : str or None
        Why the scan is not readable.
    names : dict
        Further names of networks.
    """

    extractor: FmriFeatureExtractor
    row: dict[str, Any]
    name: str
    is_simulated: bool
    source: str
    reason: str | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def atlas(self) -> Atlas:
        assert self.extractor.atlas is not None  # `open_scan` refuses that
        return self.extractor.atlas

    def answerer(self, understand: str = "bundled", **options: Any) -> QuestionAnswerer:
        """Make what answers questions about the scan; options are those of `QuestionAnswerer`."""
        from ..questions.answering import QuestionAnswerer
        from ..questions.numpy_reader import question_reader

        return QuestionAnswerer(self.atlas, question_reader(understand), self.names, **options)


def open_scan(args: argparse.Namespace) -> OpenScan:
    """Read the scan that the arguments of `add_scan_arguments` name."""
    path, names = find_scan(args.scan), read_names(args.names)  # before anything that takes seconds
    is_image = path.name.endswith((".nii", ".nii.gz", ".gii"))
    if is_image or args.model is not None:
        print(f"Reading {path.name} ...", file=sys.stderr)  # it can take a while
    extractor = load_extractor(args.model)
    model_atlas = extractor.atlas
    atlas = find_atlas(args.atlas, args.labels_img)
    if atlas is None and not is_image:
        atlas = atlas_of_table(path, model_atlas)
    if atlas is not None and atlas != model_atlas:
        extractor = with_other_atlas(extractor, atlas)
    if extractor.atlas is None:
        from ..models.scan_errors import ScanError

        raise ScanError("The model has no atlas, so it knows no network by name: give the scan's with --atlas.")
    row, reason = read_row(extractor, path, args.t_r, named=args.atlas is not None)
    origin = "given" if args.atlas else "from the ROI names" if atlas else "assumed; use --atlas for another"
    source = (
        f"Scan: {path.name}{' (simulated)' if args.scan == EXAMPLE else ''}. {atlas_line(extractor.atlas, origin)}"
    )
    return OpenScan(extractor, row, path.name, args.scan == EXAMPLE, source, reason, names)


def find_scan(scan: str) -> Path:
    """Return the path of a scan, or of the example.

    Raises
    ------
    OSError
        If there is no such file.
    """
    if scan == EXAMPLE:
        from ..bundled import example_scan

        return example_scan()
    if not Path(scan).exists():
        raise OSError(f"The scan {scan} does not exist: check the path, or try `example`.")
    return Path(scan)


def read_names(file: Path | None) -> dict[str, list[str]]:
    """Read further names of networks; none without a file."""
    if file is None:
        return {}
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OSError(f"The file of names {file} does not exist: check the path of --names.") from None
    except ValueError as error:
        raise ValueError(f'{file} is not JSON such as {{"default": ["idle net"]}}: {error}.') from error
    if not isinstance(names, dict):
        raise ValueError(f'{file} holds a {type(names).__name__}, expected names such as {{"default": ["idle net"]}}.')
    return names


def load_extractor(model_name: str | None) -> FmriFeatureExtractor:
    """Load what reads scans for a model; for the bundled one without a name."""
    from ..bundled import WEIGHTS
    from ..models.feature_extraction_fmri import FmriFeatureExtractor

    return FmriFeatureExtractor.from_pretrained(WEIGHTS if model_name is None else model_name)


def with_other_atlas(extractor: FmriFeatureExtractor, atlas: Atlas) -> FmriFeatureExtractor:
    """Make an extractor of another atlas that prepares scans alike."""
    return type(extractor)(
        atlas, n_timepoints=extractor.n_timepoints, t_r=extractor.t_r, min_timepoints=extractor.min_timepoints
    )


def read_row(
    extractor: FmriFeatureExtractor, path: Path, t_r: float | None, named: bool
) -> tuple[dict[str, Any], str | None]:
    """Read a scan, and say why it is not readable.

    An error about its atlas says how to name another one, unless one was `named`.
    """
    from ..models.abstention import read_or_decline
    from ..models.scan_errors import ScanError

    try:
        return read_or_decline(extractor, path, t_r)
    except ScanError as error:
        if named or "atlas" not in str(error):
            raise
        raise ScanError(
            f"{error} If the scan is of another atlas, name it: `--atlas schaefer_100_7networks`, for example, or "
            "`--atlas FILE.json`."
        ) from error


def find_atlas(name: str | None, labels_img: Path | None = None) -> Atlas | None:
    """Load an atlas by its name, from an atlas JSON file, or from a label image with its own names; None for None."""
    from ..models.atlas import Atlas
    from ..models.image_files import both_hemispheres
    from ..models.scan_errors import ScanError

    if name is None:
        if labels_img is not None:
            raise ScanError("--labels-img belongs to an atlas JSON file: give that with --atlas.")
        return None
    if name.endswith(".json"):
        return Atlas.from_json(name, labels_img)
    if name.endswith((".nii", ".nii.gz", ".gii")):
        file_name = both_hemispheres(name)[0] if name.endswith(".gii") else Path(name).name
        return Atlas.from_labels_img(name, name=re.sub(r"(\.dlabel)?\.nii(\.gz)?$|(\.label)?\.gii$", "", file_name))
    atlas = Atlas.load(name)
    return atlas if labels_img is None else atlas.with_labels_img(labels_img)


def atlas_of_table(path: Path, expected: Atlas | None) -> Atlas | None:
    """The atlas that the ROI names of a table state: `expected`, or one of the networks in the names; None without."""
    from ..models.atlas import Atlas
    from ..models.scan_files import table_names

    _, names = table_names(path)
    if names is None:
        return None
    if expected is not None and set(names) == set(expected.roi_names):
        return expected
    atlas = Atlas.from_names(names, path.name.partition(".")[0])
    return atlas if atlas.named_networks == atlas.network_names else None


def atlas_line(atlas: Atlas, origin: str) -> str:
    """Say which atlas is used."""
    return f"Atlas: {atlas.name}, {atlas.n_rois} ROIs in {len(atlas.network_names)} networks ({origin})."


# ----- the language model -----


def reading_options(scan: OpenScan, args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `OpenScan.answerer` that let a language model read the scan, with ``--read model``."""
    if args.read == "numbers":
        return {}
    from ..questions.reading import TableReader, read_levels

    return {"levels": partial(read_levels, TableReader(*load_model(scan, args.model)), None)}


def model_labels(scan: OpenScan, model_name: str | None) -> RecordedLabels | None:
    """Return the labels that a model was trained on, if it records any; the model is loaded when one is asked for."""
    if model_name is None:  # the bundled model was trained on no labels
        return None
    from transformers import AutoConfig, AutoProcessor

    from ..models.abstention import recorded_answers
    from ..questions.labels import RecordedLabels
    from ..registration import register_models

    register_models()
    model_like = SimpleNamespace(config=AutoConfig.from_pretrained(model_name))
    recorded = recorded_answers(model_like, AutoProcessor.from_pretrained(model_name))
    if not recorded:
        return None

    def scores(row: Mapping[str, Any], question: str, answers: Sequence[str]) -> list[float]:
        from ..pipelines import label_scores

        return label_scores(*load_model(scan, model_name), row, question, answers)

    return RecordedLabels(recorded, scores)


def load_model(scan: OpenScan, model_name: str | None = None) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Load a language model, the bundled one without a name, for the atlas of a scan."""
    import torch
    from transformers import AutoModelForCausalLM, AutoProcessor
    from transformers.utils import logging

    from ..bundled import load_bundled_model, with_atlas
    from ..registration import register_models

    register_models()
    logging.disable_progress_bar()  # of the weights: an answer is what the user waits for
    if model_name is None:
        # So small a model is slower with threads: they wait for each other, busily, for longer than they compute.
        torch.set_num_threads(1)
        model, processor = load_bundled_model()
    else:
        model = AutoModelForCausalLM.from_pretrained(model_name).eval()
        processor = AutoProcessor.from_pretrained(model_name)
    if scan.atlas != processor.feature_extractor.atlas:
        model, processor = with_atlas(model, processor, scan.atlas)
    return model, processor


def generate(scan: OpenScan, model: FmriLMForCausalLM, processor: FmriLMProcessor, question: str) -> str:
    """Answer in the model's own words, by greedy decoding: the same question has the same answer."""
    import torch

    from ..models.answers import encode_question

    prompt, _ = encode_question(processor, question, ["-"])  # the prompt alone; it needs some answer
    ids = torch.tensor([prompt], device=model.device)
    inputs = dict(processor(fmri=[scan.row]))
    generated = model.generate(ids, **inputs, max_new_tokens=160, do_sample=False)
    return processor.decode_answer(generated[0, len(prompt) :]).strip()


# ----- output -----


def print_json(scan: OpenScan, **record: Any) -> None:
    """Print a record with the atlas of the scan, and whether the scan is simulated."""
    shared = {"atlas": scan.atlas.name, "simulated": scan.is_simulated}
    print(json.dumps(record | shared, indent=1, ensure_ascii=False))


def table_lines(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Align the cells of rows in columns; those numbered in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def evidence_table(evidence: Sequence[Statement]) -> list[str]:
    """Align what statements are about with value, units and level, and say what these are relative to."""
    from ..questions.statements import number

    rows = [("about", "value", "units", "level", "relative to")]
    rows += [(about(one), number(one.value), one.units, one.level or "", one.relative_to) for one in evidence]
    references = {one.relative_to for one in evidence}
    if len(references) == 1:
        lines = [*table_lines([row[:-1] for row in rows], right=(1,)), f"relative to {references.pop()}"]
    else:
        lines = table_lines(rows, right=(1,))
    return [f"  {line}" for line in lines]


def about(statement: Statement) -> str:
    """Say what the value of a statement is of: a network, a pair of networks, two pairs, or the scan."""
    names = statement.networks
    if len(names) == 4:
        return f"{_pair(*names[:2])} against {_pair(*names[2:])}"
    return _pair(*names) if len(names) == 2 else ", ".join(names) or "scan"


def _pair(first: str, second: str) -> str:
    return f"within {first}" if first == second else f"{first} - {second}"


def wrapped(text: str) -> list[str]:
    """Break a text into lines, not inside a name such as fronto-parietal."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
