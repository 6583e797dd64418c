"""The winner's model card, and the mergekit-multi recipe that rebuilds it from the founders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.evaluation import benchmarks
from src.export.licence import Licence, describe, merged_fields
from src.journal import HeldOut, State
from src.pages.markdown import code, fenced, plain
from src.pages.text import gain
from src.population import KinshipTable, Model, normalised_average
from src.runtime.plugins import is_dotted
from src.runtime.provenance import described
from src.tracking.summary import NORMAL, skills_kept

TAGS = ("merge", "mergekit", "kinmerge")


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


def rebuilding(state: State, winner: str, sources: Mapping[str, str]) -> str:
    """Return the command that makes the same bytes of what `multi_recipe` returns, without asking the hub for anything.

    KINMERGE in it stands for the folder of the project, which is needed where a merge method is not mergekit's.
    """
    model = state.population[winner]
    recipe, methods = model.recipe or {}, _own_methods([*state.population.ancestors(winner), model])
    known = [f"--import {one.rpartition('.')[0]}" for one in methods if is_dotted(one)]
    adapters = any(one.startswith(f"{sources['base']}+") for one in sources.values())  # which mergekit makes whole
    words = [
        *(["PYTHONPATH=KINMERGE python -m src.models.methods", *known] if methods else ["mergekit-multi"]),
        f"recipe.yaml --intermediate-dir merges --out-path {winner}",
        f"--random-seed {recipe['seed']} --num-threads {recipe['threads']} --no-copy-tokenizer --no-write-model-card",
        *(["--lora-merge-cache merges/adapters"] if adapters else []),
    ]
    return " ".join(words)


def model_card(
    state: State, winner: str, kinship: KinshipTable, sources: Mapping[str, str], licences: Mapping[str, Licence | None]
) -> str:
    """Return the README of the winner's folder: the hub's metadata, scores, descent, licence, how to rebuild it.

    `sources` as in `multi_recipe`; `licences` are those of the founders that the winner descends from, as far as known.
    """
    population, best = state.population, state.population[winner]
    line = [*population.ancestors(winner), best]
    side, skills = skills_kept(state)
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
        methods=_own_methods(line),
        command="" if best.founder else rebuilding(state, winner, sources),
        recipe="" if best.founder else multi_recipe(state, winner, sources),
    )


def metadata(state: State, winner: str, sources: Mapping[str, str], licence: Mapping[str, str]) -> str:
    """Return the YAML at the head of the card; sources that are folders, which the hub refuses, are left out."""
    population = state.population
    line = [*population.ancestors(winner), population[winner]]
    founders = [hub_name(sources[model.name]) for model in line if model.founder]
    bases = [name for name in founders if name is not None]
    more: dict[str, Any] = dict(licence)
    if bases and not population[winner].founder:
        more["base_model_relation"] = "merge"
    return ModelCardData(
        base_model=bases or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(TAGS) if not population[winner].founder else ["kinmerge"],
        model_name=winner,
        eval_results=list(_results(state, winner)),
        **more,
    ).to_yaml()


def hub_name(source: str) -> str | None:
    """Return a founder's owner/name on the hub, an adapter's own of BASE+ADAPTER; None of a folder here."""
    own = source.rpartition("+")[2]
    try:
        validate_repo_id(own)
    except HFValidationError:
        return None
    return own if own.count("/") == 1 else None


def _results(state: State, winner: str) -> Iterable[EvalResult]:
    """Yield a result for each task and side, in points; the side is the split, by which the hub groups results."""
    sides = {"selection": state.population[winner].scores}
    if winner in state.holdout:
        sides = {"holdout": state.holdout[winner].scores, **sides}
    for side, scores in sides.items():
        for task, score in scores.items():
            metric = state.metrics.get(task, "score")
            yield EvalResult(
                task_type="text-generation",
                dataset_type=task,
                dataset_name=f"{task} ({'held out' if side == 'holdout' else 'steered the search'})",
                dataset_split=side,
                metric_type=metric.partition(",")[0],
                metric_name=f"{metric} ×100",
                metric_value=round(score, 2),
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
