"""Where a run may lie: nowhere in another's way, and nowhere that cannot be written."""

import os
from pathlib import Path

import pytest

from src.models.store import Store
from src.runtime import names
from src.runtime.cache import Cache
from src.runtime.files import size_words
from tests.conftest import Command, run
from tests.test_mistakes import check_refused


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inner", ["models/2-1", "models/mine", "samples/mine", "best/mine", "mine", "a/b/c"])
def test_a_run_inside_another_is_refused(evolve: Command, tmp_path: Path, inner: str) -> None:
    outputs = tmp_path / "outputs"
    (outputs / "A").mkdir(parents=True)
    (outputs / "A/journal.jsonl").write_bytes(b"")
    check_refused(evolve(f"name=A/{inner}"), f"{outputs}/A/{inner} lies inside the run {outputs}/A, which may remove")
    outcome = evolve(f"outputs={outputs}/A", f"name={inner}", "dry_run=true")
    check_refused(outcome, f"{outputs}/A/{inner} lies inside the run {outputs}/A")
    assert [path.name for path in (outputs / "A").iterdir()] == ["journal.jsonl"]


def test_a_run_around_others_is_refused_and_they_go_on(evolve: Command, tmp_path: Path) -> None:
    assert evolve("name=A/models/2-1", "stop.generations=1").status == 0
    inside = tmp_path / "outputs/A/models/2-1"
    before = contents(inside)
    check_refused(evolve("name=A"), f"is a folder of runs ({inside} is one)")
    assert contents(inside) == before
    assert not (tmp_path / "outputs/A/journal.jsonl").exists()
    assert evolve("name=A/models/2-1", "stop.generations=1").status == 0


def test_a_run_inside_a_store_is_refused(evolve: Command, tmp_path: Path) -> None:
    store = tmp_path / "outputs/store"
    check_refused(evolve("name=store/mine", f"zoo.folder={store}"), "lies in zoo.folder, whose content may be replaced")
    check_refused(evolve("name=store/mine", "cache=on", f"cache.folder={store}"), "lies in cache.folder")
    assert not store.exists()


def test_a_sweep_inside_a_run_is_refused(evolve: Command, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/sweeps"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_bytes(b"")
    outcome = evolve("-m", "hydra/sweeper=optuna", "+sweep=strategy")
    check_refused(outcome, f"lies inside the run {folder}")
    assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("outputs", ["/dev/null", "/dev/null/deep", "FILE", "FILE/deep", "LOOP/x", "x" * 300])
def test_outputs_that_can_hold_no_run(evolve: Command, tmp_path: Path, outputs: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = outputs.replace("FILE", str(tmp_path / "file")).replace("LOOP", str(tmp_path / "loop"))
    check_refused(evolve(f"outputs={place}"), "; choose another with outputs=… or name=…")
    check_refused(
        evolve(f"outputs={place}", "-m", "hydra/sweeper=optuna", "+sweep=strategy"),
        "; choose another with outputs=… or name=…",
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_longer_than_the_system_allows(evolve: Command) -> None:
    check_refused(evolve("name=" + "/".join(["x" * 90] * 60)), "no run's folder can be there (File name too long)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_outputs_that_nobody_may_write_to(evolve: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir(mode=0o500)
    check_refused(evolve(), "cannot be written (Permission denied)")


def test_more_threads_than_any_machine_grants_are_refused_before_torch_tries() -> None:
    check_refused(run("workers.threads=100000"), "workers.threads is 100000; should be less than or equal to 1024")


def test_only_what_a_run_made_is_cleared_from_its_models(tmp_path: Path) -> None:
    mine = ["backup", "1-1 (copy)", "1-1.old", ".hidden", "exp", "1-1-1", "A"]
    its_own = ["1-1", "2-exp", ".1-1.123.partial", ".3-exp.deleted", ".10-3.host.name.1.2.partial"]
    for clear in (lambda weights: weights.clean(verify=True), lambda weights: weights.discard(())):
        for name in (*mine, *its_own):
            (tmp_path / "models" / name).mkdir(parents=True, exist_ok=True)
        clear(Store(tmp_path, {}, {}.__getitem__, cache=Cache(None)))
        assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(mine)
    assert not any(names.of_weights(name) for name in mine)


def test_options_stand_anywhere_among_the_settings(evolve: Command, tmp_path: Path) -> None:
    """As in `strategy=x -m seed=1,2`."""
    outcome = evolve("strategy=greedy_topk", "-m", "name=a,b", "dry_run=true", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("plan of ") == 2
    check_refused(evolve("seed=1", "--resume", "seed=2"), "--resume: no such option")


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (2560, "2.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**32, "4.0 GiB"),
        (2**42, "4,096.0 GiB"),
    ],
)
def test_a_size_has_a_unit_that_suits_it(nbytes: int, words: str) -> None:
    assert size_words(nbytes) == words
