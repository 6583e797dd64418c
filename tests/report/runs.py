"""Runs of any size in a second: real strategies, journals, kinships and analysis; the models are vectors of numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from src import config
from src.journal import Journal, State
from src.kinship import METRICS, Grams, Tensor, kinship_matrix
from src.kinship.kinds import kind_of, layer_of
from src.runtime import checksums, files
from src.strategy import strategy_of

LAYERS, WIDTH, SAMPLES = 6, 24, 100
TENSORS = (
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(LAYERS) for part in ("self_attn.q_proj", "mlp.up_proj", "norm")),
    "model.norm.weight",
)
CONF = Path(__file__).parents[2] / "conf"


def settings_of(*overrides: str) -> dict[str, Any]:
    """The settings of a run, as its journal holds them."""
    with initialize_config_dir(str(CONF)):
        read = config.read(compose("config", ["name=run", "strategy=kinship_topk", *overrides]))
    GlobalHydra.instance().clear()
    return read.model_dump(mode="json")


class Run:
    """An evolution of vectors, written as src.evolution writes one."""

    def __init__(self, folder: Path, founders: tuple[str, ...], tasks: tuple[str, ...], *overrides: str) -> None:
        listed = "{" + ",".join(f"{name}:/models/{name}" for name in founders) + "}"
        named = ["founders=local", "founders.base=/models/base", f"founders.models={listed}"]
        self.settings = settings_of(*named, "evaluate.tasks=[any]", *overrides)
        self.settings["evaluate"]["tasks"] = [{"name": task, "weight": 1.0} for task in tasks]
        self.folder = folder
        self.rng = np.random.default_rng(7)
        self.vectors: dict[str, np.ndarray] = {"base": self.rng.normal(size=(len(TENSORS), WIDTH))}
        self.targets = {task: self.rng.normal(size=(len(TENSORS), WIDTH)) for task in tasks}
        for number, name in enumerate(founders):
            skilled = self.targets[tasks[number % len(tasks)]]
            noise = self.rng.normal(size=skilled.shape)
            self.vectors[name] = self.vectors["base"] + 0.35 * skilled + 0.25 * noise
        self.founders = founders
        self.difficulty = {task: self.rng.uniform(0.15, 0.95, SAMPLES) for task in tasks}

    def write(self, models: int, *, end: str | None = "the budget is spent", fail: tuple[str, ...] = ()) -> Path:
        """Evolve until there are so many models, and end."""
        strategy = strategy_of(self.settings["strategy"])
        metric = METRICS[self.settings["kinship"]["metric"]]
        self.journal, self.state = Journal(self.folder / "journal.jsonl"), State()
        self._record("started", version=1, settings=self.settings, versions={}, machine={"device": "cpu", "threads": 1})
        for name in ("base", *self.founders):
            self._record(
                "founder", model=name, base=name == "base", source=f"/models/{name}", fingerprint=name, parameters=9
            )
        self._measured(list(self.founders))
        for name in self.founders:
            self._evaluated(name)
        self._record("closed", generation=0, seconds=3.0)
        while True:
            table = self.state.table(metric.name, metric.larger_is_closer)
            pairs = strategy.propose(self.state.population, table)[: models - len(self.state.population)]
            if not pairs:
                break
            self._generation(self.state.population.generation + 1, pairs, fail)
        if end is not None:
            self._record("stopped", reason=end, best=self.state.population.best(1)[0].name)
        self.journal.close()
        return self.folder

    def _record(self, event: str, **fields: Any) -> None:
        self.state.apply(self.journal.append(event, **fields))

    def _generation(self, generation: int, pairs: list[Any], fail: tuple[str, ...]) -> None:
        names = [f"{generation}-{'exp' if pair.exploration else n}" for n, pair in enumerate(pairs, 1)]
        offspring = [
            {"name": name, "parents": list(pair.parents), "exploration": pair.exploration}
            for name, pair in zip(names, pairs, strict=True)
        ]
        self._record("selected", generation=generation, offspring=offspring)
        sound = []
        for name, pair in zip(names, pairs, strict=True):
            if name in fail:
                self._record("failed", model=name, stage="merge", reason="merge: RuntimeError: <b>no room</b> left")
                continue
            merged = np.mean([self.vectors[parent] for parent in pair.parents], axis=0)
            self.vectors[name] = merged + 0.02 * self.rng.normal(size=merged.shape)
            config = {"merge_method": "slerp", "models": [{"model": p} for p in pair.parents], "parameters": {"t": 0.5}}
            recipe = {"config": config, "donor": pair.parents[0], "seed": 0, "threads": 1}
            self._record("merged", model=name, recipe=recipe, fingerprint=name, seconds=0.4)
            sound.append(name)
        self._measured(sound)
        for name in sound:
            self._evaluated(name)
        self._record("closed", generation=generation, seconds=2.5 * len(pairs))

    def _measured(self, new: list[str]) -> None:
        grams = self._grams()
        kinship = {}
        for metric in METRICS:
            matrix = kinship_matrix(grams, metric)
            kinship[metric] = [
                (a, b, float(matrix[i, j]))
                for j, b in enumerate(grams.names)
                for i, a in enumerate(grams.names[:j])
                if a in new or b in new
            ]
        grams.save(self.folder / "kinship.npz")
        self._record("measured", models=new, kinship=kinship, seconds=0.3)

    def _grams(self) -> Grams:
        names = tuple(name for name in self.vectors if name != "base")
        base = self.vectors["base"]
        rows = np.stack([base, *(self.vectors[name] - base for name in names)], axis=1)  # [T, n + 1, WIDTH]
        tensors = tuple(Tensor(name, kind_of(name), layer_of(name), WIDTH) for name in TENSORS)
        return Grams(names, tensors, np.einsum("tiw,tjw->tij", rows, rows), rows.sum(axis=2))

    def _evaluated(self, name: str) -> None:
        samples, scores = {}, {}
        for task, target in self.targets.items():
            skill = 1 / (1 + np.exp(-16 * float(np.mean((self.vectors[name] - self.vectors["base"]) * target)) + 2))
            right = self.rng.random(SAMPLES) < 0.5 * skill + 0.5 * (self.difficulty[task] < skill)
            samples[task] = {i: float(one) for i, one in enumerate(right)}
            scores[task] = 100 * float(right.mean())
        average = float(np.mean(list(scores.values())))
        weights = dict.fromkeys(scores, 1 / len(scores))
        kept = {"average": average, "samples": samples, "weights": weights}
        files.write_bytes(self.folder / "samples" / f"{name}.json", checksums.dump(kept))
        errors = [np.std(list(one.values()), ddof=1) / np.sqrt(SAMPLES) for one in samples.values()]
        self._record(
            "evaluated",
            model=name,
            scores=scores,
            average=average,
            stderr=100 * float(np.sqrt(np.sum(np.square(errors)))) / len(errors),
            samples=SAMPLES * len(scores),
            cached=len(self.vectors) % 5 == 0,
            seconds=1.5,
        )
