"""Report on the tokens of a tokenizer: how its codes are used, what they keep of scans, what can be read from them.

  fmri-lm tokens report output/tokenizer --scans my_scans --labels sex diagnosis --out tokens
  fmri-lm tokens report output/tokenizer --scans my_scans --holdout-site B --corpus my_corpus --text-model reader \\
      --out tokens

Into --out go report.json, report.html and the table that is printed: codes in use and their perplexity at every
level; reconstruction, and how much of connectivity and co-skewness survives it; whether the tokens of a person's other
scan, or of the other half of a scan (as long, shorter, or measured half as often), are nearer than those of other
people; how well site and motion (which should not be there) and phenotypes can be predicted; and, with --corpus and
--text-model as in training, whether a scan finds its description, and the other way round. Beside every number that
vectors of tokens give stands what vectors of their codes give, and what plain connectivity gives.

With --holdout-site the scans of that site are measured, and probes are trained on the others; else all scans are
measured, and probes are cross-validated by subject. Nothing of the tokenizer is trained here. Scans that it was trained
on are counted, and said.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm tokens`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    report = actions.add_parser(
        "report",
        help="measure a tokenizer on scans",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hub id of a tokenizer (stage 1)")
    report.add_argument("--scans", required=True, help="scan dataset: a folder, Parquet, or on the Hub")
    report.add_argument("--out", type=Path, required=True, help="folder of the report")
    report.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns of classes to predict, beside sex and age",
    )
    report.add_argument("--holdout-site", metavar="SITE", help="measure the scans of this site")
    texts = report.add_argument_group("retrieval, with the texts of the training")
    texts.add_argument("--corpus", help="fMRI-text pairs about the scans: a folder or Hub id")
    texts.add_argument("--text-model", help="language model that embeds them, as in training")
    texts.add_argument(
        "--corpus-config", default=None, metavar="NAME", help="configuration of the corpus (default: all)"
    )
    texts.add_argument("--text-length", default="sentence", help="which of its texts (default: sentence)")
    report.add_argument(
        "--seed", type=int, default=0, help="seed of folds, draws and the bootstrap (default: 0)"
    )


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm tokens report`."""
    from transformers import AutoFeatureExtractor

    from experiments.tokens import tokens_report
    from experiments.tokens_page import tokens_table, write_tokens_page
    from fmri_lm_hf.declarations import is_declared
    from fmri_lm_hf.files import write_json
    from fmri_lm_hf.hub.download import dataset_folder, fetched_commits
    from fmri_lm_hf.models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
    from fmri_lm_hf.scans.dataset import load_scan_dataset, read_provenance
    from fmri_lm_hf.training.backbone import load_backbone
    from fmri_lm_hf.training.texts import CorpusTexts
    from fmri_lm_hf.training.tokenizer import embed_descriptions

    if (args.corpus is None) != (args.text_model is None):
        raise ValueError("Retrieval needs both --corpus and --text-model: give the other one, or neither.")
    folder = dataset_folder(args.scans)
    scans, _ = load_scan_dataset(folder)
    model = FmriTokenizerForPreTraining.from_pretrained(args.checkpoint)
    extractor = AutoFeatureExtractor.from_pretrained(args.checkpoint)
    texts = None
    if args.corpus is not None:
        corpus = CorpusTexts(args.corpus, args.corpus_config, [args.text_length])
        backbone, names = load_backbone(args.text_model), sorted(corpus.scan_ids)
        embeds = embed_descriptions(
            corpus, names, backbone.language_model.eval(), backbone.tokenizer_of(extractor.atlas)
        )
        texts = dict(zip(names, embeds))
    report = tokens_report(model, extractor, scans, args.labels, args.holdout_site, texts, args.seed)
    records = (model.record_of_weights(), read_provenance(Path(folder)))
    report["simulated"] = any(is_declared(record or {}, "simulated") for record in records)
    report["commits"] = fetched_commits([args.checkpoint, args.scans])
    write_json(report, args.out / "report.json")
    write_tokens_page(args.out / "report.html", report)
    print(tokens_table(report))
    print(f"\nPictures: {args.out / 'report.html'}")
