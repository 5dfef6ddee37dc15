"""Push from a Trainer with `push_to_hub`: with card, code and records, without the state of the Trainer.

transformers uploads the output folder as it is, with `training_args.bin`: a pickle with the user's token and the paths
of the machine. Here neither this file nor the optimizer's state leaves the machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..files import write_json
from .contents import is_left_behind
from .push import PushResult, push_to_hub

RECORDS = ("training_info.json", "results.json")

logger = logging.get_logger(__name__)
if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


class PublishesThroughHub(_Trainer):
    """Base class of a Trainer that pushes with `fmri_lm_hf.hub.push_to_hub`; put it before `Trainer`.

    The arguments of `TrainingArguments` keep their meaning (`push_to_hub`, `hub_model_id`, `hub_strategy`,
    `hub_token`, `hub_private_repo`, `hub_revision`, `hub_always_push`), except for the strategies `checkpoint` and
    `all_checkpoints`, which would publish pickles: they push the model alone, like `every_save`.
    """

    push_in_progress: Any

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **options: Any,
    ) -> PushResult | Future[PushResult] | None:
        """Publish the model, its processor and their records in `output_dir`.

        Parameters
        ----------
        commit_message : str, optional
        blocking : bool, default=True
            Whether to wait for the end of the push.
        token, revision, private : optional
            In place of `hub_token`, `hub_revision` and `hub_private_repo`.
        **options
            As `fmri_lm_hf.hub.push_to_hub` takes them: `tags`, `license`, `base_model`, `create_pr`.

        Returns
        -------
        PushResult, a Future of one where `blocking` is False, or None on all processes but the first
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        # Training has written its records into the output folder. `save_model` overwrites them with those of the
        # initial weights, since the model knows no others.
        paths = [Path(self.args.output_dir, name) for name in RECORDS]
        recorded = {path: path.read_bytes() for path in paths if path.is_file()}
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        for path, content in recorded.items():
            path.write_bytes(content)
        self._save_processor(self.args.output_dir)
        self._finish_current_push()
        assert self.hub_model_id is not None
        push = partial(
            push_to_hub,
            self.args.output_dir,
            self.hub_model_id,
            token=token,
            revision=revision if revision is not None else self.args.hub_revision,
            private=private if private is not None else self.args.hub_private_repo,
            commit_message=commit_message,
            **{"allow_incomplete": True, **options},
        )
        return push() if blocking else HfApi().run_as_future(push)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish the model of a checkpoint in the background, while the training goes on."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        # If a push takes longer than the training needs until the next save, a queue would only grow: this one is
        # skipped, unless `hub_always_push` is set.
        in_progress = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if in_progress and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            logger.warning_once(
                f"hub_strategy={self.args.hub_strategy.value!r} would publish the optimizer's state as pickles; the "
                "model alone is pushed, and the checkpoints stay in the output folder."
            )
        staging = self._staged(Path(checkpoint_folder))
        job = HfApi().run_as_future(self._push_and_remove, staging, f"Training in progress, {self._moment()}")
        if in_progress:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])

    def _staged(self, checkpoint: Path) -> Path:
        """Link the model of a checkpoint into a folder of its own: `save_total_limit` may delete it during the push."""
        # in the output folder, since hard links do not cross file systems; hidden, so that no push includes it
        staging = Path(tempfile.mkdtemp(prefix=".pushing-", dir=self.args.output_dir))
        for path in checkpoint.iterdir():
            if path.is_file() and not is_left_behind(path.name):
                try:
                    os.link(path, staging / path.name)
                except OSError:  # a file system without links
                    shutil.copy(path, staging / path.name)
        self._save_processor(staging)
        record = staging / "training_info.json"
        if not record.exists():
            write_json({"training": f"in progress, {self._moment()}"}, record)
        return staging

    def _push_and_remove(self, staging: Path, message: str) -> PushResult:
        assert self.hub_model_id is not None
        try:
            return push_to_hub(
                staging,
                self.hub_model_id,
                token=self.args.hub_token,
                revision=self.args.hub_revision,
                commit_message=message,
                allow_incomplete=True,
            )
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _moment(self) -> str:
        return f"step {self.state.global_step}"

    def _save_processor(self, folder: str | os.PathLike) -> None:
        """Save the processor of the Trainer, or that of its collator."""
        processor: Any = self.processing_class or getattr(self.data_collator, "processor", None)
        if hasattr(processor, "save_pretrained"):
            processor.save_pretrained(folder)
