"""A run of thousands of models has a page that a browser opens, which says what it leaves out."""

import html
import os
from pathlib import Path

import numpy as np
import pytest

from src.journal import Journal
from src.report import page
from tests.report.runs import settings_of

MODELS, EACH, NEAR = 5000, 20, 60
FOUNDERS = [f"f{number}" for number in range(8)]


def write(folder: Path) -> None:
    """The journal of a run whose scores and kinships are drawn, each measured to its founders and its like in age."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    journal = Journal(folder / "journal.jsonl")
    listed = ",".join(f"{name}:/models/{name}" for name in FOUNDERS)
    settings = settings_of(
        *(
            "strategy=kinship_topk",
            "founders=local",
            "founders.base=/models/base",
            f"founders.models={{{listed}}}",
            "evaluate.tasks=[any]",
        )
    )
    journal.append("started", version=1, settings=settings, versions={}, machine={"device": "cpu", "threads": 1})
    for name in ("base", *FOUNDERS):
        about = {"source": f"/models/{name}", "fingerprint": name, "parameters": 9}
        journal.append("founder", model=name, base=name == "base", **about)
    averages: dict[str, float] = {}

    def measure(new: list[str], known: list[str]) -> None:
        pairs = [(a, b) for place, b in enumerate(new) for a in [*known, *new[:place]]]
        kinship = {
            metric: [(a, b, float(rng.uniform(0.1, 0.99))) for a, b in pairs]
            for metric in ("pcc", "cosine", "euclidean")
        }
        journal.append("measured", models=new, kinship=kinship, seconds=0.3)

    def evaluate(name: str, average: float) -> None:
        averages[name] = average
        found = {"scores": {"a": average - 1, "b": average + 1}, "average": average, "stderr": 1.0, "samples": 200}
        journal.append("evaluated", model=name, **found, metrics={}, cached=False, seconds=1.5)

    measure(FOUNDERS, [])
    for name in FOUNDERS:
        evaluate(name, float(rng.uniform(40, 50)))
    journal.append("closed", generation=0, seconds=1.0)
    for generation in range(1, 1 + (MODELS - len(FOUNDERS)) // EACH):
        recent = list(averages)[-NEAR:]
        parents = {f"{generation}-{n + 1}": [str(p) for p in rng.choice(recent, 2, replace=False)] for n in range(EACH)}
        listing = [{"name": name, "parents": pair, "exploration": False} for name, pair in parents.items()]
        journal.append("selected", generation=generation, offspring=listing)
        for name, pair in parents.items():
            config = {"merge_method": "slerp", "models": [{"model": parent} for parent in pair]}
            recipe = {"config": config, "donor": pair[0], "seed": 0, "threads": 1}
            journal.append("merged", model=name, recipe=recipe, fingerprint=name, seconds=0.4)
        measure(list(parents), [*FOUNDERS, *recent] if generation > len(FOUNDERS) else recent)
        for name, pair in parents.items():
            evaluate(name, float(np.mean([averages[parent] for parent in pair]) + rng.normal(0, 0.5)))
        journal.append("closed", generation=generation, seconds=2.0)
    journal.append("stopped", reason="the budget is spent", best=max(averages, key=averages.__getitem__))
    journal.close()


def test_the_page_of_five_thousand_models_is_small_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # ten thousand events, and nothing is lost if this one dies
    write(tmp_path / "run")
    made = page.write(tmp_path / "run", tmp_path / "page.html")
    text = made.read_text()
    assert len(text) < 10e6
    words = html.unescape(text)
    merges = (MODELS - len(FOUNDERS)) // EACH * EACH
    models = len(FOUNDERS) + merges
    assert f"Of {models:,} models 300 are shown: the winner's line, as far back as there is room, and the best" in words
    assert "The rest is left out here; the journal has it." in words
    assert f"Every model is a point: 1,000 of {models:,}, evenly spaced, and the rest is left out." in words
    assert f"The figures of all merges show some: 1,000 of {merges:,}, evenly spaced" in words
    assert "f0" in text
