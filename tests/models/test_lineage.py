"""Offspring of offspring are made from the founders, and rounded once."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.config import Merge
from src.journal import parse, replay
from src.models import merging
from src.models.checkpoint import open_checkpoint
from src.models.methods.lineage import from_founders
from tests.conftest import Command
from tests.family import FOUNDERS, write_family


def config(*models: str | tuple[str, Any], method: str = "wudi", scale: float = 1.5) -> dict[str, Any]:
    entries = [(one, 1.0) if isinstance(one, str) else one for one in models]
    return {
        "merge_method": method,
        "models": [{"model": name, "parameters": {"weight": weight}} for name, weight in entries],
        "parameters": {"scale": scale},
        "base_model": "base",
    }


def recipes(**made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"config": one, "donor": one["models"][0]["model"]} for name, one in made.items()}


def shares(found: Any) -> dict[str, float]:
    return {entry["model"]: entry["parameters"]["weight"] for entry in found["models"]}


def test_a_parent_s_weight_is_divided_among_its_own() -> None:
    known = recipes(p=config("a", "b"), q=config(("a", 3.0), ("c", 1.0)))
    assert shares(from_founders(config("p", "q"), known)) == {"a": 0.5 + 0.75, "b": 0.5, "c": 0.25}
    assert shares(from_founders(config("p", ("a", 2.0)), known)) == {"a": 2.5, "b": 0.5}


def test_what_another_merge_made_stays_a_parent() -> None:
    asked = config("p", "c")
    for other in (
        config("a", "b", method="actmat"),
        config("a", "b", scale=1.0),
        config(("a", [0, 1]), "b"),
        {**config("a", "b"), "base_model": "elsewhere"},
        {**config("a", "b"), "dtype": "float32"},
    ):
        assert from_founders(asked, recipes(p=other)) is asked
    for asked in (config("p", "c", method="tsv_m"), config(("p", [0, 1]), "c"), config("a", "b")):
        made = recipes(p=config("a", "b", method=asked["merge_method"]))
        assert from_founders(asked, made) is asked
    aligned = {**config("p", "c"), "tokenizer_source": "p"}
    assert from_founders(aligned, recipes(p=config("a", "b"))) is aligned


def test_in_a_run_every_recipe_names_founders_alone(evolve: Command, family: Path, tmp_path: Path) -> None:
    wide = ("strategy.k=6", "stop.unchanged=false", "stop.kinship=null", "stop.gain=null", "stop.generations=2")
    outcome = evolve("strategy=kinship_topk", "merge=wudi", "keep=all", *wide)
    assert outcome.status == 0, outcome.err
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    young = [model for model in state.population if model.generation > 1]
    assert young
    models = {name: family / name for name in ("base", *FOUNDERS)}
    for model in young:
        recipe = model.recipe
        assert {entry["model"] for entry in recipe["config"]["models"]} <= {*FOUNDERS}
        assert sum(entry["parameters"]["weight"] for entry in recipe["config"]["models"]) == 2.0
        assert recipe["donor"] in FOUNDERS
        merging.merge(merging.Recipe(**recipe), models, tmp_path / model.name)
        kept = load_file(tmp_path / "outputs/run/models" / model.name / "model.safetensors")
        again = load_file(tmp_path / model.name / "model.safetensors")
        assert all((again[name] == tensor).all() for name, tensor in kept.items())


def test_settings_of_the_same_merge_give_the_same_recipe_whoever_is_named_first() -> None:
    settings = Merge(
        method="wudi",
        base_model="ancestor",
        parameters={"scale": 1.5},
        each={"weight": 1.0},
        dtype=None,
        tokenizer_source=None,
    )
    first = merging.recipe(settings, ["a", "b"], seed=0, threads=1)
    known = {"p": first.as_dict()}
    one, two = (
        from_founders(merging.recipe(settings, order, seed=0, threads=1).config, known)
        for order in (["p", "c"], ["c", "p"])
    )
    assert shares(one) == shares(two) == {"a": 0.5, "b": 0.5, "c": 1.0}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {"normalize": True}),
        ("linear", {"normalize": False}),
        ("task_arithmetic", {"lambda": 1.0, "normalize": False}),
        ("task_arithmetic", {"lambda": 0.7, "normalize": False}),
    ],
)
def test_weighted_sums_of_offspring_are_the_same_weighted_sums_of_founders(
    family: Path, tmp_path: Path, method: str, parameters: dict[str, Any]
) -> None:
    base = "parent" if method == "linear" else "ancestor"
    settings = Merge(
        method=method, base_model=base, parameters=parameters, each={"weight": 0.4}, dtype=None, tokenizer_source=None
    )
    folders = {name: family / name for name in ("base", *FOUNDERS)}
    known: dict[str, Any] = {}
    for name, parents in (("p", FOUNDERS[:2]), ("q", FOUNDERS[1:3])):
        made = merging.recipe(settings, parents, seed=0, threads=1)
        merging.merge(made, folders, tmp_path / name)
        known[name] = made.as_dict()
    stepwise = merging.recipe(settings, ["p", "q"], seed=0, threads=1)
    merging.merge(stepwise, {**folders, **{name: tmp_path / name for name in known}}, tmp_path / "stepwise")
    config = from_founders(stepwise.config, known)
    assert {entry["model"] for entry in config["models"]} == {*FOUNDERS[:3]}
    assert config.get("base_model") not in known
    at_once = merging.Recipe(config, donor=FOUNDERS[0], seed=0, threads=1)
    merging.merge(at_once, folders, tmp_path / "at-once")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("stepwise", "at-once"))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-6), name


def test_normalised_task_arithmetic_and_slerp_do_not_compose() -> None:
    for method, parameters in (("task_arithmetic", {"normalize": True}), ("slerp", {"t": 0.5})):
        settings = Merge(
            method=method, base_model="ancestor", parameters=parameters, each={}, dtype=None, tokenizer_source=None
        )
        known = {"p": merging.recipe(settings, ["a", "b"], seed=0, threads=1).as_dict()}
        config = merging.recipe(settings, ["p", "c"], seed=0, threads=1).config
        assert from_founders(config, known) is config


def test_sixteen_bits_are_merged_in_float32_and_rounded_once(family: Path, tmp_path: Path) -> None:
    folders = {}
    for name in ("base", *FOUNDERS[:2]):
        (tmp_path / name).mkdir()
        for file in (family / name).iterdir():
            shutil.copy(file, tmp_path / name / file.name)
        tensors = load_file(family / name / "model.safetensors")
        halved = {key: tensor.bfloat16() for key, tensor in tensors.items()}
        save_file(halved, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        folders[name] = tmp_path / name
    assert open_checkpoint(folders["base"]).dtype == "BF16"
    settings = Merge(
        method="linear",
        base_model="parent",
        parameters={"normalize": True},
        each={"weight": 1.0},
        dtype=None,
        tokenizer_source=None,
    )
    made = merging.recipe(settings, FOUNDERS[:2], seed=0, threads=1, stored="BF16")
    assert (made.config["dtype"], made.config["out_dtype"]) == ("float32", "bfloat16")
    merging.merge(made, folders, tmp_path / "merged")
    found = load_file(tmp_path / "merged/model.safetensors")
    first, second = (load_file(folders[name] / "model.safetensors") for name in FOUNDERS[:2])
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, ((first[name].float() + second[name].float()) / 2).bfloat16()), name
    shell = tmp_path / "shell"
    shell.mkdir()
    in_memory = merging.merge_in_memory(made, folders, shell)
    assert in_memory is not None
    assert all(torch.equal(in_memory[name], tensor) for name, tensor in found.items())


def test_a_run_that_was_stopped_and_resumed_makes_the_same_bytes(evolve: Command, tmp_path: Path) -> None:
    given = ("merge=wudi", "strategy.k=3", "stop.unchanged=false", "stop.kinship=null", "stop.gain=null", "track=none")
    assert evolve(*given, "stop.generations=2", "name=whole").status == 0
    assert evolve(*given, "stop.generations=1", "name=parts").status == 0
    assert evolve(*given, "stop.generations=2", "name=parts", "resume=force").status == 0
    whole, parts = (replay(parse(tmp_path / f"outputs/{name}/journal.jsonl")[0]) for name in ("whole", "parts"))
    assert [(m.name, m.fingerprint, m.average) for m in whole.population] == [
        (m.name, m.fingerprint, m.average) for m in parts.population
    ]
    assert any(model.generation == 2 for model in whole.population)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_a_run_of_sixteen_bits_is_gone_on_with_and_looked_at(dtype: str, evolve: Command, tmp_path: Path) -> None:
    at = write_family(tmp_path / "family", dtype=dtype)
    wide = ("merge=linear", "strategy.k=2", "stop.unchanged=false", "stop.kinship=null", "stop.gain=null")
    assert evolve(*wide, "stop.generations=1", at=at).status == 0
    outcome = evolve(*wide, "stop.generations=2", "resume=force", at=at)
    assert outcome.status == 0, outcome.err
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    made = [model for model in state.population if model.recipe]
    assert {model.recipe["config"]["out_dtype"] for model in made} == {{"BF16": "bfloat16", "F16": "float16"}[dtype]}
    assert max(model.generation for model in made) == 2
    assert (tmp_path / "outputs/run/report.html").exists()
