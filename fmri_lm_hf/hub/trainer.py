"""Pushes of a Trainer by way of `push_to_hub`: with card, code and record, and without the Trainer's own state.

transformers uploads the output folder as it is, with `training_args.bin`: a pickle that holds the token it pushes with
and the paths of the machine. Here it never leaves the machine, nor does the optimizer's state.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..files import write_json
from .contents import is_left_behind
from .push import PushResult, push_to_hub

RECORDS = ("training_info.json", "results.json")

logger = logging.get_logger(__name__)


class PublishesThroughHub:
    """First base of a Trainer whose pushes are those of `fmri_lm_hf.hub.push_to_hub`.

    The arguments of `TrainingArguments` mean what they mean there (`push_to_hub`, `hub_model_id`, `hub_strategy`,
    `hub_token`, `hub_private_repo`, `hub_revision`, `hub_always_push`), but for the strategies `checkpoint` and
    `all_checkpoints`, which would publish pickles: they push the model alone, as `every_save` does.
    """

    # what the class has as a Trainer
    args: Any
    state: Any
    hub_model_id: str | None
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
        """Publish what `output_dir` holds: the model, its processor, and what was recorded beside them.

        Parameters
        ----------
        commit_message : str, optional
        blocking : bool, default=True
            Whether to wait for the end of the push.
        token, revision, private : optional
            Instead of `hub_token`, `hub_revision` and `hub_private_repo`.
        **options
            As `fmri_lm_hf.hub.push_to_hub` takes them: `tags`, `license`, `base_model`, `create_pr`.

        Returns
        -------
        PushResult, a Future of one where `blocking` is False, or None on all processes but the first
        """
        trainer: Any = self
        trainer.callback_handler.on_push_begin(self.args, self.state, trainer.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            trainer.init_hf_repo(token=token, private=private)
        # what the training recorded there is about these weights; saving knows only what they started from
        places = [Path(self.args.output_dir, name) for name in RECORDS]
        recorded = {path: path.read_bytes() for path in places if path.is_file()}
        trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        for path, content in recorded.items():
            path.write_bytes(content)
        self._save_processor(self.args.output_dir)
        trainer._finish_current_push()
        assert self.hub_model_id is not None
        named: dict[str, Any] = {
            "token": token,
            "revision": revision if revision is not None else self.args.hub_revision,
            "private": private if private is not None else self.args.hub_private_repo,
            "commit_message": commit_message,
            "allow_incomplete": True,
            **options,
        }
        if blocking:
            return push_to_hub(self.args.output_dir, self.hub_model_id, **named)
        return HfApi().run_as_future(push_to_hub, self.args.output_dir, self.hub_model_id, **named)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish the model of a checkpoint in the background, while the training goes on."""
        trainer: Any = self
        if not trainer.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        in_progress = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if in_progress and not self.args.hub_always_push:
            return
        trainer.callback_handler.on_push_begin(self.args, self.state, trainer.control)
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
        """A folder with the model of a checkpoint, which the training may delete while it is being pushed."""
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
        """What prepares the inputs: the Trainer's own, or that of its collator."""
        trainer: Any = self
        processor: Any = trainer.processing_class or getattr(trainer.data_collator, "processor", None)
        if hasattr(processor, "save_pretrained"):
            processor.save_pretrained(folder)
