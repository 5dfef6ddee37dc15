"""Runs stages until each kills itself, as a power cut would: at the beginning of a step, or while it saves.

python tests/training/killed.py '[["save", 9, "tokenizer", "tiny/tokenizer", "--output_dir", "killed"], ...]'
"""

from __future__ import annotations

import json
import os
import signal
import sys

from scripts import run
from transformers import Trainer, TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS


class KillAtStep(TrainerCallback):
    step = 0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(phase: str, step: int, stage: str, *words: str) -> None:
    if phase == "step":
        KillAtStep.step = step
        DEFAULT_CALLBACKS.append(KillAtStep)
    else:
        save_optimizer = Trainer._save_optimizer_and_scheduler

        def killed_before(self, output_dir):  # the weights are written, the rest is not
            if self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            save_optimizer(self, output_dir)

        Trainer._save_optimizer_and_scheduler = killed_before
    run(stage, *words)


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        process = os.fork()
        if not process:
            run_until_killed(*job)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{job} was not killed: status {status}")
