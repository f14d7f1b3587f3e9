"""Training in one process, or in several that `accelerate launch` or `torchrun` started.

Each process draws its own batches, and gradients are averaged (DistributedDataParallel, through Accelerate), so n
processes train on n times the batch. The first process writes files and shows progress; its batch statistics are used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

import torch
from torch import nn


class Distributed:
    """This process, and how it communicates with the others.

    Args:
        device: as in :class:`training.config.LoopConfig`; of several processes on GPUs each takes its own GPU.

    Raises:
        ImportError: several processes, but no Accelerate.
    """

    def __init__(self, device: str = "auto"):
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = 0
        self._accelerator = None
        if self.size == 1:
            return
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs
        except ImportError:
            raise ImportError(
                "training in several processes needs accelerate: pip install 'glass-gym[train]'"
            ) from None
        self._accelerator = Accelerator(
            cpu=device == "cpu" or not torch.cuda.is_available(),
            mixed_precision="no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.rank = self._accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """The device of this process: `wanted`, or the one that Accelerate assigned."""
        return wanted if self._accelerator is None else str(self._accelerator.device)

    def losses(self, stage):
        """The stage's `losses`, wrapped so that with several processes the backward pass averages gradients."""
        return stage.losses if self._accelerator is None else self._accelerator.prepare_model(_Losses(stage))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process; all processes must call it."""
        if self._accelerator is None:
            return flag
        flags = torch.tensor([float(flag)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(flags, "sum").item())

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes the tensors of the main process, in place."""
        if self._accelerator is not None:
            from accelerate.utils import broadcast

            for tensor in tensors:
                tensor.copy_(broadcast(tensor))

    def wait(self) -> None:
        """Wait until all processes have called it."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def main_first(self) -> contextlib.AbstractContextManager:
        """A context: the main process runs the block first, then the others."""
        return contextlib.nullcontext() if self._accelerator is None else self._accelerator.main_process_first()


class _Losses(nn.Module):
    """A stage as a module, as DistributedDataParallel needs it."""

    def __init__(self, stage):
        super().__init__()
        self.model = stage.model
        self._losses = stage.losses  # a bound method: the stage itself is no submodule
        stored = [f"model.{name}" for name, value in self.model.named_buffers() if value.dtype == torch.uint8]
        # stored windows do not change: they are not sent in each step
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, stored)

    def forward(self, *arguments):
        return self._losses(*arguments)
