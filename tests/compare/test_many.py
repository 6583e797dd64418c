"""Many runs beside each other: those of one best model are one result, and what was varied is weighed."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.compare import main
from src.pages.figures import plain
from src.study.compare import page, runs
from src.study.compare.configurations import configurations
from src.study.compare.parameters import ABSENT, Parameters, parallel, parameters
from tests.compare.journals import write_run

Capture = pytest.CaptureFixture[str]
KINDS = ("greedy_topk", "kinship_topk", "one_shot")


def score(strategy: str, k: int | None) -> float:
    """k decides everything, where there is one."""
    return 51.0 if k is None else 52.0 + 2 * k


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty trials of a study: one_shot has no k; patience and the rest are drawn and change nothing."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("sweeps") / "study"
    for number in range(30):
        strategy = KINDS[number % 3]
        k = None if strategy == "one_shot" else int(rng.integers(2, 5))
        patience = int(rng.integers(1, 4))
        given = f"strategy={strategy}" + (f" strategy.k={k} stop.patience={patience}" if k else "")
        write_run(
            folder / str(number),
            [50, 49, score(strategy, k), 48],
            holdout=score(strategy, k) - 1,
            samples=[float(n % (k or 5) == 0) for n in range(40)],
            strategy={"name": strategy, **({"k": k} if k else {})},
            stop={"generations": None, "kinship": "auto", "patience": patience if k else 2},
            command=f"python -m src.run +sweep=strategy {given} name=sweeps/study/{number} ++sweep.trial={number}",
        )
    return folder


def varied(folder: Path) -> Parameters:
    found, _ = runs.find([str(folder)])
    made = parameters(configurations(found))
    assert made is not None
    return made


def test_runs_that_found_one_model_share_a_row_and_a_comparison(sweep: Path, capsys: Capture) -> None:
    # Journals of one seed name their models alike: the same average on both sides is the same model.
    assert main([str(sweep), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    groups = found["winners"]
    by_run = {run["run"]: run["best_average"] for run in found["runs"]}
    assert sorted(name for group in groups for name in group) == sorted(by_run)
    averages = [{by_run[name] for name in group} for group in groups]
    assert averages == [{60.0}, {58.0}, {56.0}, {51.0}]
    compared = [verdict for verdict in found["verdicts"] if verdict["side"] == "select"]
    pairs = {frozenset((verdict["first"], verdict["second"])) for verdict in compared}
    assert len(pairs) == len(compared) == 6  # every two of the four, and none of a model with itself
    assert main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert "best models" in printed
    assert "and 20 more: --csv or --html has all" in printed


def test_runs_that_all_found_the_same_model_have_no_difference(tmp_path: Path, capsys: Capture) -> None:
    for name in ("slerp", "ties"):
        write_run(tmp_path / name, [50, 49, 53], merge={"method": name}, samples=[1, 0, 1])
    assert main([str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["winners"], found["verdicts"]) == ([["slerp", "ties"]], [])
    assert "all 2 runs have the same best model: there is no difference" in found["remarks"]


def test_what_matters_is_found_and_what_does_not_is_not(sweep: Path) -> None:
    found = varied(sweep)
    assert set(found.values) == {"strategy", "strategy.k", "stop.patience"}
    assert next(iter(found.importance)) == "strategy.k"
    assert found.importance["strategy.k"] > 2 * found.importance["stop.patience"]
    assert sum(found.importance.values()) == pytest.approx(1)
    assert varied(sweep) == found  # the same journals, the same figures
    alone = [k for k, strategy in zip(found.values["strategy.k"], found.values["strategy"], strict=True) if k is None]
    assert len(alone) == found.values["strategy"].count("one_shot") > 0
    assert max(found.scores) == pytest.approx(10.0)  # above the best founder


def test_runs_of_no_study_are_weighed_by_their_settings(tmp_path: Path) -> None:
    for number in range(12):
        k, patience = 2 + number % 3, 1 + number // 3
        stop = {"generations": None, "kinship": "auto", "patience": patience}
        strategy = {"name": "greedy_topk", "k": k, "twin": k}  # one thing under two names counts once
        write_run(tmp_path / str(number), [50, 49, 52.0 + k], strategy=strategy, stop=stop)
    found = varied(tmp_path)
    assert set(found.values) == {"strategy.k", "stop.patience"}
    assert next(iter(found.importance)) == "strategy.k"


def test_few_runs_and_runs_that_are_all_as_good_are_not_weighed(tmp_path: Path) -> None:
    for number in range(12):
        strategy = {"name": "greedy_topk", "k": number + 1}
        write_run(tmp_path / "few" / str(number), [50, 49, 52.0 + number], strategy=strategy)
        write_run(tmp_path / "same" / str(number), [50, 49, 52], strategy=strategy)
    found, _ = runs.find([str(tmp_path / "few")])
    assert parameters(configurations(found)[:9]) is None
    assert parameters(configurations(found)) is not None
    found, _ = runs.find([str(tmp_path / "same")])
    assert parameters(configurations(found)) is None


def test_every_configuration_is_a_line_of_its_own_through_its_settings(sweep: Path) -> None:
    found, _ = runs.find([str(sweep)])
    all_of_them, weighed = configurations(found), varied(sweep)
    drawn = plain(parallel(all_of_them, weighed))
    assert len(drawn["data"]) == len(all_of_them)
    for axis in range(len(weighed.values)):
        heights = [line["y"][axis] for line in drawn["data"]]
        assert len(set(heights)) == len(heights)  # none hides another
        assert all(0 <= height <= 1 for height in heights)
    best = [line for line in drawn["data"] if line["y"][-1] == 1]
    assert {line["line"]["color"] for line in best} == {"var(--orange)"}
    assert len(best) < len(all_of_them)
    numbers = [label["text"] for label in drawn["layout"]["annotations"]]
    assert ABSENT in numbers


def test_numbers_of_many_values_keep_their_order_and_distance(tmp_path: Path) -> None:
    for number in range(10):
        merge = {"method": "slerp", "parameters": {"t": round(0.1 + number**2 / 100, 3)}}
        write_run(tmp_path / str(number), [50, 49, 52.0 + number], merge=merge)
    found, _ = runs.find([str(tmp_path)])
    weighed = varied(tmp_path)
    drawn = plain(parallel(configurations(found), weighed))
    heights = [line["y"][0] for line in drawn["data"]]  # the worst is drawn first
    assert heights == pytest.approx([number**2 / 81 for number in range(10)], abs=1e-3)


def test_curves_that_agree_share_a_line_and_only_the_best_are_named(tmp_path: Path, sweep: Path) -> None:
    found, _ = runs.find([str(sweep)])
    drawn = plain(page.curves(configurations(found)))["data"]
    assert len(drawn) == 4
    assert sum("alike" in line["name"] for line in drawn) >= 3
    for number in range(20):
        write_run(tmp_path / str(number), [50, 49, 52.0 + number], strategy={"name": "greedy_topk", "k": number + 1})
    found, _ = runs.find([str(tmp_path)])
    drawn = plain(page.curves(configurations(found)))["data"]
    assert len(drawn) == 20
    shown = [line["name"].replace("<br>", " ") for line in drawn if line["showlegend"]]
    assert len(shown) == len(page.HUES) + 1
    assert shown[-1] == "k=20"  # the best, on top
    assert "the others" in shown
    named = [line for line in drawn if line["name"] != "the others"]
    assert len({(line["line"]["color"], line["line"]["dash"]) for line in named}) == len(named)
    assert all(len(part) <= page.LETTERS for line in drawn for part in line["name"].split("<br>"))


def test_the_page_leads_with_the_best_model_and_who_found_it(sweep: Path, tmp_path: Path) -> None:
    assert main([str(sweep), "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert len(text) < 2e6
    header = html.unescape(re.sub(r"<[^>]+>", " ", text[text.index("<header>") : text.index("</header>")]))
    assert "60.00 on what steered its search, +10.00 on its best founder" in header
    assert re.search(r"found by \d+ of 30 runs", header)
    assert "59.00" in header  # on the holdout
    assert "Which settings matter" in header


def test_what_a_glob_meets_beside_runs_is_left_out_and_named(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, [50, 49, 53], merge={"method": name})
    (tmp_path / "README.md").write_text("outputs go here")
    (tmp_path / "cache/merges").mkdir(parents=True)
    arguments = sorted(map(str, tmp_path.glob("*")))
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {run["run"] for run in found["runs"]} == {"a", "b"}
    left_out = [remark for remark in found["remarks"] if "has no run (a journal.jsonl) and is left out" in remark]
    assert [Path(remark.split()[0]).name for remark in left_out] == ["README.md", "cache"]
    assert main([str(tmp_path / "README.md")]) == 2
    assert "no run lies there" in capsys.readouterr().err
    assert main([str(tmp_path / "README.md"), str(tmp_path / "a")]) == 2
    assert "README.md has no run" in capsys.readouterr().err


def test_what_by_lacks_is_said(tmp_path: Path, capsys: Capture) -> None:
    for name in ("greedy_topk", "random_pairs"):
        write_run(tmp_path / name, [50, 49, 53], strategy={"name": name})
    assert main([str(tmp_path), "--by", "strategy"]) == 2
    said = capsys.readouterr().err
    assert "two seeds or more" in said
    assert "greedy_topk has seed 0" in said
    assert "random_pairs has seed 0" in said
    assert "seed=1" in said
    assert main([str(tmp_path), "--by", "merge"]) == 2
    assert "greedy_topk and random_pairs differ in strategy.name" in capsys.readouterr().err
    write_run(tmp_path / "again", [50, 49, 53], seed=1, strategy={"name": "greedy_topk"})
    write_run(tmp_path / "more", [50, 49, 53], seed=1, strategy={"name": "random_pairs"})
    assert main([str(tmp_path), "--by", "strategy"]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "greedy_topk"), str(tmp_path / "again"), "--by", "merge"]) == 2
    assert "all 2 runs have one configuration: nothing differs in merge" in capsys.readouterr().err
