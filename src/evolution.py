"""The steps of an evolution, each of which goes on from wherever the journal says the run is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

from src.config import Settings, flat, refuse_other
from src.evaluation import holdout
from src.evaluation.candidates import Breeding, Follow, Found
from src.export import upload
from src.export.winner import hand_on
from src.journal import VERSION, Follower, Journal, State, replay, spared
from src.kinship import METRICS
from src.kinship.measurements import Relating
from src.models import digest, merging
from src.models.checkpoint import Checkpoint
from src.models.founders import check_unchanged
from src.models.store import Weights
from src.population import KinshipTable, Population
from src.report import page
from src.runtime import cache, files, progress, terminal
from src.runtime.errors import UserError, persistently
from src.runtime.workers import Workers
from src.study.sweep import rivals
from src.tracking import figures, summary, table, trackers

LIBRARIES = ("torch", "transformers", "mergekit", "lm-eval", "safetensors", "accelerate")
PASSING: Any = {
    **dict.fromkeys(("dry_run", "resume", "retry_failed", "publish", "sweep"), True),
    "evaluate": {"unsafe_code"},
}
"""Settings of a single start, not of the run, as pydantic leaves them out: none changes what is found."""


def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


class Evolution:
    """One run: its settings, its journal and the models it works with.

    Everything that happened is in the journal; what lies beside it (weights, kinship's sums, scores of single samples)
    can be made again from it.
    """

    def __init__(
        self, settings: Settings, workers: Workers, base: Checkpoint, founders: Mapping[str, Checkpoint]
    ) -> None:
        """Take up the run that the folder's journal tells of, or begin it.

        Raises:
            UserError: the journal is of a run with other settings, or damaged, or a founder's weights have changed.
        """
        self.settings = settings
        self.folder = settings.folder
        self._given = {"base": base, **founders}
        self._workers = workers
        memory = cache.Cache(settings.cache.folder, weights=settings.cache.weights)
        recipes: dict[str, dict[str, Any]] = {}
        fingerprints: dict[str, str] = {}
        self._weights = Weights(
            self.folder,
            self._given,
            recipes,
            fingerprints,
            cache=memory,
            device=workers.devices[0],
            remote_code=settings.trust_remote_code,
        )
        self._relating = Relating(self.folder, base, workers, memory)
        self._breeding = Breeding(settings, self._weights, recipes, workers, memory)
        path = self.folder / "journal.jsonl"
        if workers.once(lambda: not path.exists()):
            _ = self._breeding.evaluator  # a mistake among the tasks must not leave a folder behind
        workers.agree(self._asked)
        own = Journal(path) if workers.main else None
        told = workers.once(lambda: own.events if own else [])
        self.journal = own or Follower(told)
        self.state = replay(self.journal.events, State(recipes=recipes, fingerprints=fingerprints))
        self._k: int | None = getattr(settings.strategy, "k", None)
        self._reason = ""
        self._since = time.monotonic()
        self._rivals = rivals.of(settings.sweep)
        self._console = terminal.console()
        try:
            self._begin()
            self._relating.take_up(self.state.measured)
        except BaseException:
            self.journal.close()
            raise

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end, now or at an earlier start."""
        return self.state.stopped is not None

    @property
    def fruitless(self) -> str | None:
        """In one line, that no merge worked and why the first did not; None where one did, or none was tried."""
        population = self.state.population
        failed = [model for model in population if model.parents and model.failure is not None]
        if not failed or any(model.parents for model in population.eligible()):
            return None
        return f"no merge worked; the first, {failed[0].name}: {failed[0].failure}; mend that, and begin anew: name=…"

    @cached_property
    def _tracker(self) -> trackers.Tracker:
        return trackers.start(self.settings.track, self.folder, self._wanted(), main=self._workers.main)

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
        if self.settings.keep != "all" and self._workers.main:
            self._weights.discard(self._kept(population))
        pairs = [] if reason else self.settings.strategy.pairs(population, self.kinship)
        if self.settings.stop.evaluations is not None:
            pairs = pairs[: self.settings.stop.evaluations - self.state.evaluations]
        if pairs and (reason := self._workers.once(self._hopeless)):
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

    def breed(self) -> None:
        """Merge the offspring that were selected, in memory, and score them."""
        population = self.state.population
        todo = [one for one in self.state.selected if population[one.name].average is None and self._sound(one.name)]
        certain = {one.name for one in todo if self._stays(one.name)}
        self._workers.once(lambda: self._weights.require_space(certain))
        # Where several are at work, the journal waits: it tells of one candidate after the other, always.
        tell = self._record if self._workers.processes == 1 else None
        with self._bar(f"generation {population.generation}", len(todo)) as follow:
            found = self._workers.map(
                lambda one: persistently(
                    lambda: self._breeding.breed(one, keep=one.name in certain, follow=follow, tell=tell),
                    self._at(one.name),
                ),
                todo,
                divisible=True,
            )
            self._settle([one.name for one in todo], found)

    def keep(self) -> None:
        """Write the weights that later generations may need and that are not on disk yet."""
        kept = self._kept(self.state.population)
        missing = self._workers.once(lambda: [n for n in self._names() if n in kept and not self._weights.there(n)])
        self._workers.once(lambda: self._weights.require_space(missing))
        make = self._weights.checkpoint
        for _ in self._workers.map(lambda one: persistently(lambda: str(make(one).path), self._at(one)), missing):
            pass

    def measure(self) -> None:
        """Kinship of every model that has none yet and whose weights are there, to every other of them."""
        kept = self._kept(self.state.population)
        while new := [name for name in self._names() if name not in self.state.measured and name in kept]:
            began = time.monotonic()
            models = {name: self._weights.checkpoint(name) for name in self._names() if name in kept}
            try:
                cached = self._relating.extend(models, self.state.fingerprints)
            except UserError:
                guilty = self._relating.blame({n: models[n] for n in new if self.state.population[n].parents})
                if not guilty:
                    raise
                for name, why in guilty.items():
                    self._record("failed", model=name, stage="measurement", reason=why)
                    self._console.print(f"{name} failed and is left out: {why}", highlight=False)
                kept -= set(guilty)
                continue
            seconds = self._workers.once(lambda began=began: time.monotonic() - began)  # type: ignore[misc]
            kinship = self._relating.kinship(new)
            self._record("measured", models=new, kinship=kinship, cached=cached, seconds=seconds)

    def evaluate(self) -> None:
        """Score every founder that has not been scored."""
        population = self.state.population
        todo = [m.name for m in population if m.founder and m.average is None and self._sound(m.name)]
        self._score(todo, "select", "founders")

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
            self._score(todo, "holdout", "holdout")
        for side in holdout.SIDES:
            lost = self._workers.once(partial(holdout.lost, self.folder, self.state, side))
            self._score(lost, side, f"samples, {side}", again=True)
            compared = holdout.compare(self.folder, self.state, side)
            if compared is not None and compared != self.state.compared.get(side):
                self._record("compared", side=side, **asdict(compared))

    def finish(self) -> None:
        """Keep the best model with its card, say why the run ended, and close everything."""
        winner = self.state.population.best(1)[0]
        if self._workers.main:
            if self.settings.keep != "all":
                self._weights.discard({winner.name})  # makes room for a copy
            best = self.folder / "best"
            persistently(lambda: hand_on(best, self.state, self.kinship, self._weights, self._given), best)
        self._record("stopped", reason=self._reason, best=winner.name)
        self._farewell()

    def follow_up(self) -> None:
        """Do what a start did not come to that was killed after the last event: the page, its last step, is missing."""
        if self._workers.main and not (self.folder / page.NAME).exists():
            self._farewell()

    def _farewell(self) -> None:
        winner = self.state.population.best(1)[0]
        if self.settings.keep != "all" and self._workers.main:
            self._weights.discard(())
        self._tracker.summary(summary.summary(self.state))
        self._tracker.artifact(self.folder / "best" / "README.md", "card")
        if not winner.founder:
            self._tracker.artifact(self.folder / "best" / "recipe.yaml", "recipe")
        names = self._relating.grams.names if self._relating.grams else ()
        rows = [[a, *(None if a == b else self.kinship.between(a, b) for b in names)] for a in names]
        self._tracker.table("kinship", ["model", *names], rows, self.state.population.generation)
        if self._workers.main:
            page.present(self.folder, self._tracker, self.state.population.generation)

    def publish(self) -> None:
        """Upload best/ to the hub, if that was asked for."""
        if self._workers.main and self.settings.publish.repo_id is not None:
            upload.upload(self.folder / "best", self.settings.publish)

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
        self._console.print(summary.text(self.state), highlight=False, soft_wrap=True)
        for made in ("best", page.NAME):
            self._console.print(os.path.relpath(self.folder / made), highlight=False, soft_wrap=True)
        spent = self.state.spent
        return {
            "best": winner.average,
            "evaluations": spent.evaluations,
            "samples": self.state.samples,
            "hours": spent.hours,
        }

    def _predicted(self, parents: Sequence[str]) -> Mapping[str, float] | None:
        planned = merging.recipe(self.settings.merge, parents, seed=self.settings.seed, threads=self._workers.threads)
        return self._relating.predicted(planned.config, self.settings.kinship.metric)

    # --- memory ------------------------------------------------------------------------------------------------------

    def _score(self, models: Sequence[str], side: str, label: str, *, again: bool = False) -> None:
        """Score models that are on disk; `again`, of what the journal knows already, which is not told of it twice."""
        self._workers.once(lambda: [str(self._weights.checkpoint(name).path) for name in models])
        with self._bar(label, len(models)) as follow:
            found = self._workers.map(
                lambda name: persistently(lambda: self._breeding.score(name, side=side, follow=follow), self._at(name)),
                models,
                divisible=True,
            )
            self._settle(models, ([] for _ in found) if again else found)

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Follow]:
        """A bar over so many models; what it yields is told how far the work on one of them is."""
        with progress.bar(label, total=total, unit="model") as bar:
            self._done = 0
            yield lambda done, pieces: progress.share(bar, self._done)(done, pieces)

    def _settle(self, models: Sequence[str], found: Iterable[Found]) -> None:
        """Write down what was found of each model."""
        for model, events in zip(models, found, strict=True):
            for event, fields in events:
                self._record(event, model=model, **fields)
                if event == "failed":
                    self._console.print(f"{model} failed and is left out: {fields['reason']}", highlight=False)
                elif event == "holdout_failed":
                    self._console.print(f"{model} has no holdout score: {fields['reason']}", highlight=False)
                elif event in {"evaluated", "held_out"}:
                    where = " on the holdout" if event == "held_out" else ""
                    progress.note(f"{model}: {fields['average']:.2f}{where} in {fields['seconds']:.1f} s")
            self._done += 1

    def _record(self, event: str, **fields: Any) -> None:
        self.state.apply(self.journal.append(event, **fields))

    def _wanted(self) -> dict[str, Any]:
        return self.settings.model_dump(mode="json", exclude=PASSING)

    def _asked(self) -> dict[str, Any]:
        """What all processes of a run must have in common."""
        device = {"the device": self._workers.devices[0].partition(":")[0]}
        return {**flat(self.settings.model_dump(mode="json")), **_versions(), **device, **self._breeding.questions}

    def _begin(self) -> None:
        if self.state.started is None:
            machine = {"device": self._workers.devices[0].partition(":")[0], "threads": self._workers.threads}
            self._record(
                "started",
                version=VERSION,
                settings=self._wanted(),
                versions=_versions(),
                machine=machine,
                processes=self._workers.processes,
            )
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
                    surroundings=digest.of_surroundings(checkpoint.path),
                    parameters=checkpoint.parameters,
                )
        check_unchanged(self._given, self.state)
        if self.settings.retry_failed and not self.finished:
            for model in self.state.population:
                if model.failure is not None and model.name not in self.state.retried:
                    self._record("retried", model=model.name)
        elif self.settings.retry_failed and self.state.holdout_failures:
            self._record("resumed", settings=self._wanted())
        self._workers.once(self._clear)

    def _clear(self) -> None:
        """Remove what earlier starts left half-written; the journal's lock keeps everybody else away."""
        for place in (self.folder, *(holdout.place(self.folder, "", side).parent for side in holdout.SIDES)):
            files.remove_abandoned(place, alone=True)
        self._weights.sweep(verify=not self.finished)

    # --- models ------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [model.name for model in self.state.population]

    def _at(self, name: str) -> str:
        """Where something may go wrong, in words."""
        return f"{name}, in {self.folder}"

    def _sound(self, name: str) -> bool:
        return self.state.population[name].failure is None

    def _kept(self, population: Population) -> set[str]:
        """The models of these whose weights are kept: founders, and what could still become a parent."""
        if self.settings.keep == "all":
            return {model.name for model in population if model.failure is None}
        return {model.name for model in population if model.founder} | self.settings.strategy.may_parent(population)

    def _stays(self, name: str) -> bool:
        """Whether a candidate's weights will be kept, however it is scored: even if it were the worst of all."""
        population = self.state.population
        for model in population:
            if model.average is None and model.failure is None:
                population = population.update(model.name, average=-math.inf if model.name == name else math.inf)
        return name in self._kept(population)

    def _hopeless(self) -> str | None:
        """Why this run has no chance beside the others of its study; None to go on."""
        best = self.state.population.best(1)[0]
        return self._rivals.reason(best.average or 0.0, self.state.population.generation)

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
