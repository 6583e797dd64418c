"""Offspring of offspring by regression are made from the founders."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from src.config import Merge
from src.journal import parse, replay
from src.models import merging
from src.models.methods.lineage import from_founders
from tests.conftest import Command
from tests.family import FOUNDERS


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
