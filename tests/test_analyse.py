"""python -m src.analyse, as its users meet it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.analyse import main

PAPER = Path(__file__).parent / "data/community_path_1.csv"
HEADER = "generation,average,gain,pcc\n"
GOOD = HEADER + "1,50,1,0.5\n2,51,1,0.6\n3,51,0,0.9\n"


def test_the_papers_table_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(PAPER), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    found = {(one["metric"], one["target"], one["method"]): one for one in content["correlations"]}
    assert len(found) == 3 * 2 * 2
    assert found["pcc", "abs_gain", "pearson"]["r"] == pytest.approx(-0.59, abs=0.015)
    assert found["pcc", "abs_gain", "pearson"]["p"] == pytest.approx(0.023, abs=0.02)
    assert found["euclidean", "gain", "pearson"]["r"] > 0
    assert set(found["pcc", "gain", "spearman"]) == {
        *("metric", "target", "method", "r", "p", "adjusted_p", "low", "high", "n", "resamples", "error"),
    }
    adjusted = [one["adjusted_p"] for one in content["correlations"]]
    assert all(one["adjusted_p"] >= one["p"] for one in content["correlations"])
    assert min(adjusted) == pytest.approx(12 * min(one["p"] for one in content["correlations"]))
    assert content["saturation_generation"] == 9
    assert (content["early_stop"]["saved"], content["early_stop"]["merges"]) == (5, 14)


def test_the_papers_table_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(PAPER), "--threshold", "0.9"]) == 0
    out = capsys.readouterr().out
    assert "saturated from generation 9 on" in out
    assert "a stop after generation 10 would have saved 4 of 14 merges (29 %) and cost 0.19" in out.replace(
        "29%", "29 %"
    )
    assert "-0.511" in out


def test_a_metric_of_ones_own_and_words_beside_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    rows = "".join(f"{i},{50 + i},{1 / i},{10 - i},a remark\n" for i in range(1, 11))
    table.write_text("generation,average,gain,mine,remark\n" + rows)
    assert main([str(table), "--json", "--distance", "mine"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {one["metric"] for one in content["correlations"]} == {"mine"}
    assert content["saturation_generation"] is not None
    assert main([str(table), "--json"]) == 0  # as a similarity it falls, which is no saturation
    assert json.loads(capsys.readouterr().out)["saturation_generation"] is None


def test_what_is_not_defined_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(HEADER + "1,50,1,0.5\n2,51,1,0.5\n3,51,0,0.5\n")
    assert main([str(table), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {one["r"] for one in content["correlations"]} == {None}
    assert content["saturation_generation"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column generation; found nothing; expected generation, average, gain and metrics"),
        ("generation,average,pcc\n1,2,3\n", "has no column gain; found generation, average, pcc"),
        ("generation,average,gain\n1,2,3\n2,2,3\n3,2,3\n", "has no column of kinship; expected one a metric"),
        (GOOD + "4,51,none,0.9\n", "line 5, column gain: 'none' is no number"),
        (GOOD + "4,51,0,\n", "line 5, column pcc: '' is no number"),
        (GOOD + "4,nan,0,0.9\n", "line 5, column average: 'nan' is no number"),
        (GOOD + "3.5,51,0,0.9\n", "the generation 3.5 is no whole number"),
        (GOOD + "4,51,0\n", "line 5: 3 cells, expected 4"),
        (HEADER + "1,50,1,0.5\n2,51,1,0.6\n", "too few rows: 2 merges; expected 3 or more"),
        ("generation,average,gain,pcc,pcc\n", "has the column pcc twice"),
    ],
)
def test_a_mistake_costs_a_line(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    assert main([str(table)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_what_is_no_table_costs_a_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.csv")]) == 2
    assert "none.csv: no such file; expected a table of merges as CSV" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "cannot be read as CSV" in capsys.readouterr().err
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert main([str(tmp_path / "binary")]) == 2
    assert "cannot be read as CSV" in capsys.readouterr().err
    assert main([str(PAPER), "--distance", "pc"]) == 2
    assert "--distance pc:" in capsys.readouterr().err


def test_the_command_answers_by_itself() -> None:
    command = [sys.executable, "-m", "src.analyse", str(PAPER)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "saturated from generation 9 on" in found.stdout
    wrong = subprocess.run([*command, "--patience", "0"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
