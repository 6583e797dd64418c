"""Runs beside each other, through the command."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.compare import main
from src.statistics import compare_configurations, compare_models, holm
from src.study.compare import runs
from src.study.compare.configurations import band, configurations
from tests.compare.journals import write_run
from tests.conftest import Command

Capture = pytest.CaptureFixture[str]


def compare(capsys: Capture, *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_two_real_runs_are_compared_on_their_samples(evolve: Command, tmp_path: Path, capsys: Capture) -> None:
    evolve("name=greedy", "strategy=greedy_topk", "stop.generations=2", "cache=on")
    evolve("name=shot", "strategy=one_shot", "merge=linear", "cache=on", "~founders.models.grey")  # the best of all
    outputs = tmp_path / "outputs"
    found = compare(capsys, outputs / "greedy", outputs / "shot")
    by_name = {run["run"]: run for run in found["runs"]}
    assert by_name["shot"]["evaluations"] == 4
    assert by_name["shot"]["known_share"] == pytest.approx(3 / 4)
    samples = {
        name: json.loads((outputs / f"{name}/samples/{run['best']}.json").read_text())["samples"]
        for name, run in by_name.items()
    }
    expected = compare_models(samples["greedy"], samples["shot"])
    (verdict,) = found["verdicts"]
    assert (verdict["first"], verdict["second"], found["paired"]) == ("greedy", "shot", "samples")
    assert verdict["found"]["difference"] == pytest.approx(expected.difference)
    assert verdict["found"]["difference"] == pytest.approx(
        by_name["greedy"]["best_average"] - by_name["shot"]["best_average"]
    )
    assert verdict["found"]["p"] == expected.p
    assert main([str(outputs / "[gs]*"), "--csv", str(tmp_path / "c.csv"), "--html", str(tmp_path / "c.html")]) == 0
    printed = capsys.readouterr().out
    assert "greedy_topk slerp" in printed
    assert "one_shot linear" in printed
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert {row["run"]: row["strategy.name"] for row in rows} == {"greedy": "greedy_topk", "shot": "one_shot"}
    page = (tmp_path / "c.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert '<script type="text/plain" id="plotly">' in page
    assert "one_shot linear" in page


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Two strategies on six families: kinship is a point better on average, and more so on the holdout."""
    rng = np.random.default_rng(1)
    for seed in range(6):
        base = 50 + seed
        greedy, better = base + 2 + rng.normal(0, 0.1), base + 3 + rng.normal(0, 0.1)
        write_run(tmp_path / f"runs/greedy-{seed}", [base, base - 1, greedy, greedy - 1], seed=seed, holdout=greedy - 2)
        strategy = {"name": "kinship_topk", "k": 2, "explore": {"pool": "all"}}
        write_run(
            tmp_path / f"runs/kinship-{seed}",
            [base, base - 1, base + 1, better],
            seed=seed,
            holdout=better - 0.5,
            exploration=2,
            strategy=strategy,
        )
    return tmp_path / "runs"


def test_configurations_are_paired_over_seeds_on_both_sides(seeds: Path, capsys: Capture) -> None:
    found = compare(capsys, seeds)
    assert found["paired"] == "seeds"
    labels = [one["label"] for one in found["configurations"]]
    assert labels == ["greedy_topk", "kinship_topk"]
    averages = [{int(k): v for k, v in one["averages"].items()} for one in found["configurations"]]
    expected = compare_configurations(*averages)
    select, holdout = found["verdicts"]
    assert (select["side"], holdout["side"]) == ("select", "holdout")
    assert select["found"]["difference"] == pytest.approx(expected.difference)
    assert select["found"]["low"] < select["found"]["difference"] < select["found"]["high"] < 0
    assert select["found"]["p"] == pytest.approx(2 / 2**6)
    assert holdout["found"]["difference"] == pytest.approx(select["found"]["difference"] - 1.5)
    assert main([str(seeds)]) == 0
    printed = capsys.readouterr().out
    assert "paired over seeds" in printed
    assert "holdout" in printed


def test_p_is_adjusted_for_how_many_were_compared(seeds: Path, tmp_path: Path, capsys: Capture) -> None:
    for seed in range(6):
        write_run(seeds / f"shot-{seed}", [50 + seed, 49.0, 50.5], seed=seed, strategy={"name": "one_shot"})
    found = [verdict for verdict in compare(capsys, seeds)["verdicts"] if verdict["side"] == "select"]
    assert len(found) == 3
    assert [verdict["adjusted"] for verdict in found] == list(holm([verdict["found"]["p"] for verdict in found]))


def test_only_what_differs_in_one_thing_is_compared_if_asked(seeds: Path, capsys: Capture) -> None:
    for seed in range(2):
        write_run(seeds / f"ties-{seed}", [50, 49.0, 50.5], seed=seed, merge={"method": "ties"})
    found = compare(capsys, seeds, "--by", "strategy")["verdicts"]
    assert {(one["first"], one["second"]) for one in found} == {("greedy_topk slerp", "kinship_topk slerp")}
    both = compare(capsys, seeds, "--by", "strategy", "--by", "merge")["verdicts"]
    assert len({(one["first"], one["second"]) for one in both}) == 3
    assert main([str(seeds), "--by", "evaluate"]) == 2
    assert "differ in evaluate alone" in capsys.readouterr().err


def test_what_exploring_came_to(seeds: Path, capsys: Capture) -> None:
    (row,) = compare(capsys, seeds)["exploring"]
    assert (row["configuration"], row["runs"], row["explorations"]) == ("kinship_topk", 6, 6)
    assert (row["records"], row["in_descent"]) == (6, 6)
    assert row["gain"] > row["gain_else"]


def test_what_stopping_on_kinship_would_have_saved_and_cost(tmp_path: Path, capsys: Capture) -> None:
    for seed in range(2):
        # The two best are near-copies from generation 2 on; one seed still gains after that.
        last = 56.0 if seed else 53.0
        write_run(
            tmp_path / f"a-{seed}", [50, 49, 53, 52.5, 52.2, last], kinship=[0.5, 0.95, 0.99, 0.99], seed=seed
        )  # fmt: skip
    (row,) = compare(capsys, tmp_path / "a-0", tmp_path / "a-1")["stopping"]
    assert (row["runs"], row["stopped"]) == (2, 2)
    assert row["share"] == pytest.approx(0.5)
    assert row["cost"] == pytest.approx(1.5)
    assert row["max_cost"] == pytest.approx(3.0)


def test_runs_that_stopped_on_kinship_themselves_are_not_replayed(tmp_path: Path, capsys: Capture) -> None:
    for seed in range(2):
        stop = {"generations": None, "kinship": "auto", "patience": 1}
        write_run(tmp_path / f"a-{seed}", [50, 49, 53, 52.5], kinship=[0.5, 0.95], seed=seed, stop=stop)
    assert compare(capsys, tmp_path)["stopping"] == []


def test_models_asked_other_samples_are_not_compared_and_that_is_said(tmp_path: Path, capsys: Capture) -> None:
    write_run(tmp_path / "a", [50, 49, 53], seed=0, samples=[1, 0, 1])
    write_run(tmp_path / "b", [50, 49, 52], seed=1, samples=[1, 0, 0], merge={"method": "ties"})
    found = compare(capsys, tmp_path)
    assert found["verdicts"] == []
    assert found["remarks"] == ["a and b were asked other samples (seeds 0, 1)"]


def test_a_curve_is_the_mean_over_seeds_and_carries_on_where_a_run_ended(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [50, 49, 53, 52], seed=0)
    write_run(tmp_path / "b", [40, 49, 45], seed=1)  # its best founder comes second
    found, _ = runs.find([str(tmp_path)])
    (one,) = configurations(found)
    line = band(list(one.runs.values()))
    assert line.evaluations == (1, 2, 3, 4)
    assert line.mean == (45.0, 49.5, 51.0, 51.0)
    assert all(low < mean < high for low, mean, high in zip(line.low, line.mean, line.high, strict=True))
    assert band(list(one.runs.values()), above_founder=True).mean == (-4.5, 0.0, 1.5, 1.5)


def test_evaluations_and_samples_to_the_best(tmp_path: Path, capsys: Capture) -> None:
    write_run(tmp_path / "a", [50, 49, 53, 52])
    write_run(tmp_path / "b", [50, 49, 47, 46], merge={"method": "ties"})
    a, b = compare(capsys, tmp_path)["runs"]
    assert (a["evaluations_to_best"], a["samples_to_best"], a["evaluations"]) == (3, 30, 4)
    assert (b["evaluations_to_best"], b["samples_to_best"], b["best"]) == (1, 10, "A")


def test_a_run_that_has_not_ended_is_shown_and_one_that_has_nothing_left_out(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / name, [50, 49, 53, 52])
    journal = tmp_path / "b/journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    journal = tmp_path / "c/journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    found = compare(capsys, tmp_path)
    assert [run["stopped"] for run in found["runs"]] == ["the budget is spent: all of it", "has not ended yet"]
    assert found["remarks"][:2] == [
        "c has evaluated nothing yet and is left out",
        "b has not ended yet: its figures are those so far",
    ]


MISTAKES = [
    (["/no/such/run"], "/no/such/run: there is no such folder"),
    (["{tmp}"], "no run lies there"),
    (["{tmp}/a"], "a comparison needs two runs"),
    (["{tmp}/a", "{tmp}/a"], "a comparison needs two runs that have evaluated a model; found only"),
    (["{tmp}/a", "{tmp}/b", "--html", "/no/such/folder/x.html"], "there is no folder /no/such/folder"),
    (["{tmp}/a", "{tmp}/b", "--csv", "{tmp}/a"], "/a: this is a folder; expected the name of a file"),
    (["{tmp}/a", "{tmp}/b", "--by", "strateg"], "--by strateg: no run has such a setting"),
    (["sqlite:////no/such/study.db"], "there is no file /no/such/study.db"),
    (["--nope"], "--help tells how"),
    (["{tmp}/a", "{tmp}/damaged"], "is damaged at line 2"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_costs_a_line_and_status_2(tmp_path: Path, capsys: Capture, arguments: list[str], words: str) -> None:
    if arguments != ["{tmp}"]:
        for name in ("a", "b", "damaged"):
            write_run(tmp_path / name, [50, 49, 53])
        journal = tmp_path / "damaged/journal.jsonl"
        journal.write_bytes(journal.read_bytes().replace(b'"source":"base"', b'"source":"bass"'))
    try:
        status = main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    printed = capsys.readouterr()
    assert status == 2
    assert words in printed.err
    assert len(printed.err.strip().splitlines()) <= 2


def test_help_answers_at_once() -> None:
    began = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "src.compare", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == 0
    assert "python -m src.compare" in found.stdout
    assert time.monotonic() - began < 10
    assert not re.search(r"\b(torch|numpy|plotly|optuna|hydra)\b", found.stderr)


def test_an_evaluation_of_the_base_is_paid_for_and_is_nobodys_best(tmp_path: Path, capsys: Capture) -> None:
    write_run(tmp_path / "asks", [40.0, 41.0, 42.0], base=60.0)
    write_run(tmp_path / "does-not", [40.0, 41.0, 42.0])
    found = {run["run"]: run for run in compare(capsys, tmp_path / "asks", tmp_path / "does-not")["runs"]}
    assert [found[name]["best_average"] for name in ("asks", "does-not")] == [42.0, 42.0]
    assert [found[name]["evaluations"] for name in ("asks", "does-not")] == [4, 3]
    assert [found[name]["evaluations_to_best"] for name in ("asks", "does-not")] == [4, 3]
