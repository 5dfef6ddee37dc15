"""Publish a folder on the Hugging Face Hub: an fMRI tokenizer, a language model with its processor, a LoRA adapter,
a processor, or a dataset of scans or of fMRI-text pairs. Its files tell which of them it is.

The push is one commit, and you can repeat it at any time: files that are on the Hub already are not sent again, and an
interrupted push is completed. The card is written from the records of the model (`training_info.json`, `results.json`);
your own text in it, here or on the Hub, stays.

Only files that belong to such a repository are sent; the others are listed as left out. Nothing is sent when the folder
is incomplete or contains pickles, foreign code or private text: tokens, local paths, your user name. Other files of the
repository stay; files that the new ones replace are listed as deleted.

Scan-level data of a controlled cohort (`controlled: true` in the metadata of its card, or in a JSON file next to the
data) are only sent with --confirm-controlled, to a repository that is private or requires access requests. Rows that
were loaded on their own carry the declaration if the scans were made with `fmri-lm scans --controlled`; run that
command on existing scans to add it. A converted checkpoint is only sent with --license, since it states none itself.

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
    """Add the arguments of `fmri-lm push`."""
    add = parser.add_argument
    add("folder", help="folder that `save_pretrained`, `save_to_disk` or `fmri-lm corpus` wrote")
    add("repo_id", metavar="org/name", help="repository (name: one of your own); created if it does not exist")
    add("--private", action="store_true", help="create the repository as private")
    add("--revision", help="branch (default: main; created if it does not exist), or refs/pr/N")
    add("--create-pr", action="store_true", help="open a pull request instead of committing")
    add("--message", help="commit message")
    add("--description", help="description of the commit, or of the pull request")
    add("--tags", nargs="+", help="further tags of the card")
    add("--license", help="licence, such as cc-by-4.0; a converted checkpoint needs one")
    add("--base-model", metavar="org/name", help="repository of the base model of an adapter")
    add("--max-shard-size", default="2GB", help="largest Parquet file (default: %(default)s)")
    add("--allow-incomplete", action="store_true", help="publish a model without its processor")
    add(
        "--confirm-controlled",
        action="store_true",
        help="confirm that you may publish scan-level data of this controlled cohort",
    )


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm push`."""
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
        print(f"{result.repo_id} is up to date, commit {result.commit}")
    print(result.url)
