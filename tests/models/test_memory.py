"""What was computed of one founder is found again: by the next merge, by other processes, and by other runs."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.models import merging
from src.models.methods import singular
from src.runtime.cache import Cache
from tests.conftest import Command
from tests.family import FOUNDERS
from tests.models.test_every_merge import chosen
from tests.models.test_methods import merge, tensors

KIB = 1 << 10
MUCH = 1 << 30


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every matrix that is decomposed as a founder's change, however small it is."""
    found: list[torch.Tensor] = []
    real = singular.decompose

    def counted(matrix: torch.Tensor) -> Any:
        found.append(matrix)
        return real(matrix)

    monkeypatch.setattr(singular, "decompose", counted)
    monkeypatch.setattr(singular, "_nearest_orthonormal", lambda columns: (f := real(columns)).u @ f.vt)
    monkeypatch.setattr(singular, "WORTH_KEEPING", 1)
    return found


def test_a_founder_is_decomposed_once(tmp_path: Path, decomposed: list[torch.Tensor]) -> None:
    base, *founders = tensors((6, 5), 3)
    plain = merge("tsv_m", [base, *founders])
    assert len(decomposed) == 3
    for cache in (Cache(tmp_path, factors=MUCH), Cache(tmp_path, factors=MUCH)):  # as two runs have it
        with singular.factors_kept_in(cache):
            assert torch.equal(merge("tsv_m", [base, *founders]), plain)
            assert torch.equal(merge("tsv_m", [base, *reversed(founders)]), plain)
            merge("tsv_m", [base, *founders[:2]], name="model.layers.9.mlp.up_proj.weight", scale=2.0)
    assert len(decomposed) == 6
    with singular.factors_kept_in(Cache(tmp_path, factors=MUCH)):
        merge("tsv_m", [base + 1, *founders[:2]])
    assert len(decomposed) == 8
    merge("tsv_m", [base, *founders])
    assert len(decomposed) == 11


def test_a_damaged_entry_is_discarded_and_made_again(
    tmp_path: Path, decomposed: list[torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    given = tensors((6, 5), 2)
    plain = merge("tsv_m", given)
    with singular.factors_kept_in(Cache(tmp_path, factors=MUCH)):
        merge("tsv_m", given)
        one, other = sorted((tmp_path / "factors").iterdir())
        one.write_bytes(other.read_bytes())  # sound, and another's
        data = bytearray(other.read_bytes())
        data[-60] ^= 1
        other.write_bytes(data)
        before = len(decomposed)
        assert torch.equal(merge("tsv_m", given), plain)
        assert len(decomposed) == before + 2
        assert "does not match its checksum" in capsys.readouterr().err
        assert torch.equal(merge("tsv_m", given), plain)
    assert len(decomposed) == before + 2


def test_small_matrices_are_not_worth_a_file(tmp_path: Path) -> None:
    with singular.factors_kept_in(Cache(tmp_path, factors=MUCH)):
        merge("tsv_m", tensors((200, 300), 2))
        assert not (tmp_path / "factors").exists()
        merge("tsv_m", tensors((256, 300), 2))
    assert len([*(tmp_path / "factors").iterdir()]) == 2


def keep(cache: Cache, *keys: str) -> None:
    for key in keys:
        cache.keep_factors(key, lambda: bytes(KIB))


def kept(folder: Path) -> list[str]:
    return sorted(file.stem for file in (folder / "factors").iterdir())


def test_there_is_no_more_of_it_than_may_be_and_what_nobody_uses_goes_first(tmp_path: Path) -> None:
    room = 4 * KIB  # of three entries, which carry a checksum
    keep(Cache(tmp_path, factors=room), *"abcd")
    assert kept(tmp_path) == ["a", "b", "c"]  # of what is in use, a part is kept
    for age, key in enumerate("cab"):
        os.utime(tmp_path / f"factors/{key}.safetensors", (age, age))
    later = Cache(tmp_path, factors=room)
    assert later.factors("c", len) == KIB
    keep(later, "e")
    assert kept(tmp_path) == ["b", "c", "e"]
    keep(later, "f", "g")
    assert kept(tmp_path) == ["c", "e", "f"]
    keep(Cache(tmp_path, factors=0), "h")
    assert kept(tmp_path) == ["c", "e", "f"]


def test_a_run_finds_what_another_has_computed_and_makes_the_same_bytes(
    evolve: Command, tmp_path: Path, decomposed: list[torch.Tensor]
) -> None:
    shot = ("strategy=one_shot", "merge=tsv_m", "keep=all")
    assert evolve(*shot, "cache=on", "name=first").status == 0
    spent = len(decomposed)
    assert spent
    other = "merge.parameters.scale=1.0"
    assert evolve(*shot, "cache=on", "name=second", other).status == 0
    assert len(decomposed) == spent
    assert evolve(*shot, "cache=off", "name=third", other).status == 0
    assert len(decomposed) == 2 * spent
    second, third = (tmp_path / f"outputs/{name}/models/1-1/model.safetensors" for name in ("second", "third"))
    assert second.read_bytes() == third.read_bytes()
    for file in (tmp_path / "outputs/cache/factors").iterdir():
        assert os.fsencode(tmp_path) not in file.read_bytes()


def test_no_place_to_keep_it_costs_time_alone(
    family: Path, tmp_path: Path, decomposed: list[torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    models = {name: family / name for name in ("base", *FOUNDERS)}
    recipe = merging.recipe(chosen("tsv_m"), FOUNDERS, seed=0, threads=1)
    merging.merge(recipe, models, tmp_path / "plain")
    with singular.factors_kept_in(Cache(tmp_path / "cache", factors=MUCH)):
        merging.merge(recipe, models, tmp_path / "without")
    one, two = (load_file(tmp_path / out / "model.safetensors") for out in ("plain", "without"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert "the run goes on without it" in capsys.readouterr().err
