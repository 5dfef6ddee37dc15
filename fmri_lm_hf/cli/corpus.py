"""Turn a scan dataset into a dataset of fMRI-text pairs, ready for `load_dataset` and for the Hub.

Each scan is described by 23 measures in four families (connectivity, gradients, graph, ica), compared with the
training subjects, and put into words. Every text comes with the facts that it states, as JSON. The corpus has a
config for each family, the config `all`, splits by subject, and a dataset card.

examples:
  fmri-lm corpus build scans/ --out corpus/
      all families and lengths, in one process

  fmri-lm corpus build scans/ --out corpus/ --workers 8 --holdout-site B --group-by family_id
      eight processes; subjects of site B are in the test split, and families stay together

  fmri-lm corpus build scans/ --out corpus/ --scheduler tcp://node01:8786
      on a Dask cluster, such as dask-jobqueue starts on Slurm; its workers must see the same folders

  fmri-lm push corpus/ my-organisation/my-corpus
      publish it

An interrupted build continues when the same command is given again; other options are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm corpus`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="describe every scan of a scan dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = build.add_argument
    add("scans", type=Path, help="scan dataset: a folder that `fmri-lm scans` made, or Parquet")
    add("--out", type=Path, required=True, help="folder of the corpus")
    add("--atlas", type=Path, help="atlas JSON (default: atlas.json next to the scans)")
    add(
        "--networks",
        type=Path,
        metavar="TABLE",
        help="CSV or TSV with columns name and network, for an atlas without networks, or to replace them",
    )

    add = build.add_argument_group("texts").add_argument
    add(
        "--families",
        nargs="+",
        default=["connectivity", "gradients", "graph", "ica"],
        metavar="FAMILY",
        help="descriptors: connectivity, gradients, graph, ica (default: all)",
    )
    add(
        "--lengths",
        nargs="+",
        default=["sentence", "paragraph", "full"],
        metavar="LENGTH",
        help="texts of each scan: sentence, paragraph, full (default: all)",
    )
    add("--wordings", type=int, default=1, help="texts of each length, in different words (default: 1)")
    add(
        "--describe",
        nargs="*",
        metavar="COLUMN",
        help="columns that `subject_description` states (default: age, sex, handedness, education_years and diagnosis, "
        "where the scans have them; without a value: none)",
    )
    add("--components", type=int, default=20, help="components of the group ICA (default: 20)")
    add("--seed", type=int, default=0, help="seed of splits, ICA and wordings (default: 0)")

    add = build.add_argument_group("splits (always by subject)").add_argument
    add(
        "--fractions",
        nargs=3,
        type=float,
        default=[0.8, 0.1, 0.1],
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the subjects (default: 0.8 0.1 0.1)",
    )
    add("--group-by", metavar="COLUMN", help="keep subjects together, such as by family_id or site")
    add("--holdout-site", nargs="+", default=[], metavar="SITE", help="sites whose subjects are all in the test split")
    add("--splits", type=Path, metavar="FILE", help="use the splits.json of another corpus")

    add = build.add_argument_group("card").add_argument
    add("--scan-dataset", metavar="ORG/NAME", help="Hub repository of the scans, for links")
    add("--license", help="license of the corpus, such as cc-by-4.0 (default: to be filled in)")
    add("--controlled", action="store_true", help="the scans have a data-use agreement: pushing asks for confirmation")
    add("--simulated", action="store_true", help="the scans are simulated; the card says so")

    add = build.add_argument_group("execution").add_argument
    add("--workers", type=int, default=1, help="processes on this machine (default: 1)")
    add("--scheduler", metavar="ADDRESS", help="Dask scheduler to run on, such as tcp://node01:8786")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm corpus build`."""
    from ..corpus.build import CorpusConfig, build_corpus
    from ..models.atlas import Atlas
    from ..scans.splits import SplitManifest

    config = CorpusConfig(
        families=args.families,
        lengths=args.lengths,
        wordings=args.wordings,
        fractions=args.fractions,
        group_by=args.group_by,
        holdout_sites=args.holdout_site,
        splits=None if args.splits is None else SplitManifest.from_json(args.splits).subjects,
        describe=args.describe,
        n_components=args.components,
        seed=args.seed,
        scan_dataset=args.scan_dataset,
        license=args.license,
        controlled=args.controlled,
        simulated=args.simulated,
    )
    atlas = None if args.atlas is None else Atlas.from_json(args.atlas)
    if args.networks is not None:
        folder = args.scans if args.scans.is_dir() else args.scans.parent
        atlas = (atlas or Atlas.from_json(folder / "atlas.json")).with_networks(args.networks)
    progress = not args.quiet
    summary = build_corpus(args.scans, args.out, config, atlas, args.workers, args.scheduler, progress)
    print(f"{summary.n_scans:,} scans of {summary.n_subjects:,} subjects described in {args.out}")
    for name, counts in summary.rows.items():
        print(f"  {name:<14}" + "  ".join(f"{split} {count:,}" for split, count in counts.items()))
    if summary.failures:
        print(f"{len(summary.failures):,} scans could not be described (see {args.out / 'failures.json'}):")
        for failure in summary.failures[:10]:
            print(f"  {failure['scan_id']}: {failure['reason']}")
    for warning in summary.warnings:
        print(f"Caution: {warning}")
    print(f'Load it with load_dataset("{args.out}"), publish it with: fmri-lm push {args.out} ORG/NAME')
