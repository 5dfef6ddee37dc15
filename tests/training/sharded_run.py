"""A small training of a stage with weights that are sharded over processes (FSDP2), as far as a CPU takes it.

    torchrun --standalone --nproc_per_node 2 tests/training/sharded_run.py FOLDER STAGE ...

Accelerate shards on GPUs only. So layers are sharded here as it would do it, and the Trainer is told that they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from small_runs import make
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

LAYERS = ("FmriLayer", "LlamaDecoderLayer")


def train(trainer) -> None:
    """An epoch of SGD, step by step as the Trainer does it."""
    model = trainer.model
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.02)
    loader = trainer.get_train_dataloader()
    batches = iter(loader)
    for _ in range(len(loader)):
        (batch,), counts = trainer.get_batch_samples(batches, 1, trainer.args.device)
        model.train()
        trainer.compute_loss(model, batch, num_items_in_batch=counts).backward()
        optimizer.step()
        optimizer.zero_grad()


def run(stage: str, folder: Path) -> None:
    """Train a stage with sharded weights, and save it."""
    trainer = make(stage, folder, per_device_train_batch_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for module in trainer.model.modules():
        if type(module).__name__ in LAYERS:
            fully_shard(module, mesh=mesh)
    fully_shard(trainer.model, mesh=mesh)
    assert all(isinstance(each, DTensor) for each in trainer.model.parameters())
    train(trainer)
    if stage == "tokenizer":  # registered once as a forward pass, not once a step
        start = trainer.model.start_quantizer
        assert start.__wrapped__.__func__ is type(trainer.model).start_quantizer
    state = trainer.accelerator.state
    before = state.distributed_type
    state.distributed_type, trainer.is_fsdp_enabled = DistributedType.FSDP, True
    state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="FULL_STATE_DICT")
    trainer.save_model(str(folder))
    state.distributed_type = before
    trainer.accelerator.wait_for_everyone()  # none leaves while another still writes


if __name__ == "__main__":
    for stage in sys.argv[2:]:
        run(stage, Path(sys.argv[1]) / stage)
    PartialState().destroy_process_group()
