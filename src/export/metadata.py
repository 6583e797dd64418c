"""What the hub reads of the winner's card: where it comes from, its licence, and what it scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from src.journal import State

TAGS = ("merge", "mergekit", "kinmerge")


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
