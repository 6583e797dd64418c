"""What a founder's linear weights see while it reads prompts: `python -m src.models.methods.inputs --help` tells how.

A file of a founder holds the mean of x xᵀ over all tokens, [d_in, d_in], of every input x that linear weights within
layers have, and which weight has which: by the weight's content, so that the founder is known wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from src.models.methods.matrices import digest, is_linear_weight
from src.runtime.errors import UserError
from src.runtime.files import replacing

HOW = "python -m src.models.methods.inputs FOLDER MODEL --prompts FILE makes it"


def existing_folder(folder: str) -> str:
    """Return the folder's name; a ValueError, as pydantic wants it, if there is no such folder."""
    if not Path(folder).is_dir():
        raise ValueError(f"no folder {folder}; {HOW}")
    return folder


def load_covariance(folder: Path, weight: str) -> torch.Tensor:
    """Return the mean of x xᵀ, [d_in, d_in], float32, that the weight of this content saw; UserError if none here."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            if name := (file.metadata() or {}).get(weight):
                return file.get_tensor(name)
    raise UserError(f"{folder} has no inputs of one of the parents; {HOW}, for every founder")


def collect(model: torch.nn.Module, prompts: Iterable[torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the means of x xᵀ by their content, and by every weight's content which of them it saw.

    The model, in evaluation mode, reads the prompts one after another: token ids, [tokens] each.
    """
    grams: dict[str, torch.Tensor] = {}
    tokens: dict[str, int] = {}

    def see(name: str, x: torch.Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        product = rows.mT @ rows
        grams[name] = grams[name].add_(product) if name in grams else product
        tokens[name] = tokens.get(name, 0) + len(rows)

    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and is_linear_weight(f"{name}.weight", module.weight.shape)
    }
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: see(name, given[0]))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            for ids in prompts:
                model(input_ids=ids[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    means: dict[str, torch.Tensor] = {}
    seen: dict[str, str] = {}
    for name, gram in grams.items():
        weight = modules[name].weight.detach().float()
        mean = gram.div_(tokens[name]).cpu()
        key = digest(mean)
        means[key] = mean
        seen[digest(weight.mT if isinstance(modules[name], Conv1D) else weight)] = key
    return means, seen


def write(folder: Path, model: Path, lines: Iterable[str], *, device: str = "cpu") -> Path:
    """Have a model read prompts, and return the file of what its weights saw.

    Raises:
        UserError: no prompts, no folder, or one that knows this model: what a merge was made from is never replaced.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from src.models.checkpoint import open_checkpoint

    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected the folder of the founders' inputs")
    found = open_checkpoint(model)
    if found.adapter is not None:
        raise UserError(f"{model}: an adapter (LoRA); merge it into its base, and give the folder of the whole model")
    out = folder / f"{found.fingerprint()}.safetensors"
    if out.exists():
        raise UserError(f"{out} has the inputs of {model} already; take another folder for other prompts")
    tokenizer = AutoTokenizer.from_pretrained(found.path)
    prompts = [torch.tensor(ids) for line in lines if (ids := tokenizer(line.rstrip("\n"))["input_ids"])]
    if not prompts:
        raise UserError("there are no prompts; expected a text file with one a line")
    loaded = AutoModelForCausalLM.from_pretrained(found.path, dtype="auto").eval().to(device)
    means, seen = collect(loaded, (ids.to(device) for ids in prompts))
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        save_file(means, str(partial), metadata=seen)
    return out
