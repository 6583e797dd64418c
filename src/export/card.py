"""The winner's model card, and the mergekit-multi recipe that rebuilds it from the founders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from src.evaluation import benchmarks
from src.export.licence import Licence, describe, merged_fields
from src.export.metadata import metadata
from src.journal import HeldOut, State
from src.pages.markdown import code, fenced, plain
from src.pages.text import gain
from src.population import KinshipTable, normalised_average
from src.runtime.plugins import is_dotted
from src.runtime.provenance import described
from src.tracking.summary import NORMAL, skills_kept


def multi_recipe(state: State, winner: str, sources: Mapping[str, str]) -> str:
    """Return all merges from the founders to the winner, as one YAML stream for mergekit-multi.

    Args:
        state: of the run.
        winner: the model of the last document.
        sources: a hub name or an absolute folder for the base and every founder.
    """
    steps = [model.name for model in state.population.ancestors(winner) if not model.founder]
    documents = []
    for name in [*steps, winner]:
        config = _with_sources((state.models[name].recipe or {})["config"], sources)
        documents.append(config if name == winner else {"name": name, **config})
    return "---\n".join(yaml.safe_dump(document, sort_keys=False) for document in documents)


def model_card(
    state: State,
    winner: str,
    kinship: KinshipTable,
    sources: Mapping[str, str],
    licences: Mapping[str, Licence | None],
) -> str:
    """Return the README of the winner's folder: the hub's metadata, scores, descent, licence, how to rebuild it.

    Args:
        state: of the run.
        winner: its best model.
        kinship: of its models.
        sources: a hub name or an absolute folder for the base and every founder.
        licences: of the founders that the winner descends from, None where one is not known.
    """
    population = state.population
    line = [*population.ancestors(winner), population[winner]]
    descent = "\n".join(
        f"| {plain(one.name)} | {plain(' × '.join(one.parents) or one.source)} | {one.average:.2f} | "
        f"{_signed(population.gain(one.name))} | {_kinship(kinship, one.parents)} |"
        for one in line
    )
    return f"""---
{metadata(state, winner, sources, merged_fields(licences))}
---
# {plain(winner)}

{_opening(state, winner, len(population))}

{_scores(state, winner)}

## Descent

| model | parents | average | gain | kinship of the parents ({kinship.metric}) |
| --- | --- | ---: | ---: | ---: |
{descent}

## Licence

{describe(licences)}

{_origin(state)}{_rebuilding(state, winner, sources)}"""


def _scores(state: State, winner: str) -> str:
    """Return a table of each task's main metric; on the holdout first, which may be quoted.

    Of the winner, the founders that it descends from, and those that it is compared with.
    """
    population = state.population
    shown = {*(model.name for model in population.ancestors(winner)), *(one.founder for one in state.compared.values())}
    names = [*(model.name for model in population if model.founder and model.name in shown - {winner}), winner]
    select = {
        name: HeldOut(state.models[name].scores, state.models[name].average or 0.0, state.models[name].stderr or 0.0)
        for name in names
    }
    steered = f"{_table(select)}\n\n{_gained(state, 'select')}"
    lucky = f"The best of {len(state.population)} models was kept for these scores, so its own are a little lucky."
    if winner not in state.holdout:
        warning = benchmarks.warning((state.started or {})["settings"]["evaluate"])
        advice = f" In particular, {plain(warning)}." if warning else ""
        return f"## Scores\n\n{steered}{lucky} Nothing was held out: expect less on fresh samples.{advice}"
    held_out = {name: state.holdout[name] for name in names if name in state.holdout}
    return f"""## Scores to quote

On what was held out: it did not steer the search.

{_table(held_out)}

{_gained(state, "holdout")}{_skills(state)}## Scores that steered the search

{steered}{lucky}"""


def _skills(state: State) -> str:
    side, found = skills_kept(state)
    if not found or state.population.best(1)[0].founder:
        return ""
    rows = [
        f"| {plain(one.task)} | {plain(one.specialist)} | {one.best:.2f} | {one.score:.2f} | {one.kept:.0%} |"
        for one in found
    ]
    head = "| task | best founder at it | its score | this model | kept |\n| --- | --- | ---: | ---: | ---: |"
    listed = "\n".join([head, *rows])
    return f"""## Skills kept

{normalised_average(found):.0f} % of what the founder that is best at a task scores, in the mean over tasks ({side}).

{listed}

"""


def _table(scored: Mapping[str, HeldOut]) -> str:
    tasks = list(next(iter(scored.values())).scores)
    rows = [
        f"| {plain(task)} | " + " | ".join(f"{one.scores[task]:.2f}" for one in scored.values()) + " |"
        for task in tasks
    ]
    averages = " | ".join(f"**{one.average:.2f}** ± {NORMAL * one.stderr:.2f}" for one in scored.values())
    head = f"| task | {' | '.join(map(plain, scored))} |\n| --- |{' ---: |' * len(scored)}"
    return "\n".join([head, *rows, f"| average (95 %) | {averages} |"])


def _gained(state: State, side: str) -> str:
    if (found := state.compared.get(side)) is None:
        return ""
    winner, founder = plain(found.winner), plain(found.founder)
    return (
        f"{winner} is {gain(found.difference, found.low, found.high, found.p)} points on {founder}, "
        f"the best founder here, over the same {found.samples} samples.\n\n"
    )


def _opening(state: State, winner: str, models: int) -> str:
    if state.population[winner].founder:
        return f"This is a founder: none of the {models - len(state.sources) + 1} merges that were tried beats it."
    base, generation = code(state.sources["base"]), state.population[winner].generation
    return f"A merge of fine-tunes of {base}, evolved by kinmerge; it is of generation {generation}."


def _origin(state: State) -> str:
    """Return when, by what command and with which code the run was begun, and last gone on with."""
    if not state.starts:
        return ""
    first = dict(described(state.starts[0]))
    command = fenced(first.pop("command", "") + "\n", "bash")
    rows = [f"| {name} | {plain(text)} |" for name, text in first.items()]
    for one in map(dict, map(described, state.starts[1:])):
        rows.append(f"| gone on with | {plain(', '.join(one[key] for key in ('date', 'commit') if key in one))} |")
    return "\n".join(["## How it was made", "", command, "| | |", "| --- | --- |", *rows, "", ""])


def _rebuilding(state: State, winner: str, sources: Mapping[str, str]) -> str:
    if state.population[winner].founder:
        return ""
    recipe = state.models[winner].recipe or {}
    seed, threads = recipe["seed"], recipe["threads"]
    options = f"--random-seed {seed} --num-threads {threads} --no-copy-tokenizer --no-write-model-card"
    if any(one.startswith(f"{sources['base']}+") for one in sources.values()):  # adapters, which mergekit makes whole
        options += " --lora-merge-cache merges/adapters"
    who, program = "mergekit alone", "mergekit-multi"
    if ours := _own_methods(state, winner):
        who = f"mergekit with methods that are not its own ({', '.join(ours)}; put kinmerge's folder in the command)"
        modules = "".join(f" --import {one.rpartition('.')[0]}" for one in ours if is_dotted(one))
        program = f"PYTHONPATH=KINMERGE python -m src.models.methods{modules}"
    return f"""## Rebuilding

`recipe.yaml` has every merge from the founders to this model. {who} makes its weights again:

    {program} recipe.yaml --intermediate-dir merges --out-path {winner} {options}

{fenced(multi_recipe(state, winner, sources), "yaml")}"""


def _own_methods(state: State, winner: str) -> list[str]:
    """Return the merge methods on the way to the winner that mergekit does not have."""
    from src.models.methods import is_ours

    line = (*state.population.ancestors(winner), state.population[winner])
    used = {model.recipe["config"]["merge_method"] for model in line if model.recipe is not None}
    return sorted(method for method in used if is_ours(method) or is_dotted(method))


def _with_sources(config: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    named = {**config, "merge_method": config["merge_method"].rpartition(".")[2]}
    named["models"] = [{**entry, "model": sources.get(entry["model"], entry["model"])} for entry in config["models"]]
    for key in ("base_model", "tokenizer_source"):
        if key in config:
            named[key] = sources.get(config[key], config[key])
    return named


def _signed(gain: float | None) -> str:
    return "" if gain is None else f"{gain:+.2f}"


def _kinship(kinship: KinshipTable, parents: tuple[str, ...]) -> str:
    return f"{kinship.mean(parents):.3f}" if parents else ""
