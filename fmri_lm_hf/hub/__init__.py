"""Publishing on the Hugging Face Hub, fetching from it, and checking what was fetched."""

from .download import HubAccessError, Verification, clear_errors, downloaded_commit, fetch, verify_download
from .push import PushResult, push_to_hub
from .remote_code import export_remote_code

__all__ = [
    "HubAccessError",
    "PushResult",
    "Verification",
    "clear_errors",
    "downloaded_commit",
    "export_remote_code",
    "fetch",
    "push_to_hub",
    "verify_download",
]
