"""The published community evolution path (arXiv 2410.12613, Table 5) gives the published analysis (Table 1)."""

import csv
from pathlib import Path

import pytest

from src.statistics import correlate, early_stop, saturation, stop_after

ROWS = list(csv.DictReader((Path(__file__).parent.parent / "data/community_path_1.csv").open()))
PUBLISHED = [
    ("pcc", "gain", -0.50, 0.063),
    ("pcc", "abs_gain", -0.59, 0.023),
    ("cosine", "gain", -0.45, 0.098),
    ("cosine", "abs_gain", -0.66, 0.008),
    ("euclidean", "gain", 0.46, 0.091),
    ("euclidean", "abs_gain", 0.67, 0.007),
]


def column(name: str) -> list[float]:
    if name == "abs_gain":
        return [abs(gain) for gain in column("gain")]
    return [float(row[name]) for row in ROWS]


@pytest.mark.parametrize(("metric", "target", "r", "p"), PUBLISHED)
def test_table_1_comes_out(metric: str, target: str, r: float, p: float) -> None:
    found = correlate(column(metric), column(target))
    assert found.r == pytest.approx(r, abs=0.015)
    assert found.p == pytest.approx(p, abs=0.02)
    assert found.low <= found.r <= found.high
    assert found.n == 14


@pytest.mark.parametrize("metric", ["pcc", "cosine", "euclidean"])
def test_every_metric_puts_saturation_where_the_paper_does(metric: str) -> None:
    generations = [int(row["generation"]) for row in ROWS]
    found = saturation(generations, column("gain"), column(metric), larger_is_closer=metric != "euclidean")
    assert found.generation == 9
    assert found.p < 0.01
    assert found.gain_after < 0.1 < 0.5 < found.gain_before


def test_a_stop_at_saturation_would_have_saved_five_of_the_fourteen_merges() -> None:
    generations = [int(row["generation"]) for row in ROWS]
    stop = stop_after(generations, column("average"), 9)
    assert (stop.saved, stop.merges) == (5, 14)
    assert stop.cost == pytest.approx(76.86 - 76.58)
    patient = early_stop(generations, column("average"), column("pcc"), threshold=0.9)
    assert (patient.generation, patient.saved) == (10, 4)
    assert early_stop(generations, column("average"), column("pcc"), threshold=0.999).saved == 0
