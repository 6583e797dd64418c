"""mergekit's inner parts, as its version 0.1.5 has them; no other module of ours touches any.

mergekit documents `run_merge`, its configuration and options, and how merge methods are registered. What is here is
needed beyond that, each part for the reason that its function gives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
import transformers
from mergekit.architecture import ModelArchitecture, WeightInfo, arch_info_for_config, get_architecture_info
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache, SaveTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

VERSION = "0.1.5"
"""mergekit's version that this file was written for."""


def can_load(weight: WeightInfo, names: Collection[str], model_type: str) -> bool:
    """Return whether mergekit will find a weight in a checkpoint, under one of its names or converted from others.

    Why: mergekit finds out only while it merges, when hours may have passed.
    """
    wanted = [weight.name, *(weight.aliases or ())]
    if any(name in names for name in [*wanted, *(weight.tied_names or ())]):
        return True
    return any(can_convert_checkpoint_keys(model_type, set(names), name) for name in wanted)


def required_weights(config: transformers.PretrainedConfig) -> list[WeightInfo]:
    """Return the weights that mergekit requires of an architecture; none of one that it infers from checkpoints.

    Why: as for `can_load`.
    """
    architecture = arch_info_for_config(config)
    return [weight for weight in architecture.all_weights(config) if not weight.optional] if architecture else []


@contextmanager
def fresh_loaders(options: MergeOptions) -> Iterator[None]:
    """Have mergekit open every checkpoint anew within the block, and close them all after it.

    Why: it keeps open files by their path for the life of a thread, where another model may lie by now.
    """
    cache = LoaderCache()
    cache.loaders.clear()
    cache.setup(options=options)
    try:
        yield
    finally:
        cache.loaders.clear()


def trusts_remote_code() -> bool:
    """Return whether checkpoints may execute code of their own in this thread's merge.

    Why: mergekit does not pass its options on to merge methods.
    """
    return LoaderCache().trust_remote_code


def architecture_in_memory(config: MergeConfiguration, options: MergeOptions) -> ModelArchitecture | None:
    """Return the architecture of a merge; None where only `run_merge` will do, which fills gaps in written files.

    Why: `post_fill_parameters` is no documented attribute, and not every architecture has it.
    """
    architecture = get_architecture_info(config, options)
    return None if getattr(architecture, "post_fill_parameters", False) else architecture


def merged_tensors(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    described: transformers.PretrainedConfig,
    options: MergeOptions,
) -> dict[str, torch.Tensor]:
    """Compute the tensors that `run_merge` would write, by name, without writing them.

    Why: mergekit's own plan for merges in memory raises (it makes tasks of an abstract class), so the tasks of the plan
    to disk are executed, all but those that write. On a GPU, weights go there and come back as they are stored:
    mergekit would widen 16 bits before and narrow them after, which doubles what is moved.

    `config`, of whole models with paths, is normalised in place; `described` is the merged model's configuration.
    """
    there = options.model_copy(update={"read_to_gpu": True})
    planner = MergePlanner(config, architecture, options=there, out_model_config=described)
    saved = {task.tensor_task: task for task in planner.plan_to_disk("") if isinstance(task, SaveTensor)}
    device = torch.device(options.device)
    tensors = {}
    for task, tensor in Executor([*saved], math_device=device, storage_device=device).run(quiet=True):
        if tensor is not None:
            dtype = saved[task].dtype
            tensors[saved[task].tensor_name] = to_host(tensor.to(dtype_from_name(dtype)) if dtype else tensor)
    return tensors


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in the host's memory, whose pages all threads touch first: a copy touches them with one."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype).fill_(0).copy_(tensor)
