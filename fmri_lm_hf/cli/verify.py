"""Compare the downloaded files of a repository with the checksums that the Hub lists.

The Hub's client accepts any download of the right size, so damage by a disk, proxy or cache can go unnoticed.
This command compares every file with the sha256 (large files) or git sha1 (others) of the repository, prints the
commit, and ends with exit code 1 when a file differs. Missing files are downloaded first.

examples:
  fmri-lm verify my-lab/fmri-lm-small
  fmri-lm verify my-lab/fmri-lm-small --revision v1.0 --repair
  fmri-lm verify my-lab/rest-pairs --dataset
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm verify`."""
    parser.add_argument("repo_id", metavar="org/name", help="repository")
    parser.add_argument("--revision", help="branch, tag or commit (default: main, as it was downloaded)")
    parser.add_argument("--dataset", action="store_true", help="the repository is a dataset")
    parser.add_argument("--repair", action="store_true", help="download damaged files again")


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm verify`; return 1 if a file is damaged."""
    from ..hub import verify_download

    result = verify_download(
        args.repo_id,
        revision=args.revision,
        repo_type="dataset" if args.dataset else "model",
        repair=args.repair,
    )
    print(f"{result.repo_id} at commit {result.commit}: {len(result.verified)} files match the checksums of the Hub")
    for name in result.repaired:
        print(f"repaired: {name}")
    if result.fetched:
        print(f"downloaded now: {', '.join(result.fetched)}")
    for name in result.damaged:
        print(f"DAMAGED: {name}")
    if result.damaged:
        print("Download the damaged files again with --repair before you use this repository.")
    return 1 if result.damaged else 0
