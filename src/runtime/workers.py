"""The processes of a run and the devices they use: the only place that knows accelerate.

Every process runs the same loop over the same data. What takes time is handed out: `map` gives the next item to
whoever is free, and a process that finds no item left helps with one that is under way (`share`). What the main process
alone can decide (`in_main`) it can have computed by all (`hand_out`). Results come back everywhere, in order, through
the store that torch.distributed keeps anyway; no collective operation is ever waited for.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import InitProcessGroupKwargs

from src.runtime import launch
from src.runtime.errors import MachineError, UserError
from src.runtime.heartbeat import BEAT, COURTESY, Watch
from src.runtime.messages import decoded, encoded, put, take
from src.runtime.signals import Interrupted

Item = TypeVar("Item")
Result = TypeVar("Result")
Assist = Callable[[Any], Callable[[int], Any]]
"""Returns, of an order that another process handed out, what does a piece of it; is told None when no more follow."""

_RUNS = itertools.count()
"""A process may go through several runs, of a sweep; all others go through the same."""
_NAPS = (0.001, 0.05)  # seconds between two looks at the store, the first and the longest


class Workers:
    """The process that runs this, as accelerate sees it, and how work is shared with the others.

    What jobs return travels as JSON (numpy arrays are welcome): tuples come back as lists, from this process too.

    Attributes:
        rank: the number of this process.
        processes: how many there are.
        main: whether this process writes the journal and talks to the tracker.
        devices: what this process computes on, as torch names them; the first is its own, all together hold a model.
        threads: torch's threads in this process, the same in all.
        idle: seconds that it had nothing to do.
        assisting: whether it helps with an item that is another's.
    """

    def __init__(
        self, *, device: str, threads: int | None, gpus_per_model: int, timeout: float, processes_per_gpu: int = 1
    ) -> None:
        """Ask accelerate for the device, find the others, and agree on the number of threads.

        The arguments are those of the configuration's `workers`. Refused are several processes of which each is alone,
        and more than there are GPUs for.
        """
        state, store = _meet(device, timeout)
        self.rank, self.processes = int(state.process_index), int(state.num_processes)
        if self.processes < launch.processes():
            raise UserError(
                f"{launch.processes()} processes were started and this one finds itself alone, so each would do "
                f"everything; start them with {launch.TOGETHER} (ACCELERATE_USE_CPU=1 before it where there is no GPU)"
            )
        self.main = self.rank == 0
        self.devices = _devices(state, gpus_per_model, processes_per_gpu)
        self.idle = 0.0
        self.assisting = False
        self._item: str | None = None
        self._orders: Iterator[str] | None = None
        self._answered: dict[int, Any] = {}
        self._topics: set[str] = set()
        self._store: Any = None
        self._watch: Watch | None = None
        if self.processes > 1:
            room = f"kinmerge/{next(_RUNS)}"
            self._store = torch.distributed.PrefixStore(room, store)
            signs = torch.distributed.PrefixStore(room, store.clone())  # a connection of its own
            self._watch = Watch(signs, self.rank, self.processes, timeout)
        self.threads: int = self.in_main("threads", lambda: threads or torch.get_num_threads())
        torch.set_num_threads(self.threads)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._watch is None:
            return
        if error is None:
            self._watch.stop(wait=self.main)
        elif isinstance(error, Interrupted):
            error.cause = self._watch.loss()  # a launcher interrupts all others when one has died
        else:
            self._watch.rest()
            if isinstance(error, torch.distributed.DistError):
                self._watch.leave_behind(error)
            known = isinstance(error, UserError | MachineError)
            message = str(error) if known else f"process {self.rank} failed: {kind.__name__ if kind else ''}: {error}"
            # The main process says it itself; of another's mistake it is told, and has a moment to repeat it.
            self._watch.tell(2 if isinstance(error, UserError) else 1, "" if self.main else message)
            time.sleep(2 * BEAT if self.main else COURTESY)

    def pulse(self) -> None:
        """Report progress; a process without any for `workers.timeout` minutes counts as hanging."""
        if self._watch is not None:
            self._watch.pulse()

    def in_main(self, topic: str, job: Callable[[], Result], assist: Assist | None = None) -> Result:
        """Return in every process what `job` returns in the main one, which alone runs it.

        Args:
            topic: what this is about. All processes meet under it, so each call of a run has a topic of its own.
            job: what is to be done once.
            assist: what the others do meanwhile with each order that `job` hands out (`hand_out`).
        """
        key = self._meeting(topic)
        if self._store is None:
            return job()
        if self.main:
            self._orders = (f"{key}/order/{number}" for number in itertools.count()) if assist else None
            try:
                put(self._store, key, job())
            finally:
                self._orders = None
        elif assist is not None:
            self._assist(key, assist)
        return self._await(key)

    def hand_out(self, order: Any, count: int, piece: Callable[[int], Result]) -> list[Result]:
        """Return, within a job of `in_main`, the results of all pieces of an order, each by whoever is free.

        Args:
            order: says in JSON's types or numpy's arrays what is to be done; the other processes see orders one after
                the other. One of no pieces tells them what later ones are about.
            count: of pieces.
            piece: does piece 0 to count - 1 in this process.
        """
        if self._orders is None:
            return [piece(number) for number in range(count)]
        key, found = next(self._orders), dict[int, Any]()
        put(self._store, key, [order, count])
        self._take_pieces(key, count, piece, found)
        return self._completed(key, count, piece, found)

    def map(
        self, topic: str, job: Callable[[Item], Result], items: Iterable[Item], *, divisible: bool = False
    ) -> Iterator[Result]:
        """Yield the result of `job` for every item, in order, each as soon as it is there and this process is free.

        Args:
            topic: as in `in_main`.
            job: is called for an item by the process that is free first.
            items: the same in all processes, each of which must go through all results.
            divisible: `job` calls `share`; a process that finds no item left helps with one.

        Raises:
            UserError: a job's, in every process, in place of its result. Any other exception ends the run everywhere.
        """
        return self._results(self._meeting(topic), job, list(items), divisible)

    def share(self, count: int, piece: Callable[[int], Result]) -> list[Result]:
        """Return, within a divisible job, `piece(i)` for all i below `count`, in order, by whoever is free.

        Who only helps with the job does not come back from here. A job that is begun again has the pieces it had.
        """
        if self._item is None:
            return [piece(number) for number in range(count)]
        key, found = self._item, self._answered
        self._store.set(f"{key}/pieces", str(count))
        self._take_pieces(key, count, piece, found)
        if self.assisting:
            raise _Released
        return self._completed(key, count, piece, found)

    def gather(self, topic: str, value: Result) -> list[Result]:
        """Return the value that each process has, by their numbers; `topic` as in `in_main`."""
        key = self._meeting(topic)
        if self._store is None:
            return [value]
        put(self._store, f"{key}/{self.rank}", value)
        return [self._await(f"{key}/{number}") for number in range(self.processes)]

    def agree(self, know: Callable[[], dict[str, Any]]) -> None:
        """Raise UserError in every process unless all know the same; `know` is called where there are several."""
        if self._store is None:
            return
        first, *others = self.gather("agree", know())
        for number, other in enumerate(others, 1):
            for key in {**first, **other}:
                here, there = (str(one.get(key, "nothing")) for one in (first, other))
                if here != there:
                    raise UserError(
                        f"processes 0 and {number} do not do the same: {key} is {here[:200]} in one and "
                        f"{there[:200]} in the other; start all with the same command, files and versions"
                    )

    def _assist(self, key: str, assist: Assist) -> None:
        """Do pieces of whatever is handed out, until what the main process returns lies under the key."""
        self.assisting, seen = True, 0
        try:
            for _ in self._naps(key):
                while self._store.check([place := f"{key}/order/{seen}"]):
                    seen += 1
                    order, count = take(self._store, place)
                    self._take_pieces(place, count, assist(order), {})
        except torch.distributed.DistError:
            raise
        except Exception:
            pass  # too large for this process, say; the main one goes on without it
        finally:
            assist(None)
            self.assisting = False

    def _take_pieces(self, key: str, count: int, piece: Callable[[int], Any], found: dict[int, Any]) -> None:
        """Do pieces that nobody has taken, into `found`; who only assists also puts them where the owner looks."""
        while (number := self._store.add(f"{key}/taken", 1) - 1) < count:
            self.pulse()
            try:
                found[number] = piece(number)
            except Exception as error:  # the owner has to do it, perhaps in another attempt
                why = " ".join(f"process {self.rank} could not, {type(error).__name__}: {error}".split())[:200]
                put(self._store, f"{key}/{number}", [None, why if self.assisting else ""])
                raise
            if self.assisting:
                put(self._store, f"{key}/{number}", [found[number]])

    def _completed(self, key: str, count: int, piece: Callable[[int], Result], found: dict[int, Any]) -> list[Result]:
        """Return the results of all pieces in order, those included that others have taken."""
        for number in set(range(count)) - set(found):
            answer, *why = self._await(f"{key}/{number}")
            self._store.delete_key(f"{key}/{number}")
            if any(why):
                print(f"warning: {key.partition('/')[0]}: {why[0]}; process {self.rank} does it", file=sys.stderr)
            found[number] = piece(number) if why else answer
        return [found[number] for number in range(count)]

    def _results(
        self, call: str, job: Callable[[Item], Result], items: Sequence[Item], divisible: bool
    ) -> Iterator[Result]:
        if self._store is None:
            yield from (decoded(encoded(job(item))) for item in items)
            return
        done = 0
        while (number := self._store.add(f"{call}/taken", 1) - 1) < len(items):
            self.pulse()
            self._item, self._answered = f"{call}/{number}" if divisible else None, {}
            try:
                result: list[Any] = [job(items[number])]
            except UserError as mistake:
                result = [None, str(mistake)]
            finally:
                self._item = None
            put(self._store, f"{call}/{number}/result", result)
            while done < len(items) and self._store.check([f"{call}/{done}/result"]):
                yield self._result(f"{call}/{done}/result")
                done += 1
        helped: set[int] = set()
        for number in range(done, len(items)):
            for _ in self._naps(f"{call}/{number}/result"):
                while divisible and self._help(call, job, items, helped):
                    pass
            yield self._result(f"{call}/{number}/result")

    def _result(self, key: str) -> Any:
        result, *mistake = take(self._store, key)
        if mistake:
            raise UserError(mistake[0])
        return result

    def _help(self, call: str, job: Callable[[Item], Any], items: Sequence[Item], helped: set[int]) -> bool:
        """Do pieces of the item of which most are left; False where nobody needs help any more."""
        left = {number: self._left(f"{call}/{number}") for number in range(len(items)) if number not in helped}
        if not left or max(left.values()) < 2:
            return False
        number = max(left, key=lambda number: left[number])
        helped.add(number)
        self._item, self._answered, self.assisting = f"{call}/{number}", {}, True
        try:
            job(items[number])
        except (_Released, UserError):
            pass  # a mistake will be met by the item's owner too
        except Exception:
            self._store.set(f"{call}/{number}/refused", "")  # too large for this one, say; its owner may still do it
        finally:
            self._item, self.assisting = None, False
        return True

    def _left(self, item: str) -> int:
        """Pieces of an item that nobody has taken, as far as is known: its owner may just be preparing it."""
        if self._store.check([f"{item}/result"]):
            return 0
        if not self._store.check([f"{item}/pieces"]):
            return 2
        return int(self._store.get(f"{item}/pieces")) - int(self._store.add(f"{item}/taken", 0))

    def _meeting(self, topic: str) -> str:
        """Return the key of a meeting; a topic that comes twice would find what was left there before."""
        assert topic not in self._topics, f"{topic!r} was the topic of an earlier call"
        self._topics.add(topic)
        return topic

    def _naps(self, key: str) -> Iterator[None]:
        """Look for a key, at longer and longer intervals, until it is there. Waiting is not hanging."""
        nap, longest = _NAPS
        while not self._store.check([key]):
            self.pulse()
            began = time.monotonic()
            yield
            if time.monotonic() - began > longest:  # there was something to do
                nap = _NAPS[0]
                continue
            time.sleep(nap)
            self.idle += time.monotonic() - began
            nap = min(2 * nap, longest)

    def _await(self, key: str) -> Any:
        for _ in self._naps(key):
            pass
        return take(self._store, key)


class _Released(BaseException):
    """Nothing is left to help with; no `except Exception` of a job may keep it."""


def _meet(device: str, timeout: float) -> tuple[PartialState, Any]:
    """Return this process as accelerate sees it, and the store in which all meet; None where it was started alone."""
    # Without a GPU, accelerate takes each process for the only one unless it is told to use the CPU.
    several = launch.processes() > 1
    cpu = device == "cpu" or (several and not torch.accelerator.is_available())
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=timeout)).to_kwargs()
    store: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a thread a process is used, which is what we ask for
        try:
            if several and (not PartialState._shared_state or torch.distributed.is_initialized()):
                store, rank, size = _rendezvous(timeout)
                patience |= {"store": store, "rank": rank, "world_size": size}
            return PartialState(cpu=cpu, **patience), store
        except (ValueError, RuntimeError) as error:
            if not several:
                raise
            raise UserError(
                f"{launch.processes()} processes were started and did not find each other "
                f"({str(error).splitlines()[0][:120]}); start them with {launch.TOGETHER}"
            ) from error


@functools.cache
def _rendezvous(minutes: float) -> tuple[Any, int, int]:
    """Return the store in which all processes meet, the number of this one, and how many there are."""
    store, rank, size = next(torch.distributed.rendezvous("env://", timeout=timedelta(minutes=minutes)))
    # A launcher that starts all anew keeps its store, and what the dead ones left in it.
    return torch.distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store), rank, size


def _devices(state: PartialState, each: int, sharing: int) -> tuple[str, ...]:
    """Return the device of this process, or the GPUs over which it spreads a model."""
    if each > 1 and sharing > 1:
        raise UserError(
            f"workers.gpus_per_model is {each} and workers.processes_per_gpu {sharing}; expected 1 for one of them: a "
            "model is spread over GPUs, or processes share one"
        )
    if state.device.type != "cuda":
        if each > 1:
            raise UserError(f"workers.gpus_per_model is {each}, and there is no GPU here; leave it at 1")
        return (state.device.type,)
    local = max(0, int(state.local_process_index))
    there, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    wanted = each * -(-here // sharing)
    if wanted > there:
        raise UserError(
            f"{here} processes with workers.gpus_per_model={each} and workers.processes_per_gpu={sharing} need "
            f"{wanted} GPUs; {there} are here: start {there // each * sharing} processes on this machine"
        )
    first = local // sharing * each
    mine = tuple(f"cuda:{number}" for number in range(first, first + each))
    torch.cuda.set_device(mine[0])
    return mine
