"""One evolution: what is done in a generation, going on from wherever the journal says the run is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from src import start
from src.config import Settings
from src.evaluation import holdout
from src.evaluation.candidates import Candidates, Found
from src.journal import Follower, Journal, State, replay
from src.kinship import metric_of
from src.kinship.measurements import Measurements
from src.models import merging
from src.models.checkpoint import Checkpoint
from src.models.retention import Retention
from src.models.store import Store
from src.population import KinshipTable, Model, Population, Proposal
from src.proposals import Proposals, Verdict
from src.runtime import files, progress
from src.runtime.cache import Cache
from src.runtime.errors import UserError, persistently
from src.runtime.workers import Workers
from src.strategy.recipe_gradient import Lessons
from src.tracking import table
from src.tracking.recorder import Recorder
from src.tracking.sender import Sender

FINALISTS = 3
"""How many of the best are asked everything at the end, where candidates were asked a part of the samples."""


class Evolution:
    """One run: its settings, its journal and the models it works with.

    Everything that happened is in the journal; what lies beside it (weights, inner products, scores of single samples)
    can be made again from it.
    """

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        base: Checkpoint,
        founders: Mapping[str, Checkpoint],
        verdict: Verdict = lambda best, generation: None,
        learner: Callable[..., Lessons] | None = None,
    ) -> None:
        """Resume the run that the folder's journal tells of, or begin it.

        Args:
            settings: of the run.
            workers: the processes that share the work.
            base: what all founders are fine-tunes of.
            founders: by name.
            verdict: of the study that this run is a trial of; asked after every generation, in the main process.
            learner: makes what learns for a strategy that has weights learned (`src.learning.lessons.Learner`).

        Raises:
            UserError: the journal is of a run with other settings, or damaged, or a founder's weights have changed.
        """
        self.settings, self.folder = settings, settings.folder
        self.given = {"base": base, **founders}
        self._workers = workers
        self.state = State()
        cache = Cache(settings.cache.folder, weights=settings.cache.weights, factors=settings.cache.factor_bytes)
        self.store = Store(
            self.folder,
            self.given,
            self.state.model,
            cache=cache,
            device=workers.devices[0],
            remote_code=settings.trust_remote_code,
        )
        self._retention = Retention(self.store, settings.strategy, settings.keep)
        self._measurements = Measurements(self.folder, base, workers, cache)
        self._candidates = Candidates(settings, self.state, self.store, workers, cache)
        self._learner = learner and learner(
            settings, self.state, self.store, lambda: self._candidates.lm_evaluator, workers
        )
        journal = self._opened()
        replay(journal.events, self.state)
        self._recorder = Recorder(journal, self.state, self.folder, settings.track, main=workers.main)
        self._record = self._recorder.record
        kinship = lambda: self.kinship  # noqa: E731
        self._proposals = Proposals(
            settings, self.state, workers, self._seen, kinship, self._learner, verdict, self._record
        )
        self._since = time.monotonic()
        try:
            start.record(self._recorder.write, self.state, settings, workers, self.given)
            workers.in_main("clean", self._clean)
            workers.in_main("earlier", self._check_earlier)
            self._measurements.load(self.state.measured)
        except BaseException:
            self.close()
            raise

    def _opened(self) -> Journal | Follower:
        """Return the journal, or a copy of it in all processes but the main one, once all want the same run."""
        path = self.folder / "journal.jsonl"
        if self._workers.in_main("is new", lambda: not path.exists()):
            _ = self._candidates.evaluator  # a mistake among the tasks must not leave a folder behind
            if self._learner is not None:
                self._learner.check()
        self._workers.agree(lambda: start.common(self.settings, self._workers, self._candidates.questions))
        own = Journal(path) if self._workers.main else None
        events = self._workers.in_main("journal", lambda: own.events if own else [])
        return own or Follower(events)

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

    @property
    def winner(self) -> Model:
        """The best model so far."""
        return self.state.population.best(1)[0]

    @property
    def tracker(self) -> Sender:
        """What sends the journal's figures to a tracker."""
        return self._recorder.tracker

    @property
    def kinship(self) -> KinshipTable:
        """Kinship under the run's metric, as strategies see it."""
        metric = self.settings.kinship.metric
        return self.state.table(metric, metric_of(metric).larger_is_closer, self._predicted, self._measurements.grams)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def evaluate_founders(self) -> None:
        """Measure how related the founders are, and how good each is: generation 0.

        Raises:
            UserError: fewer than two of them could be evaluated.
        """
        if self.state.closed >= 0:
            return
        self._measure_kinship()
        pending = [model.name for model in self.state.population if model.pending]
        if self.settings.strategy.needs_base and self.state.base is not None and self.state.base.average is None:
            pending.append(self.state.base.name)
        self._evaluate(pending, "select", "founders")
        failed = [model for model in self.state.population if model.failure is not None]
        if len(self.state.population.eligible()) < 2:
            raise UserError(
                f"fewer than two founders could be evaluated; {failed[0].name}: {failed[0].failure}.\n"
                "Mend the cause and run the same command with retry_failed=true."
            )
        self._close_generation()

    def propose(self) -> list[Proposal]:
        """Return the merges of the next generation; [] where the run ends. Nothing changes but what is learned."""
        return self._proposals.next()[0]

    def run_generation(self, proposals: Sequence[Proposal] = ()) -> None:
        """Merge and evaluate what is proposed, keep what may become a parent, and measure how related it is.

        A generation that an interruption left open is finished first, for which no proposals are needed.
        """
        if proposals:
            self._select(proposals)
        if self.state.selected:
            self._merge_and_evaluate()
            self._store_parents()
            self._measure_kinship()
            self._close_generation()

    def evaluate_finalists(self) -> None:
        """Ask the winner and its nearest rivals everything, where candidates were asked a part (`evaluate.share`).

        One at a time, since each answer may change who they are: so a start that was killed goes on the same way.
        """
        while name := self._asked_a_part():
            self._evaluate([name], "select", f"finalist {name}", whole=True)

    def evaluate_holdout(self) -> None:
        """Evaluate the winner and the founders on what did not steer the search, and compare the winner with the best.

        Samples that were lost since, or are not what the journal tells of, are asked again.
        """
        if self.settings.evaluate.holdout is not None:
            known = {*self.state.holdout, *(() if self.settings.retry_failed else self.state.holdout_failures)}
            models = [model.name for model in self.state.population.eligible() if model.founder or model is self.winner]
            self._evaluate([name for name in models if name not in known], "holdout", "holdout")
        for side in holdout.SIDES:
            lost = self._workers.in_main(f"lost {side}", partial(holdout.lost, self.folder, self.state, side))
            self._evaluate(lost, side, f"samples, {side}", again=True)
            compared = holdout.compare(self.folder, self.state, side)
            if compared is not None and compared != self.state.compared.get(side):
                self._record("compared", side=side, **asdict(compared))

    def finish(self, export: Callable[[Path], None]) -> None:
        """Have `export` put the winner into best/, and record why the run ends."""
        if self._workers.main:
            self._retention.discard_others({self.winner.name})  # makes room for a copy
            best = self.folder / "best"
            persistently(lambda: export(best), best)
        self._record("stopped", reason=self._proposals.next()[1], best=self.winner.name)

    def conclude(self, present: Callable[[], None]) -> None:
        """Tell the tracker how the run ended, have `present` make its page, and delete what nobody needs any more.

        A start that finds the page missing, since an earlier one was killed after its last event, does it again.
        """
        if self._workers.main:
            self._retention.discard_others(())
        self.tracker.catch_up()
        self.tracker.model(self.folder / "best")
        if self._workers.main:
            present()

    def close(self) -> None:
        """Flush the tracker and release the journal, however the run ends."""
        self._recorder.close()

    # --- parts of a generation ---------------------------------------------------------------------------------------

    def _seen(self) -> Population:
        """Return the population as a strategy sees it, with what was answered."""
        answers = self._candidates.answers if self.settings.strategy.needs_answers else None
        learner = self._learner.learn if self._learner is not None else None
        earlier = partial(start.earlier, self.settings, self.state)
        return replace(self.state.population, answers=answers, learner=learner, earlier=earlier)

    def _asked_a_part(self) -> str | None:
        """Return the first of the FINALISTS best models that was asked a part of the samples; None if none was."""
        if self.settings.evaluate.parts > 1:
            self._proposals.record_outlook()  # a killed start may owe it
        best = self.state.population.best(FINALISTS)
        return next((model.name for model in best if model.part is not None), None)

    def _select(self, proposals: Sequence[Proposal]) -> None:
        """Open a generation: from here on its models have names."""
        generation = self.state.population.generation + 1
        offspring = [
            {"name": f"{generation}-{'exp' if proposal.exploration else number}", **proposal.as_dict()}
            for number, proposal in enumerate(proposals, 1)
        ]
        self._record("selected", generation=generation, offspring=offspring)

    def _merge_and_evaluate(self) -> None:
        """Merge the open generation's candidates in memory, and evaluate each."""
        population = self.state.population
        todo = [name for name in self.state.selected if population[name].pending]
        kept = {name for name in todo if self._retention.stays(name, self._seen())}
        self._workers.in_main(self._topic("space"), lambda: self.store.require_space(kept))
        # Where several are at work, the journal waits: it tells of one candidate after the other, always.
        tell = self._record if self._workers.processes == 1 else None
        with progress.items(f"generation {population.generation}", len(todo), "model") as items:

            def work(name: str) -> Found:
                keep = name in kept
                attempt = partial(self._candidates.merge_and_evaluate, name, keep=keep, follow=items.follow, tell=tell)
                return persistently(attempt, self._where(name))

            found = self._workers.map(self._topic("candidates"), work, todo, divisible=True)
            self._recorder.record_all(todo, found, items.finished)

    def _store_parents(self) -> None:
        """Write the weights that later generations may need and that are not on disk yet; delete the others."""
        kept = self._retention.parents(self._seen())

        def missing() -> list[str]:
            absent = [name for name in self._names() if name in kept and not self.store.has(name)]
            self.store.require_space(absent)
            return absent

        def write(name: str) -> str:
            return persistently(partial(self._place, name), self._where(name))

        absent = self._workers.in_main(self._topic("absent"), missing)
        for _ in self._workers.map(self._topic("parents"), write, absent):
            pass

    def _measure_kinship(self) -> None:
        """Measure every model that was not measured yet and whose weights are kept, against every other of them."""
        kept = self._retention.parents(self._seen())
        while new := [name for name in self._names() if name not in self.state.measured and name in kept]:
            among = [name for name in self._names() if name in kept]
            models = {name: self.given.get(name) or self.store.checkpoint(name) for name in among}
            fingerprints = {name: self.state.model(name).fingerprint or "" for name in ("base", *self._names())}
            try:
                cost = self._measurements.extend(models, fingerprints)
            except UserError:
                faults = self._measurements.faults({n: models[n] for n in new if self.state.population[n].parents})
                if not faults:
                    raise
                for name, why in faults.items():
                    self._record("failed", model=name, stage="measurement", reason=why)
                    self._recorder.say(f"{name} failed and is left out: {why}")
                kept -= set(faults)
                continue
            self._record("measured", models=new, kinship=self._measurements.pairs(new), **asdict(cost))

    def _close_generation(self) -> None:
        """End the generation: delete what will not be a parent, show the table."""
        self._proposals.record_outlook()
        now, population = time.monotonic(), self.state.population
        self._record("closed", generation=population.generation, seconds=now - self._since)
        self._since = now
        if self._workers.main:
            self._retention.discard_others(self._retention.parents(self._seen()))
        if lines := table.predictions(self.state.population):
            self._recorder.show("\n".join(lines), highlight=False, soft_wrap=True)
        else:
            k: int | None = getattr(self.settings.strategy, "k", None)
            self._recorder.show(table.render(population, self.kinship, k))

    def _evaluate(
        self, models: Sequence[str], side: str, label: str, *, again: bool = False, whole: bool = False
    ) -> None:
        """Evaluate models that are on disk.

        Args:
            models: their names.
            side: what they are asked.
            label: of the bar.
            again: the journal knows the scores already, and is not told a second time.
            whole: ask everything, where only a part was asked before.
        """

        def on_disk() -> list[str]:
            self.store.require_space(models)
            return [persistently(partial(self._place, name), self._where(name)) for name in models]

        self._workers.in_main(f"{label}, on disk", on_disk)
        with progress.items(label, len(models), "model") as items:

            def work(name: str) -> Found:
                attempt = partial(self._candidates.evaluate, name, side=side, follow=items.follow, whole=whole)
                return persistently(attempt, self._where(name))

            found = self._workers.map(label, work, models, divisible=True)
            self._recorder.record_all(models, ([] for _ in found) if again else found, items.finished)

    def _check_earlier(self) -> None:
        """Refuse a run to start from that cannot be started from, before anything is evaluated."""
        if self.state.closed < 0:
            start.earlier(self.settings, self.state)

    def _clean(self) -> None:
        """Remove what earlier starts left half-written; the journal's lock keeps everybody else away."""
        for place in (self.folder, *holdout.places(self.folder)):
            files.remove_abandoned(place, alone=True)
        self.store.clean(verify=not self.finished)

    # --- models ------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [model.name for model in self.state.population]

    def _place(self, name: str) -> str:
        """Return the folder of a model's weights, which are made if need be."""
        return str(self.store.checkpoint(name).path)

    def _topic(self, what: str) -> str:
        """Return what processes call a meeting of this generation."""
        return f"generation {self.state.population.generation}, {what}"

    def _where(self, name: str) -> str:
        """Return where something may go wrong, in words."""
        return f"{name}, in {self.folder}"

    def _predicted(self, parents: Sequence[str]) -> Mapping[str, float] | None:
        planned = merging.recipe(self.settings.merge, parents, seed=self.settings.seed, threads=self._workers.threads)
        return self._measurements.predicted(planned.config, self.settings.kinship.metric)
