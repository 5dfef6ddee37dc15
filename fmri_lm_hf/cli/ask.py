"""Ask a question about a scan.

SCAN is a table of ROI signals (.tsv, .csv, .npy, .npz), an image (.nii.gz, .dtseries.nii, .func.gii), or the word
`example` for the simulated scan that comes with the package.

The bundled model answers about the connectivity of network pairs: how strong a pair is, which is the strongest or the
weakest, whether one is stronger than another. It declines when given noise. The numbers of the scan follow the answer,
so that you can check it: a pair's connectivity is the mean correlation of its ROIs, in units of the root mean square
(RMS) of all correlations of the scan.

examples:
  fmri-lm ask example "Which network pair is the weakest?"
  fmri-lm ask sub-01_bold.nii.gz "How strong is connectivity between default and occipital?"
  fmri-lm ask sub-01.tsv "Is connectivity within Vis high or low?" --atlas schaefer_100_7networks --t-r 0.72
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..corpus.facts import Fact
    from ..corpus.queries import PairTruth
    from ..models.atlas import Atlas
    from ..models.modeling_fmri_lm import FmriLMForCausalLM
    from ..models.processing_fmri_lm import FmriLMProcessor

EXAMPLE = "example"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm ask`."""
    add_scan_arguments(parser)
    parser.add_argument("question", metavar="QUESTION", help="what to ask, in quotes")


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
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm ask`."""
    from ..corpus.queries import display_text, pair_truth, says_no_scan

    scan = open_scan(args.scan, args.model, args.atlas, args.t_r, args.labels_img)
    answer = scan.answer(args.question)
    text = display_text(answer, scan.network_names)
    pairs: list[PairTruth] = []
    if scan.facts and not says_no_scan(answer):
        present = {frozenset(fact["network"]) for fact in scan.facts}
        named = named_pairs(f"{args.question} {answer}", scan.network_names)
        pairs = [pair_truth(scan.facts, pair) for pair in named if frozenset(pair) in present]
    if args.json:
        print_json(scan, question=args.question, answer=answer, text=text, pairs=[asdict(pair) for pair in pairs])
        return
    print(text)
    if pairs:
        print("\nComputed from the scan, in units of its RMS correlation:")
        for pair in pairs:
            print(f"  {pair_label(pair):<40} {pair.value:>6.2f}  {pair.bin} ({rank_label(pair)})")
    elif scan.facts and not says_no_scan(answer):
        names = ", ".join(scan.network_names)
        print(f"\nNot checked: neither question nor answer names two networks of the atlas ({names}).")
    print(f"\n{scan.source}")


@dataclass(frozen=True)
class OpenScan:
    """One scan, and the model that answers questions about it.

    Attributes
    ----------
    model, processor
    inputs : dict of torch.Tensor
        The scan, from the processor.
    facts : list of fact
        `corpus.queries.scan_facts`; empty if the model's atlas is unknown.
    name : str
        Name of the file.
    is_simulated : bool
    source : str
        A line for the user: the scan and the atlas.
    """

    model: FmriLMForCausalLM
    processor: FmriLMProcessor
    inputs: dict[str, torch.Tensor]
    facts: list[Fact]
    name: str
    is_simulated: bool
    source: str

    @property
    def atlas(self) -> Atlas | None:
        return self.processor.feature_extractor.atlas

    @property
    def network_names(self) -> tuple[str, ...]:
        return () if self.atlas is None else self.atlas.network_names

    def answer(self, question: str) -> str:
        """Answer a question in the model's own words, by greedy decoding: the same question has the same answer."""
        import torch

        from ..models.answers import encode_question

        prompt, _ = encode_question(self.processor, question, ["-"])  # the prompt alone; it needs some answer
        ids = torch.tensor([prompt], device=self.model.device)
        generated = self.model.generate(ids, **self.inputs, max_new_tokens=160, do_sample=False)
        return self.processor.decode_answer(generated[0, len(prompt) :]).strip()


def open_scan(
    scan: str,
    model_name: str | None = None,
    atlas_name: str | None = None,
    t_r: float | None = None,
    labels_img: Path | None = None,
) -> OpenScan:
    """Load a model and read a scan for it.

    Parameters
    ----------
    scan : str
        A path, or ``example``.
    model_name : str, optional
        Folder or Hub id; the bundled model when None.
    atlas_name : str, optional
        Atlas of the scan, as for `find_atlas`. When None, the networks that the ROI names of a table state, else the
        model's atlas.
    t_r : float, optional
        Repetition time in seconds.
    labels_img : Path, optional
        Label image of the atlas.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoProcessor
    from transformers.utils import logging

    from ..bundled import example_scan, load_bundled_model, with_atlas
    from ..models.scan_errors import ScanError

    path = example_scan() if scan == EXAMPLE else Path(scan)
    if not path.exists():
        raise ScanError(f"The scan {scan} does not exist: check the path, or try `example`.")
    is_image = path.name.endswith((".nii", ".nii.gz", ".gii"))
    if is_image or model_name is not None:
        print(f"Reading {path.name} ...", file=sys.stderr)  # it can take a while

    logging.disable_progress_bar()  # of the weights: an answer is what the user waits for
    if model_name is None:
        # So small a model is slower with threads: they wait for each other, busily, for longer than they compute.
        torch.set_num_threads(1)
        model, processor = load_bundled_model()
    else:
        model = AutoModelForCausalLM.from_pretrained(model_name).eval()
        processor = AutoProcessor.from_pretrained(model_name)
    own_atlas = processor.feature_extractor.atlas
    atlas = find_atlas(atlas_name, labels_img)
    if atlas is None and own_atlas is not None and not is_image:
        atlas = atlas_of_table(path, own_atlas)
    if atlas is not None and atlas != own_atlas:
        model, processor = with_atlas(model, processor, atlas)
    try:
        inputs = dict(processor(fmri=[path], t_r=t_r))
    except ScanError as error:
        if atlas_name or "atlas" not in str(error):
            raise
        raise ScanError(
            f"{error} If the scan is of another atlas, name it: `--atlas schaefer_100_7networks`, for example, or "
            "`--atlas FILE.json`."
        ) from error

    used = processor.feature_extractor.atlas
    source = f"Scan: {path.name}{' (simulated)' if scan == EXAMPLE else ''}."
    if used is not None:
        n_networks = len(used.network_names)
        origin = "given" if atlas_name else "from the ROI names" if atlas else "assumed; use --atlas for another"
        source += f" Atlas: {used.name}, {used.n_rois} ROIs in {n_networks} networks ({origin})."
    return OpenScan(model, processor, inputs, _facts(used, inputs), path.name, scan == EXAMPLE, source)


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


def atlas_of_table(path: Path, expected: Atlas) -> Atlas | None:
    """The atlas that the ROI names of a table state: `expected`, or one of the networks in the names; None without."""
    from ..models.atlas import Atlas
    from ..models.scan_files import table_names

    _, names = table_names(path)
    if names is None:
        return None
    if set(names) == set(expected.roi_names):
        return expected
    atlas = Atlas.from_names(names, path.name.partition(".")[0])
    return atlas if atlas.named_networks == atlas.network_names else None


def _facts(atlas: Atlas | None, inputs: dict[str, torch.Tensor]) -> list[Fact]:
    """Compute the facts of the scan's own correlations, which the model's words are compared with."""
    import torch

    from ..corpus.queries import scan_facts
    from ..models.network_pairs import network_pair_values

    if atlas is None:
        return []
    names = atlas.network_names
    values, present, _ = network_pair_values(
        inputs["input_values"],
        inputs["roi_mask"],
        inputs["padding_mask"],
        torch.tensor([names.index(name) for name in atlas.networks]),
        len(names),
    )
    return scan_facts(values[0].tolist(), present[0].tolist(), names)


def named_pairs(text: str, network_names: Sequence[str]) -> list[tuple[str, str]]:
    """Find the network pairs that a text names, once each: ``between A and B``, or ``within A`` for (A, A)."""
    if not network_names:
        return []
    spelling = {name.lower(): name for name in network_names}
    # Longest first, since "default mode" begins with "default"; and not by `\\b`, which finds no border behind the
    # last character of "fronto-parietal (L)".
    names = "|".join(re.escape(name) for name in sorted(network_names, key=len, reverse=True))
    mention = rf"(?P<within>\b(?:within|inside)\s+(?:the\s+)?)?(?<!\w)(?P<name>{names})(?!\w)"
    # "within" makes a pair of one name; all other names are taken two by two, in the order of the text
    pairs: list[tuple[str, str]] = []
    first = None
    for found in re.finditer(mention, text, re.IGNORECASE):
        name = spelling[found["name"].lower()]
        if found["within"]:
            pairs.append((name, name))
        elif first is None:
            first = name
        else:
            pairs.append((first, name))
            first = None
    once = {frozenset(pair): pair for pair in reversed(pairs)}
    return list(reversed(once.values()))


def pair_label(pair: PairTruth) -> str:
    """Write a pair as ``A - B``, or ``within A``."""
    first, second = pair.networks
    return f"within {first}" if first == second else f"{first} - {second}"


def rank_label(pair: PairTruth) -> str:
    """Write the rank of a pair by magnitude: ``strongest of 15``, ``2nd strongest of 15``."""
    if pair.rank in (1, pair.n_pairs) and pair.n_pairs > 1:
        return f"{'strongest' if pair.rank == 1 else 'weakest'} of {pair.n_pairs}"
    ending = "th" if pair.rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(pair.rank % 10, "th")
    return f"{pair.rank}{ending} strongest of {pair.n_pairs}"


def print_json(scan: OpenScan, **record: Any) -> None:
    """Print a record with the atlas of the scan, and whether the scan is simulated."""
    shared = {"atlas": None if scan.atlas is None else scan.atlas.name, "simulated": scan.is_simulated}
    print(json.dumps(record | shared, indent=1, ensure_ascii=False))
