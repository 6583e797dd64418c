"""The steps of an evolution, each of which goes on from wherever the journal says the run is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

from rich.console import Console

from src import cache, holdout, merge, publish, track
from src.checkpoint import Checkpoint
from src.config import Settings, refuse_other
from src.errors import UserError
from src.evaluate import Evaluation, Evaluator, surroundings
from src.journal import VERSION, Journal, Offspring, replay, spared
from src.kinship import METRICS, Grams, kinship_matrix, measure, predicted_kinship
from src.population import KinshipTable
from src.report import ending, figures, page, progress, table
from src.sweep import rivals
from src.weights import Weights
from src.winner import hand_on
from src.workers import Workers

LIBRARIES = ("torch", "transformers", "mergekit", "lm-eval", "safetensors", "accelerate")
PASSING = frozenset({"dry_run", "resume", "retry_failed", "publish", "sweep"})
"""Settings of a single start, not of the run."""


class Evolution:
    """One run: its settings, its journal and the models it works with.

    Everything that happened is in the journal; what lies beside it (weights, kinship's sums, scores of single samples)
    can be made again from it.
    """

    def __init__(self, settings: Settings, base: Checkpoint, founders: Mapping[str, Checkpoint]) -> None:
        """Take up the run that the folder's journal tells of, or begin it.

        Raises:
            UserError: the journal is of a run with other settings, or damaged, or a founder's weights have changed.
        """
        self.settings = settings
        self.folder = settings.folder
        self._given = {"base": base, **founders}
        self._workers = Workers(settings.workers)
        path = self.folder / "journal.jsonl"
        if not path.exists():
            _ = self._evaluator  # a mistake among the tasks must not leave a folder behind
        self.journal = Journal(path)
        self.state = replay(self.journal.events)
        self._cache = cache.Cache(settings.cache.folder, weights=settings.cache.weights)
        self._weights = Weights(
            self.folder,
            self._given,
            self.state.recipes,
            self.state.fingerprints,
            cache=self._cache,
            device=self._workers.device,
            remote_code=settings.trust_remote_code,
        )
        self._k: int | None = getattr(settings.strategy, "k", None)
        self._reason = ""
        self._since = time.monotonic()
        self._rivals = rivals.of(settings.sweep)
        self._console = Console()
        try:
            self._begin()
        except BaseException:
            self.journal.close()
            raise

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end, now or at an earlier start."""
        return self.state.stopped is not None

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(
            self.settings.evaluate,
            seed=self.settings.seed,
            device=self._workers.device,
            remote_code=self.settings.trust_remote_code,
        )

    @cached_property
    def _tracker(self) -> track.Tracker:
        return track.start(self.settings.track, self.folder, self._wanted(), main=self._workers.main)

    @cached_property
    def _grams(self) -> Grams | None:
        """What was measured so far, as far as the journal knows of it: anything beyond is measured again."""
        path = self.folder / "kinship.npz"
        if not path.is_file() or not self.state.measured:
            return None
        stored = Grams.load(path)
        return stored.of([name for name in stored.names if name in self.state.measured])

    @property
    def kinship(self) -> KinshipTable:
        """Kinship under the run's metric, as strategies see it."""
        metric = self.settings.kinship.metric
        return self.state.table(metric, METRICS[metric].larger_is_closer, self._predicted)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def introduce(self) -> None:
        """Generation 0: how related the founders are, and how good each is."""
        if self.state.closed < 0:
            self.measure()
            self.evaluate()
            failed = [model for model in self.state.population if model.failure is not None]
            if len(self.state.population.eligible()) < 2:
                raise UserError(
                    f"fewer than two founders could be evaluated; {failed[0].name}: {failed[0].failure}.\n"
                    "Mend the cause and run the same command with retry_failed=true."
                )
            self.end_generation()

    def goes_on(self) -> bool:
        """Whether there is a generation to work on: one left open by an interruption, or a new one with new pairs."""
        if self.state.selected:
            return True
        population = self.state.population
        reason = self._nothing_works() or self.settings.stop.reason(population, self.kinship, self.state.spent, self._k)
        if self.settings.keep != "all":
            self._weights.discard(self._kept())
        pairs = [] if reason else self.settings.strategy.pairs(population, self.kinship)
        if self.settings.stop.evaluations is not None:
            pairs = pairs[: self.settings.stop.evaluations - self.state.evaluations]
        if pairs and (reason := self._rivals.reason(population.best(1)[0].average or 0.0, population.generation)):
            pairs = []
        if not pairs:
            self._reason = reason or "nothing is left to merge"
            return False
        generation = population.generation + 1
        names = [f"{generation}-{'exp' if pair.exploration else n}" for n, pair in enumerate(pairs, 1)]
        offspring = [
            {"name": name, "parents": list(pair.parents), "exploration": pair.exploration}
            for name, pair in zip(names, pairs, strict=True)
        ]
        self._record("selected", generation=generation, offspring=offspring)
        return True

    def merge(self) -> None:
        """Make the offspring that were selected and are not there yet."""
        todo = [one for one in self.state.selected if one.name not in self.state.recipes and self._sound(one.name)]
        if todo:
            self._weights.require_space(len(todo))
        for one, outcome in zip(todo, self._workers.map(_tried("merge", self._merged), todo), strict=True):
            self._settle(one.name, "merged", outcome)

    def measure(self) -> None:
        """Kinship of every model that has none yet, to every other."""
        while new := [name for name in self._names() if name not in self.state.measured and self._sound(name)]:
            began = time.monotonic()
            kept = self._kept()
            models = {name: self._weights.checkpoint(name) for name in self._names() if name in kept or name in new}
            try:
                self._grams, cached = self._measured(models)
            except UserError:
                if not self._blame([name for name in new if self.state.population[name].parents]):
                    raise
                continue
            self._grams.save(self.folder / "kinship.npz")
            kinship = {metric: list(_new_pairs(self._grams, metric, new)) for metric in METRICS}
            self._record("measured", models=new, kinship=kinship, cached=cached, seconds=time.monotonic() - began)

    def evaluate(self) -> None:
        """Score every model that has not been scored."""
        population = self.state.population
        todo = [name for name in self._names() if population[name].average is None and self._sound(name)]
        label = f"generation {population.generation}" if population.generation else "founders"
        for name, outcome in self._scored("select", todo, label):
            self._settle(name, "evaluated", outcome)

    def end_generation(self) -> None:
        """End the generation: tell the tracker, show the table."""
        now = time.monotonic()
        self._record("closed", generation=self.state.population.generation, seconds=now - self._since)
        self._since = now
        self._show()

    def hold_out(self) -> None:
        """Score the winner and the founders on what did not steer the search, and compare the winner with the best."""
        if self.settings.evaluate.holdout is not None:
            winner = self.state.population.best(1)[0]
            known = {*self.state.holdout, *(() if self.settings.retry_failed else self.state.holdout_failures)}
            models = [model.name for model in self.state.population.eligible() if model.founder or model is winner]
            todo = [name for name in models if name not in known]
            for name, outcome in self._scored("holdout", todo, "holdout"):
                if isinstance(outcome, Failure):
                    self._record("holdout_failed", model=name, reason=outcome.reason)
                    self._console.print(f"{name} has no holdout score: {outcome.reason}", highlight=False)
                else:
                    self._record("held_out", model=name, **outcome)
                    progress.note(f"{name}: {outcome['average']:.2f} on the holdout in {outcome['seconds']:.1f} s")
        for side in holdout.SIDES:
            compared = holdout.compare(self.folder, self.state, side)
            if compared is not None and compared != self.state.compared.get(side):
                self._record("compared", side=side, **asdict(compared))

    def finish(self) -> None:
        """Keep the best model with its card, say why the run ended, and close everything."""
        winner = self.state.population.best(1)[0]
        hand_on(self.folder / "best", self.state, self.kinship, self._weights, self._given)
        self._record("stopped", reason=self._reason, best=winner.name)
        if self.settings.keep == "best":
            self._weights.discard(())
        self._tracker.summary(ending.summary(self.state))
        self._tracker.artifact(self.folder / "best" / "README.md", "card")
        if not winner.founder:
            self._tracker.artifact(self.folder / "best" / "recipe.yaml", "recipe")
        names = self._grams.names if self._grams else ()
        rows = [[a, *(None if a == b else self.kinship.between(a, b) for b in names)] for a in names]
        self._tracker.table("kinship", ["model", *names], rows, self.state.population.generation)
        page.present(self.folder, self._tracker, self.state.population.generation)

    def publish(self) -> None:
        """Upload best/ to the hub, if that was asked for."""
        if self._workers.main and self.settings.publish.repo_id is not None:
            publish.upload(self.folder / "best", self.settings.publish)

    def close(self) -> None:
        """Flush the tracker and let go of the journal, however the run ends."""
        if "_tracker" in self.__dict__:
            self._tracker.finish()
        self.journal.close()

    def report(self) -> dict[str, float]:
        """Say how the run ended; the figures that a sweep may go by: best average, in points, and what it took."""
        winner = self.state.population.best(1)[0]
        assert winner.average is not None
        self._console.print(f"stopped: {self.state.stopped}", highlight=False)
        if known := spared([self.state]):
            self._console.print(known, highlight=False)
        self._console.print(ending.text(self.state), highlight=False, soft_wrap=True)
        for made in ("best", page.NAME):
            self._console.print(os.path.relpath(self.folder / made), highlight=False, soft_wrap=True)
        spent = self.state.spent
        return {
            "best": winner.average,
            "evaluations": spent.evaluations,
            "samples": self.state.samples,
            "hours": spent.hours,
        }

    # --- one job each ------------------------------------------------------------------------------------------------

    def _merged(self, one: Offspring) -> dict[str, Any]:
        began = time.monotonic()
        recipe = merge.recipe(
            self.settings.merge,
            one.parents,
            seed=self.settings.seed,
            threads=self._workers.threads,
            align=merge.align([self._weights.checkpoint(name) for name in one.parents]),
        )
        made = self._weights.make(one.name, recipe)
        return {
            "recipe": recipe.as_dict(),
            "fingerprint": made.fingerprint(),
            "cached": one.name in self._weights.known,
            "seconds": time.monotonic() - began,
        }

    def _measured(self, models: Mapping[str, Checkpoint]) -> tuple[Grams, bool]:
        """The inner products of all deltas, and whether they were known from another run."""
        base, known = self._given["base"], self._grams
        names = (*(known.names if known else ()), *(name for name in models if not known or name not in known.names))
        key = cache.key(
            [self.state.fingerprints[name] for name in ("base", *names)],
            [name in models for name in names],
            len(known.names) if known else 0,
        )
        if (kept := self._cache.grams(key, names)) is not None:
            return kept, True
        with progress.bar("measuring kinship", unit="byte") as bar:
            grams = measure(base, models, known=known, device=self._workers.device, progress=progress.whole(bar))
        self._cache.keep_grams(key, grams)
        return grams, False

    def _blame(self, offspring: Sequence[str]) -> bool:
        """Record the offspring that cannot be measured (NaN weights, say) as failed; False where there is none."""
        guilty = {}
        for name in offspring:
            try:
                measure(self._given["base"], {name: self._weights.checkpoint(name)})
            except UserError as own:
                guilty[name] = str(own)
        for name, why in guilty.items():
            self._record("failed", model=name, stage="measurement", reason=why)
            self._console.print(f"{name} failed and is left out: {why}", highlight=False)
        return bool(guilty)

    def _predicted(self, parents: Sequence[str]) -> Mapping[str, float] | None:
        assert self._grams is not None, "kinship is asked for before the founders were measured"
        planned = merge.recipe(self.settings.merge, parents, seed=self.settings.seed, threads=self._workers.threads)
        return predicted_kinship(self._grams, planned.config, self.settings.kinship.metric)

    def _scored(self, side: str, models: Sequence[str], label: str) -> Iterator[tuple[str, dict[str, Any] | Failure]]:
        """What each model came to on a side, in order, as soon as it is known."""
        job = _tried("evaluation", partial(self._evaluated, side))
        with progress.bar(label, total=len(models), unit="model") as bar:
            jobs = ((name, progress.share(bar, done)) for done, name in enumerate(models))
            yield from zip(models, self._workers.map(job, jobs), strict=True)

    def _evaluated(self, side: str, job: tuple[str, Callable[[int, int], None]]) -> dict[str, Any]:
        name, follow = job
        began = time.monotonic()
        evaluator = self._evaluator.holdout if side == "holdout" else self._evaluator
        assert evaluator is not None
        checkpoint = self._weights.checkpoint(name)
        key = cache.key(checkpoint.fingerprint(), surroundings(checkpoint.path), evaluator.identity, self.settings.seed)
        kept = self._cache.evaluation(key)
        evaluation = Evaluation.from_dict(kept) if kept else evaluator.evaluate(checkpoint.path, follow)
        if not kept:
            self._cache.keep_evaluation(key, asdict(evaluation))
        evaluation.save(holdout.place(self.folder, name, side))
        return {
            "scores": dict(evaluation.scores),
            "average": evaluation.average,
            "stderr": evaluation.stderr,
            "samples": evaluation.count,
            "metrics": dict(evaluation.metrics),
            "cached": kept is not None,
            "seconds": time.monotonic() - began,
        }

    def _settle(self, model: str, event: str, outcome: dict[str, Any] | Failure) -> None:
        if isinstance(outcome, Failure):
            self._record("failed", model=model, stage=outcome.stage, reason=outcome.reason)
            self._console.print(f"{model} failed and is left out: {outcome.reason}", highlight=False)
        else:
            self._record(event, model=model, **outcome)
            if event == "evaluated":
                progress.note(f"{model}: {outcome['average']:.2f} in {outcome['seconds']:.1f} s")

    # --- memory ------------------------------------------------------------------------------------------------------

    def _record(self, event: str, **fields: Any) -> None:
        self.state.apply(self.journal.append(event, **fields))

    def _wanted(self) -> dict[str, Any]:
        return self.settings.model_dump(mode="json", exclude=set(PASSING))

    def _begin(self) -> None:
        if self.state.started is None:
            versions = {library: version(library) for library in LIBRARIES}
            machine = {"device": self._workers.device, "threads": self._workers.threads}
            self._record("started", version=VERSION, settings=self._wanted(), versions=versions, machine=machine)
        elif self.state.started["settings"] != self._wanted():
            refuse_other(self.state.started["settings"], self._wanted(), self.settings)
            self._record("resumed", settings=self._wanted())
        for name, checkpoint in self._given.items():
            if name not in self.state.sources:
                self._record(
                    "founder",
                    model=name,
                    base=name == "base",
                    source=checkpoint.source,
                    fingerprint=checkpoint.fingerprint(),
                    parameters=checkpoint.parameters,
                )
            elif self.state.fingerprints[name] != checkpoint.fingerprint():
                raise UserError(
                    f"the weights of {name} ({checkpoint.source}) are not those that the run {self.settings.name} "
                    "began with. Bring the old ones back, or begin anew with name=…"
                )
        if self.settings.retry_failed and not self.finished:
            for model in self.state.population:
                if model.failure is not None and model.name not in self.state.retried:
                    self._record("retried", model=model.name)
        elif self.settings.retry_failed and self.state.holdout_failures:
            self._record("resumed", settings=self._wanted())

    # --- models ------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [model.name for model in self.state.population]

    def _sound(self, name: str) -> bool:
        return self.state.population[name].failure is None

    def _kept(self) -> set[str]:
        """The models whose weights the open generation may need: founders, and what could still become a parent."""
        if self.settings.keep == "all":
            return {name for name in self._names() if self._sound(name)}
        settled = self.state.population.until(self.state.closed)
        founders = {model.name for model in settled if model.founder}
        return founders | self.settings.strategy.may_parent(settled)

    def _nothing_works(self) -> str | None:
        youngest = [m for m in self.state.population if m.generation == self.state.population.generation and m.parents]
        if youngest and all(model.failure for model in youngest):
            return f"every candidate of generation {youngest[0].generation} failed; the first: {youngest[0].failure}"
        return None

    def _show(self) -> None:
        population, stderr = self.state.population, self.state.stderr
        self._tracker.log(figures.of_generation(self.state, self.kinship, self._k), population.generation)
        rows = table.rows(population, self.kinship, stderr)
        self._tracker.table("models", table.COLUMNS, rows, population.generation)
        self._console.print(table.render(population, self.kinship, stderr, self._k))


def _new_pairs(grams: Grams, metric: str, new: Iterable[str]) -> Iterator[tuple[str, str, float]]:
    matrix = kinship_matrix(grams, metric)
    fresh = set(new)
    for i, a in enumerate(grams.names):
        for j, b in enumerate(grams.names[:i]):
            if (a in fresh or b in fresh) and matrix[i, j] == matrix[i, j]:
                yield b, a, float(matrix[i, j])


@dataclass(frozen=True)
class Failure:
    """Why a candidate came to nothing: the stage that raised, and what it said."""

    stage: str
    reason: str


def _tried(stage: str, job: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any] | Failure]:
    """The job, with its exceptions as results: one bad candidate must not cost the others. A user's mistake may."""

    def attempt(item: Any) -> dict[str, Any] | Failure:
        try:
            return job(item)
        except UserError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            return Failure(stage, f"{stage}: {type(error).__name__}: {text}")

    return attempt
