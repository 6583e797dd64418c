"""The compiled kernel: what it reads and writes in memory, and which file of machine code is believed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.kinship import measure, measuring, native
from tests.checkpoints import write_family
from tests.kinship.test_measure import opened, reference

SANITIZED = Path(__file__).with_name("sanitized.c")
CHECKS = ("-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

needs_compiler = pytest.mark.skipif(not native.compiler(), reason="no C compiler here")


def compiled(source: Path, to: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*native.compiler(), *flags, str(source), "-o", str(to), "-lm"], capture_output=True, text=True
    )


@needs_compiler
@pytest.mark.parametrize("counts", [["few"], pytest.param([], marks=pytest.mark.slow)], ids=["some", "every"])
@pytest.mark.parametrize("narrow", [(), ("-mno-avx512f",)], ids=["native", "without AVX-512"])
def test_counts_of_rows_under_sanitizers(tmp_path: Path, narrow: tuple[str, ...], counts: list[str]) -> None:
    if narrow and "avx512f" not in native._processor():
        pytest.skip("this processor has no AVX-512 to leave out")
    (tmp_path / "nothing.c").write_text("int main(void) { return 0; }")
    nothing = compiled(tmp_path / "nothing.c", tmp_path / "nothing", *CHECKS)
    if nothing.returncode or subprocess.run([tmp_path / "nothing"], capture_output=True).returncode:
        pytest.skip(f"this compiler has no sanitizers: {nothing.stderr[-200:]}")
    made = compiled(SANITIZED, tmp_path / "sanitized", *CHECKS, *narrow)
    assert made.returncode == 0, made.stderr
    ended = subprocess.run([tmp_path / "sanitized", *counts], capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "sound\n"), ended.stdout + ended.stderr[:3000]


@needs_compiler
@pytest.mark.parametrize("n", [12, 13, 17])
def test_many_models_of_16_bits(n: int, tmp_path: Path) -> None:
    paths = write_family(tmp_path, [f"m{i}" for i in range(n)], shapes={"w": (65_611,)}, dtypes=["BF16"])
    base, deltas = reference(paths)
    everyone = np.vstack([base, deltas])
    lengths = np.linalg.norm(everyone, axis=1)
    gram = measure(*opened(paths)).total().gram
    assert (np.abs(gram - everyone @ everyone.T) <= 1e-6 * np.outer(lengths, lengths)).all()


def related(family: dict[str, Path], cache: Path) -> None:
    """`python -m src.kinship` in a process of its own, which keeps its library within `cache`; its answer is right."""
    models = [str(family["a"]), str(family["b"])]
    ended = subprocess.run(
        [sys.executable, "-m", "src.kinship", *models, "--base", str(family["base"]), "--json"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
    _, deltas = reference(family)
    assert json.loads(ended.stdout)["matrix"][0][1] == pytest.approx(np.corrcoef(deltas)[0, 1], rel=1e-9)


def digests(cache: Path) -> dict[str, Path]:
    """The libraries that were kept, by content."""
    return {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in (cache / "kinmerge").glob("*.so")}


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Path]:
    return write_family(tmp_path / "family", ["a", "b"])


@needs_compiler
def test_the_library_is_built_once_and_for_its_owner_alone(family: dict[str, Path], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        related(family, tmp_path)
    finally:
        os.umask(before)
    (library,) = digests(tmp_path).values()
    assert (library.stat().st_mode & 0o777, library.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    made = library.stat().st_mtime_ns
    related(family, tmp_path)
    assert [file.stat().st_mtime_ns for file in digests(tmp_path).values()] == [made]


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "other symbols"])
def test_a_damaged_library_is_built_again(damage: str, family: dict[str, Path], tmp_path: Path) -> None:
    related(family, tmp_path)
    ((digest, library),) = digests(tmp_path).items()
    content = library.read_bytes()
    if damage == "other symbols":
        (tmp_path / "other.c").write_text("int nothing;")
        assert compiled(tmp_path / "other.c", library, "-shared", "-fPIC").returncode == 0
    else:
        spoilt = {"truncated": content[:9000], "empty": b"", "one byte": content[:-100] + b"!" + content[-99:]}
        library.write_bytes(spoilt[damage])
    related(family, tmp_path)
    assert digest in digests(tmp_path)


@needs_compiler
def test_code_that_others_can_write_is_not_run(family: dict[str, Path], tmp_path: Path) -> None:
    related(family, tmp_path)
    (library,) = digests(tmp_path).values()
    ran = tmp_path / "ran"
    (tmp_path / "foreign.c").write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void run(void) {{ fclose(fopen("{ran}", "w")); }}'
    )
    assert compiled(tmp_path / "foreign.c", library, "-shared", "-fPIC").returncode == 0
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    library = library.rename(library.with_name(f"{library.stem.rpartition('-')[0]}-{digest[:32]}.so"))

    def start() -> bool:
        """Whether the foreign code runs, nothing else being kept there."""
        for file in digests(tmp_path).values():
            if file != library:
                file.unlink()
        related(family, tmp_path)
        return ran.exists()

    library.chmod(0o600)
    for place, mode in ((library.parent, 0o770), (library.parent, 0o707), (library, 0o660), (library, 0o606)):
        usual = place.stat().st_mode & 0o777
        place.chmod(mode)
        assert not start(), f"{place} {mode:o}"
        place.chmod(usual)
    assert start(), "code planted in this way would not have run in any case"


def test_a_run_measures_on_its_gpu_only_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "build", lambda: Path("gram.so"))
    assert measuring.device_of("cuda:0") == "cpu"
    monkeypatch.setattr(native, "build", lambda: None)
    assert measuring.device_of("cuda:0") == "cuda:0"
