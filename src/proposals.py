"""What is to be merged next: asked of the strategy once a generation, or the reason why nothing is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from src.config import Settings
from src.journal import State
from src.population import KinshipTable, Population, Proposal
from src.runtime.workers import Workers
from src.strategy.recipe_gradient import Lessons

Verdict = Callable[[float, int], str | None]
"""Why a run with this best average after this generation should end; None to go on."""


class Proposals:
    """Asks the strategy of a run in one process, since another may round its predictions otherwise."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        workers: Workers,
        seen: Callable[[], Population],
        kinship: Callable[[], KinshipTable],
        learner: Lessons | None,
        verdict: Verdict,
        record: Callable[..., None],
    ) -> None:
        """Ask for the run of these settings.

        Args:
            settings: of the run.
            state: what is known by now.
            workers: the processes of the run.
            seen: returns the population as the strategy sees it.
            kinship: returns the kinship of the models.
            learner: what learns for the strategy, if it has weights learned.
            verdict: of the study that this run is a trial of; asked once a generation.
            record: writes an event.
        """
        self._settings, self._state, self._workers = settings, state, workers
        self._seen, self._kinship, self._learner = seen, kinship, learner
        self._verdict, self._record = verdict, record
        self._verdicts: dict[int, str | None] = {}
        self._proposed: dict[int, list[Proposal]] = {}
        self._outlooks = 0

    def next(self) -> tuple[list[Proposal], str]:
        """Return the next generation's merges; or none of them, and why."""
        population, stop = self._state.population, self._settings.stop
        k = getattr(self._settings.strategy, "k", None)
        reason = nothing_works(population) or stop.reason(population, self._kinship(), self._state.spent, k)
        if reason is not None:
            return [], reason
        proposals = self._asked(population.generation)
        if stop.evaluations is not None:
            proposals = proposals[: stop.evaluations - self._state.spent.evaluations]
        if not proposals:
            learns = self._settings.strategy.learns
            return [], "nothing better is left to learn" if learns else "nothing is left to merge"
        hopeless = self._hopeless(population.generation)
        return ([], hopeless) if hopeless else (proposals, "")

    def record_outlook(self) -> None:
        """Record what the strategy expects of the models and of going on, if that is news."""
        if not self._settings.strategy.needs_answers:
            return

        def look() -> dict[str, Any] | None:
            found = self._settings.strategy.outlook(self._seen(), self._kinship())
            return asdict(found) if found else None

        self._outlooks += 1
        outlook = self._workers.in_main(f"outlook {self._outlooks}", look)
        if outlook is not None and not self._is_known(outlook):
            self._record("expected", **outlook)

    def _asked(self, generation: int) -> list[Proposal]:
        if generation not in self._proposed:
            learner = self._learner

            def ask() -> tuple[list[dict[str, Any]], tuple[str, dict[str, Any]] | None]:
                if learner is not None:
                    learner.event = None
                found = self._settings.strategy.propose(self._seen(), self._kinship())
                return [one.as_dict() for one in found], learner.event if learner else None

            topic, assist = f"generation {generation}, proposals", learner.assist if learner else None
            proposals, learned = self._workers.in_main(topic, ask, assist)
            if learned is not None:
                event, fields = learned
                self._record(event, **fields)
            self._proposed = {generation: [Proposal.from_dict(one) for one in proposals]}
        return self._proposed[generation]

    def _hopeless(self, generation: int) -> str | None:
        """Return why this run has no chance among the others of its study."""
        if generation not in self._verdicts:
            best = self._state.population.best(1)[0].average or 0.0
            topic = f"generation {generation}, verdict"
            self._verdicts[generation] = self._workers.in_main(topic, lambda: self._verdict(best, generation))
        return self._verdicts[generation]

    def _is_known(self, outlook: Mapping[str, Any]) -> bool:
        """Return whether the journal's last outlook was this one."""
        models = self._state.models
        same = all(models[name].expected == value for name, value in outlook["values"].items())
        return same and self._state.expected_gain == outlook["gain"]


def nothing_works(population: Population) -> str | None:
    """Return that every candidate of the youngest generation failed, and why the first did; None where one did not."""
    youngest = [model for model in population if model.generation == population.generation and model.parents]
    if youngest and all(model.failure for model in youngest):
        return f"every candidate of generation {youngest[0].generation} failed; the first: {youngest[0].failure}"
    return None
