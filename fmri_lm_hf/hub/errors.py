"""What went wrong with the Hub, said in one sentence; and which troubles pass when one tries again."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

__all__ = ["HubAccessError", "clear_errors", "retried"]

logger = logging.get_logger(__name__)
Result = TypeVar("Result")

# 409 and 412: another commit came between. The others: the server is busy, or something before it is.
_PASSING_STATUS = (408, 409, 412, 425, 429, 500, 502, 503, 504)
# What helps where trying again does not.
_ADVICE = {
    400: "it did not accept what was sent: correct what it names",
    402: f"the account has no room or no subscription for this: see {constants.ENDPOINT}/settings/billing",
    403: "your account is not allowed this: do what it says, or ask the owner of the repository",
    413: "a file or the whole of them is too large: save with a smaller `max_shard_size`",
}
_ATTEMPTS = 8
_FIRST_WAIT = 0.5  # seconds; doubles with every attempt
_LONGEST_WAIT = 30.0
_CONNECTING_ATTEMPTS = 3  # where nobody answers at all, there is most likely no network


class HubAccessError(OSError):
    """A repository, revision or file on the Hub cannot be reached; the message says why and what to do."""


@contextmanager
def clear_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the Hub's clients raise about `repo_id` into a `HubAccessError` of one sentence.

    Errors that have nothing to do with the Hub pass unchanged; the cause stays chained.
    """
    try:
        yield
    except HubAccessError:
        raise
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        for cause in _chain(error):
            if sentence := _sentence(cause, repo_id, revision or "main"):
                raise HubAccessError(sentence) from error
        raise


def retried(call: Callable[[], Result], what: str) -> Result:
    """Call until it succeeds, waiting longer each time, as long as the trouble is one that passes.

    `call` must be safe to repeat: it looks at what the Hub holds before it changes anything.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except (OSError, HTTPError, RuntimeError, ValueError) as error:
            wait = _wait_for(error, attempt)
            if wait is None or attempt == _ATTEMPTS - 1:
                raise
            logger.warning(f"{what}: {_first_line(error)}; trying again in {wait:.1f} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _wait_for(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before another attempt, or None when the error will not pass."""
    wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * (1 + 0.2 * random.random())
    for cause in _chain(error):
        if isinstance(cause, LocalEntryNotFoundError):
            continue  # says only that the cache is empty; its cause says whether asking again helps
        if isinstance(cause, HfHubHTTPError):
            if cause.response.status_code not in _PASSING_STATUS:
                return None
            asked = cause.response.headers.get("Retry-After", "")
            return max(wait, float(asked)) if asked.isdigit() else wait
        if isinstance(cause, OfflineModeIsEnabled):
            return None
        if type(cause).__name__ == "ConnectError":
            return wait if attempt + 1 < _CONNECTING_ATTEMPTS else None
        # A page of HTML where the client expects JSON is a gateway's way of saying "busy".
        if isinstance(cause, (HTTPError, ConnectionError, json.JSONDecodeError)):
            return wait
    return None


def _sentence(error: BaseException, repo_id: str, revision: str) -> str | None:
    url = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return (
                f"{repo_id} is gated: log in with `hf auth login`, ask for access at {url}, and try again once "
                "it is granted."
            )
        return f"{repo_id} is gated and your account has no access to it: ask for it at {url}."
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return (
                f"{repo_id} does not exist on {constants.ENDPOINT}, or is private: check the spelling, or log in "
                "with `hf auth login` if it is yours."
            )
        return (
            f"{repo_id} does not exist on {constants.ENDPOINT}, or is private and your token may not read it: "
            "check the spelling, or ask its owner for access."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: see {url}/commits/main for those that it has."
    if isinstance(error, OfflineModeIsEnabled) or (
        isinstance(error, LocalEntryNotFoundError) and constants.is_offline_mode()
    ):
        return (
            f"{repo_id} (revision {revision}) is not in the cache, and HF_HUB_OFFLINE=1 forbids to fetch it: "
            "fetch it once with the variable unset."
        )
    if isinstance(error, LocalEntryNotFoundError):
        return None  # says only that the cache is empty; its cause says why the Hub could not be asked
    if isinstance(error, EntryNotFoundError):
        return f"A file is missing from {repo_id} (revision {revision}): {_first_line(error)}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return (
                f"{constants.ENDPOINT} refused your token for {repo_id}: log in again with `hf auth login`, or "
                "unset HF_TOKEN."
            )
        said = f" ({error.server_message.rstrip('.')})" if error.server_message else ""
        if status == 403 and _is_about_rights(error.server_message):
            return (
                f"Your token may not write to {repo_id}{said}: create one with write access to it at "
                f"{constants.ENDPOINT}/settings/tokens."
            )
        advice = _ADVICE.get(status)
        if advice is None:
            advice = (
                "try again later" if status in _PASSING_STATUS or status >= 500 else "nothing was changed"
            )
        return f"{constants.ENDPOINT} answered {status} for {repo_id}{said}; {advice}."
    if isinstance(error, (HTTPError, ConnectionError)):
        return (
            f"{constants.ENDPOINT} cannot be reached ({_first_line(error)}), and {repo_id} (revision {revision}) "
            "is not completely in the cache: check the network."
        )
    return None


def _is_about_rights(said: str | None) -> bool:
    """Whether a 403 is about the token, as it is where the server says nothing, and not about storage or terms."""
    return not said or bool(re.search(r"rights|token|permission|credential|authori[sz]", said, re.IGNORECASE))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _first_line(error: BaseException) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return text if len(text) < 200 else text[:200] + "..."
