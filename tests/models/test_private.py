"""mergekit's inner parts are used as one version has them: another one fails here first."""

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.models import merging, private
from tests.checkpoints import write_family


def test_it_is_the_version_that_private_was_written_for() -> None:
    assert version("mergekit").startswith(private.VERSION), (
        f"read src/models/private.py again: it was written for mergekit {private.VERSION}, not {version('mergekit')}"
    )
    assert private.VERSION == "0.1.5"


@pytest.mark.parametrize(
    "dtypes", [{}, {"dtype": "bfloat16"}, {"dtype": "float32", "out_dtype": "bfloat16"}, {"out_dtype": "float16"}]
)
def test_a_merge_in_memory_is_the_merge_on_disk(dtypes: dict[str, str], tmp_path: Path) -> None:
    folders = write_family(tmp_path, ["a", "b"])
    config = {
        "merge_method": "task_arithmetic",
        "models": [{"model": name, "parameters": {"weight": 0.5}} for name in "ab"],
        "base_model": "base",
        **dtypes,
    }
    recipe = merging.Recipe(config, donor="a", seed=0, threads=1)
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    tensors = merging.merge_in_memory(recipe, folders, memory)
    merging.merge(recipe, folders, disk)
    written = {name: tensor for file in disk.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert tensors is not None
    assert tensors.keys() == written.keys()
    assert all(tensor.dtype == written[name].dtype for name, tensor in tensors.items())
    assert all(torch.equal(tensor, written[name]) for name, tensor in tensors.items())
    assert (memory / "config.json").read_bytes() == (disk / "config.json").read_bytes()
