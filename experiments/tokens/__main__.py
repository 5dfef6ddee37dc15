"""Report on the tokens of a tokenizer: codes in use, reconstruction, stability, predictability, retrieval.

  python -m experiments.tokens report output/tokenizer --scans my_scans --labels sex diagnosis --out tokens
  python -m experiments.tokens report output/tokenizer --scans my_scans --holdout-site B --corpus my_corpus \\
      --text-model bundled --out tokens

Into --out go report.json, report.html and the table that is printed:

  codes           share of the codes in use and their perplexity, by quantizer stage
  reconstruction  unexplained variance; correlation of the connectivity and co-skewness of scans and reconstructions
  stability       subject identification and ICC, from another scan or between split halves (as long, shorter, or
                  measured half as often)
  probes          how well site and motion (which tokens should not carry) and phenotypes are predicted from tokens
  retrieval       scan to text and text to scan, with --corpus and --text-model as in training

Each measure is taken of the tokens, of the vectors of their codes, and of plain connectivity.

With --holdout-site, the scans of that site are measured and probes are trained on the other sites. Without it, all
scans are measured and probes are cross-validated by subject. The tokenizer itself is not trained; the report counts
the scans that it was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments import run_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    report = actions.add_parser(
        "report",
        help="measure a tokenizer on scans",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hub id of a tokenizer (stage 1)")
    report.add_argument("--scans", required=True, help="scan dataset: a folder, a Parquet file, or a Hub id")
    report.add_argument("--out", type=Path, required=True, help="folder of the report")
    report.add_argument(
        "--labels", nargs="+", default=[], metavar="COLUMN", help="columns to predict, besides sex and age"
    )
    report.add_argument("--holdout-site", metavar="SITE", help="measure the scans of this site")
    report.add_argument("--seed", type=int, default=0, help="of folds, draws and the bootstrap (default: 0)")
    texts = report.add_argument_group("retrieval, with the texts of the training")
    texts.add_argument("--corpus", help="fMRI-text pairs about the scans: a folder or Hub id")
    texts.add_argument("--text-model", help="language model that embeds the texts, as in training")
    texts.add_argument("--corpus-config", metavar="NAME", help="configuration of the corpus (default: all)")
    texts.add_argument("--text-length", default="sentence", help="length of the texts (default: sentence)")


def run(args: argparse.Namespace) -> None:
    """Write the report and print its table."""
    from transformers import AutoFeatureExtractor

    from experiments.tokens.report import tokens_report, tokens_table, write_tokens_page
    from fmri_lm_hf.declarations import is_declared
    from fmri_lm_hf.files import write_json
    from fmri_lm_hf.hub.download import dataset_folder, fetched_commits
    from fmri_lm_hf.models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
    from fmri_lm_hf.scans.dataset import load_scan_dataset, read_provenance
    from fmri_lm_hf.training.backbone import load_backbone
    from fmri_lm_hf.training.texts import CorpusTexts
    from fmri_lm_hf.training.tokenizer import embed_descriptions

    if (args.corpus is None) != (args.text_model is None):
        missing = "--corpus" if args.corpus is None else "--text-model"
        raise ValueError(f"{missing} is missing: give both --corpus and --text-model for retrieval, or neither.")
    folder = dataset_folder(args.scans)
    scans, _ = load_scan_dataset(folder)
    model = FmriTokenizerForPreTraining.from_pretrained(args.checkpoint)
    extractor = AutoFeatureExtractor.from_pretrained(args.checkpoint)
    texts = None
    if args.corpus is not None:
        corpus = CorpusTexts(args.corpus, args.corpus_config, [args.text_length])
        backbone, scan_ids = load_backbone(args.text_model), sorted(corpus.scan_ids)
        tokenizer = backbone.tokenizer_of(extractor.atlas)
        embeddings = embed_descriptions(corpus, scan_ids, backbone.language_model.eval(), tokenizer)
        texts = dict(zip(scan_ids, embeddings))
    report = tokens_report(model, extractor, scans, args.labels, args.holdout_site, texts, args.seed)
    records = (model.record_of_weights(), read_provenance(Path(folder)))
    report["simulated"] = any(is_declared(record or {}, "simulated") for record in records)
    report["commits"] = fetched_commits([args.checkpoint, args.scans])
    write_json(report, args.out / "report.json")
    write_tokens_page(args.out / "report.html", report)
    print(tokens_table(report))
    print(f"\nPage: {args.out / 'report.html'}")


if __name__ == "__main__":
    run_command("python -m experiments.tokens", __doc__, add_arguments, run)
