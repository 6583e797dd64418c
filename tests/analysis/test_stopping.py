import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.statistics import early_stop, stop_after

runs = st.lists(st.tuples(st.integers(1, 8), st.floats(0, 100), st.floats(-1, 1)), min_size=1, max_size=30).map(sorted)


@given(runs, st.floats(-1, 1), st.integers(1, 3))
def test_a_stop_saves_what_came_after_it_and_never_gains(
    run: list[tuple[int, float, float]], threshold: float, patience: int
) -> None:
    generation, average, kinship = zip(*run, strict=True)
    stop = early_stop(generation, average, kinship, threshold=threshold, patience=patience, founders=[50.0])
    assert stop.merges == len(run)
    assert 0 <= stop.saved <= stop.merges
    assert stop.cost >= 0
    assert stop.best == max(*average, 50.0)
    if stop.generation is None:
        assert (stop.saved, stop.cost) == (0, 0)
    else:
        assert stop.saved == sum(one > stop.generation for one in generation)
        assert stop == stop_after(generation, average, stop.generation, founders=[50.0])
    later = early_stop(generation, average, kinship, threshold=threshold, patience=patience + 1, founders=[50.0])
    assert later.saved <= stop.saved
    assert later.cost <= stop.cost
    mirrored = early_stop(
        generation,
        average,
        [-value for value in kinship],
        threshold=-threshold,
        patience=patience,
        larger_is_closer=False,
        founders=[50.0],
    )
    assert mirrored == stop


def test_failed_merges_were_paid_for_and_unknown_kinship_is_no_saturation() -> None:
    nan = float("nan")
    stop = early_stop([1, 2, 3, 3], [40, 45, nan, 46], [nan, 0.95, 0.95, nan], threshold=0.9, patience=1)
    assert (stop.generation, stop.saved, stop.share) == (2, 2, 0.5)
    assert stop.cost == 1
    assert early_stop([1], [40], [nan], threshold=-1, patience=1).generation is None
    with pytest.raises(ValueError, match="no average is known before the stop"):
        stop_after([2], [40], 1)
