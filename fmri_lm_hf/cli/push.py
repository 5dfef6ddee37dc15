"""Publish a folder on the Hugging Face Hub: a fMRI tokenizer, a language model with its processor, a LoRA adapter,
a processor, or a dataset of scans or of fMRI-text pairs. What it is shows in the files.

The push is one commit, and can be repeated at any time: what is on the Hub already is not sent again, and a push
that was cut off is completed. The model card is written from what was measured (`training_info.json`,
`results.json`); what you write into it, here or on the Hub, stays.

Only the files that belong to such a repository are sent; others are listed as left out. Nothing is sent when the
folder is incomplete, holds pickles or code of others, or holds anything private: tokens, local paths, your user name.
What others have put into the repository stays; files that the new ones replace are listed as deleted.

Scan-level data of a cohort declared as controlled (`controlled: true` in the metadata of its card, or in a JSON file
beside the data) is only sent with --confirm-controlled, to a repository that is private or asks for access. Rows that
were loaded on their own carry the declaration if the scans were made with `fmri-lm scans --controlled`; on scans that
are there, that command brings it in. A converted checkpoint is only sent with --license, since its owner states none.

You need a token with write access: `hf auth login`, or the environment variable HF_TOKEN.

examples:
  fmri-lm push demo_output/model my-lab/fmri-lm-small
  fmri-lm push demo_output/model my-lab/fmri-lm-small --private --revision run-2
  fmri-lm push lora/ my-lab/fmri-lm-small-adhd --base-model my-lab/fmri-lm-small
  fmri-lm push corpus/ my-lab/rest-pairs
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fmri-lm push`."""
    parser.add_argument("folder", help="what `save_pretrained`, `save_to_disk` or `fmri-lm corpus` wrote")
    parser.add_argument(
        "repo_id",
        metavar="org/name",
        help="the repository (name: one of your own); created when there is none",
    )
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument(
        "--revision", help="branch to push to (default: main; created when there is none), or refs/pr/N"
    )
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--message", help="the commit message")
    parser.add_argument("--description", help="the description of the commit, or of the pull request")
    parser.add_argument("--tags", nargs="+", help="further tags of the card")
    parser.add_argument(
        "--license", help="for the card, as the Hub names it (cc-by-4.0); a converted checkpoint needs one"
    )
    parser.add_argument(
        "--base-model", metavar="org/name", help="of an adapter: the repository of its base model"
    )
    parser.add_argument("--max-shard-size", default="2GB", help="largest Parquet file (default: %(default)s)")
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="publish a model without its processor, as a part"
    )
    parser.add_argument(
        "--confirm-controlled",
        action="store_true",
        help="you have the right to publish scan-level data of this controlled cohort",
    )


def run(args: argparse.Namespace) -> None:
    """Push, and print the commit."""
    from ..hub import push_to_hub

    result = push_to_hub(
        args.folder,
        args.repo_id,
        private=args.private or None,
        revision=args.revision,
        create_pr=args.create_pr,
        commit_message=args.message,
        commit_description=args.description,
        tags=args.tags,
        license=args.license,
        base_model=args.base_model,
        max_shard_size=args.max_shard_size,
        allow_incomplete=args.allow_incomplete,
        confirm_controlled=args.confirm_controlled,
    )
    if result.left_out:
        print(f"left out: {', '.join(result.left_out)}")
    if result.base_model:
        print(f"base model: {result.base_model}")
    if result.deleted:
        print(f"deleted: {', '.join(result.deleted)}")
    if result.uploaded or result.deleted:
        print(f"pushed {len(result.uploaded)} files to {result.repo_id}, commit {result.commit}")
    else:
        print(f"{result.repo_id} holds all of it already, commit {result.commit}")
    print(result.url)
