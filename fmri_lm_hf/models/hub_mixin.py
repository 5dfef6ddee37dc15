"""`push_to_hub` of this package's models and processors: complete, in one commit, safe to repeat.

A checkpoint carries this file beside its classes. Where the package is not installed, they push as transformers does.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PublishedOnHub"]


class PublishedOnHub:
    """First base of what has `save_pretrained`, so that its `push_to_hub` is that of `fmri_lm_hf.hub`."""

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Publish on the Hub, with code and card, in one commit.

        Parameters
        ----------
        repo_id : str
            `"organisation/name"`; created when there is none.
        **options
            As [`fmri_lm_hf.hub.push_to_hub`] takes them: `private`, `revision`, `token`, `commit_message`, and for
            a model `processor`, which then goes into the same commit.

        Returns
        -------
        result : PushResult
            With the commit, and what was uploaded.
        """
        try:
            from fmri_lm_hf.hub import push_to_hub
        except ImportError:
            return super().push_to_hub(repo_id, **options)  # type: ignore[misc]
        return push_to_hub(self, repo_id, **options)
