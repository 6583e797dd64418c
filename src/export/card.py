"""The winner's model card, and the mergekit-multi recipe that rebuilds it from the founders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.evaluation import benchmarks
from src.export.licence import Licence, describe, merged_fields
from src.export.metadata import metadata
from src.journal import HeldOut, State
from src.pages.markdown import code, fenced, plain
from src.pages.text import gain
from src.population import KinshipTable, Model, normalised_average
from src.runtime.plugins import is_dotted
from src.runtime.provenance import described
from src.tracking.summary import NORMAL, skills_kept


def multi_recipe(state: State, winner: str, sources: Mapping[str, str]) -> str:
    """Return all merges from the founders to the winner, the last, as one YAML stream for mergekit-multi.

    `sources` has a hub name or an absolute folder for the base and every founder.
    """
    steps = [model.name for model in state.population.ancestors(winner) if not model.founder]
    documents = []
    for name in [*steps, winner]:
        config = _with_sources((state.models[name].recipe or {})["config"], sources)
        documents.append(config if name == winner else {"name": name, **config})
    return "---\n".join(yaml.safe_dump(document, sort_keys=False) for document in documents)


def model_card(
    state: State, winner: str, kinship: KinshipTable, sources: Mapping[str, str], licences: Mapping[str, Licence | None]
) -> str:
    """Return the README of the winner's folder: the hub's metadata, scores, descent, licence, how to rebuild it.

    `sources` as in `multi_recipe`; `licences` are those of the founders that the winner descends from, as far as known.
    """
    population, best = state.population, state.population[winner]
    line = [*population.ancestors(winner), best]
    side, skills = skills_kept(state)
    methods = _own_methods(line)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "code": code, "fenced": fenced}
    environment.globals |= {"gain": gain, "normalised_average": normalised_average, "normal": NORMAL}
    return environment.get_template("card.md").render(
        **{"state": state, "population": population, "winner": best, "line": line, "kinship": kinship},
        **{"side": side, "skills": skills, **_scored(state, winner)},
        metadata=metadata(state, winner, sources, merged_fields(licences)),
        warning=benchmarks.warning((state.started or {})["settings"]["evaluate"]),
        licence=describe(licences),
        starts=[dict(described(one)) for one in state.starts],
        methods=methods,
        modules=[one.rpartition(".")[0] for one in methods if is_dotted(one)],
        adapters=any(one.startswith(f"{sources['base']}+") for one in sources.values()),  # which mergekit makes whole
        recipe="" if best.founder else multi_recipe(state, winner, sources),
    )


def _scored(state: State, winner: str) -> dict[str, dict[str, HeldOut]]:
    """Return what was scored on either side: of the founders that matter to the winner, and of it, the last.

    These are the founders that it descends from, and those that it is compared with.
    """
    population = state.population
    shown = {*(model.name for model in population.ancestors(winner)), *(one.founder for one in state.compared.values())}
    models = [*(one for one in population if one.founder and one.name in shown - {winner}), population[winner]]
    select = {one.name: HeldOut(one.scores, one.average or 0.0, one.stderr or 0.0) for one in models}
    return {"select": select, "held_out": {name: state.holdout[name] for name in select if name in state.holdout}}


def _own_methods(line: Iterable[Model]) -> list[str]:
    """Return the merge methods on the way to the winner that mergekit does not have."""
    from src.models.methods import is_ours

    used = {model.recipe["config"]["merge_method"] for model in line if model.recipe is not None}
    return sorted(method for method in used if is_ours(method) or is_dotted(method))


def _with_sources(config: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    named = {**config, "merge_method": config["merge_method"].rpartition(".")[2]}
    named["models"] = [{**entry, "model": sources.get(entry["model"], entry["model"])} for entry in config["models"]]
    for key in ("base_model", "tokenizer_source"):
        if key in config:
            named[key] = sources.get(config[key], config[key])
    return named
