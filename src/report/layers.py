"""A layered drawing of a pedigree: a column a generation, and lines that pass between models, never through one.

Edges that pass a column have a place of their own in it, a lane, as in Sugiyama, Tagawa and Toda (1981); edges of one
parent share its lanes. Merges of the same three parents or more share a junction: one line from each parent, and one
on to all of them, instead of a line from each to each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.optimize import isotonic_regression

from src.population import Model

SWEEPS = 12
"""Passes over the columns that untangle the lines."""
STRAIGHT = 4.0
"""How much more a lane keeps its height than a model does."""
SHARED = 3
"""Parents from which on merges of the same ones share a junction."""
ROOM = {"model": 0.5, "junction": 0.3, "lane": 0.14}
"""Half of the height that each takes in its column."""

Place = tuple[float, float]
Node = tuple[str, Hashable]
"""What it is (a key of ROOM), and which."""


@dataclass(frozen=True)
class Line:
    """A piece of one edge or of several, from a column to the next."""

    start: Place
    end: Place
    children: tuple[str, ...]
    """The offspring whose edges these are."""


@dataclass(frozen=True)
class Layers:
    """Where everything is: x is a generation, y a height around 0, in models that stand on each other."""

    models: dict[str, Place]
    junctions: dict[tuple[str, ...], Place]
    """By the offspring that share one."""
    lines: list[Line]


def layers(models: Sequence[Model], label: float = 0.0) -> Layers:
    """Lay out models, oldest first; edges from models that are not among them are left out.

    Nodes are ordered by the mean height of what they are joined to, column by column, back and forth (the barycentre
    heuristic), and stand as near to it as they fit (isotonic regression).

    Args:
        models: at least one.
        label: room above each model for its name, in models.
    """
    level: dict[Node, float] = {("model", model.name): float(model.generation) for model in models}
    edges = _edges(models, level)
    segments = _segments(edges, level)
    columns: dict[float, list[Node]] = defaultdict(list)
    for node, x in level.items():
        columns[x].append(node)
    y = _heights(columns, list(segments), label)
    middle = (max(y.values()) + min(y.values())) / 2
    at = {node: (x, y[node] - middle) for node, x in level.items()}
    return Layers(
        {model.name: at["model", model.name] for model in models},
        {node[1]: place for node, place in at.items() if node[0] == "junction" and isinstance(node[1], tuple)},
        [Line(at[start], at[end], tuple(children)) for (start, end), children in segments.items()],
    )


def _edges(models: Sequence[Model], level: dict[Node, float]) -> list[tuple[Node, Node, tuple[str, ...]]]:
    """Return edges with the offspring they belong to; junctions are added to the levels, half a column to the left."""
    alike: dict[frozenset[str], list[Model]] = defaultdict(list)
    for model in models:
        alike[frozenset(model.parents)].append(model)
    edges: list[tuple[Node, Node, tuple[str, ...]]] = []
    for group in alike.values():
        parents: list[Node] = [("model", name) for name in group[0].parents if ("model", name) in level]
        names = tuple(model.name for model in group)
        if len(group[0].parents) < SHARED or len(group) == 1:
            edges += [(parent, ("model", name), (name,)) for name in names for parent in parents]
            continue
        junction: Node = ("junction", names)
        level[junction] = min(model.generation for model in group) - 0.5
        edges += [(parent, junction, names) for parent in parents]
        edges += [(junction, ("model", name), (name,)) for name in names]
    return edges


def _segments(
    edges: Sequence[tuple[Node, Node, tuple[str, ...]]], level: dict[Node, float]
) -> dict[tuple[Node, Node], list[str]]:
    """Cut edges at every column that they pass, in lanes that are added to the levels; with whose edges pass there."""
    columns = sorted(set(level.values()))
    segments: dict[tuple[Node, Node], list[str]] = defaultdict(list)
    for parent, child, names in edges:
        start = parent
        for x in columns:
            if level[parent] < x < level[child]:
                lane: Node = ("lane", (parent, x))
                level[lane] = x
                segments[start, lane] += names
                start = lane
        segments[start, child] += names
    return segments


def _heights(
    columns: dict[float, list[Node]], segments: Sequence[tuple[Node, Node]], label: float
) -> dict[Node, float]:
    joined: dict[Node, list[Node]] = defaultdict(list)
    for start, end in segments:
        joined[start].append(end)
        joined[end].append(start)
    y: dict[Node, float] = {}
    for nodes in columns.values():
        y.update(_fit(nodes, dict.fromkeys(nodes, 0.0), label))
    order = sorted(columns)
    for sweep in range(SWEEPS):
        for x in order if sweep % 2 == 0 else order[::-1]:
            nodes = columns[x]
            wanted = {node: fmean([y[one] for one in joined[node]] or [y[node]]) for node in nodes}
            nodes.sort(key=wanted.__getitem__, reverse=True)
            y.update(_fit(nodes, wanted, label))
    return y


def _fit(nodes: Sequence[Node], wanted: dict[Node, float], label: float) -> dict[Node, float]:
    """Return heights, falling in this order, none nearer to the next than both need, and near to what is wanted."""
    above = [ROOM[node[0]] + label * (node[0] == "model") for node in nodes]
    below = [ROOM[node[0]] for node in nodes]
    gaps = [0.0, *(low + high for low, high in zip(below, above[1:], strict=False))]
    depth = np.cumsum(gaps)
    weights = [STRAIGHT if node[0] == "lane" else 1.0 for node in nodes]
    fitted = isotonic_regression([wanted[node] for node in nodes] + depth, weights=weights, increasing=False).x
    return dict(zip(nodes, map(float, fitted - depth), strict=True))
