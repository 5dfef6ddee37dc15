"""The progress bar of a stage."""

from __future__ import annotations

from transformers import ProgressCallback, Trainer

__all__ = ["StageProgress", "show_progress"]


class StageProgress(ProgressCallback):
    """A progress bar that says what is being trained and carries the loss, in place of printed logs."""

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.title)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def show_progress(trainer: Trainer, title: str) -> None:
    """Give a trainer the bar of its stage, unless it was told to show none."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StageProgress(title))
