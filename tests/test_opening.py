"""The first line of a run, which comes before anything that takes time; and a Python that has no packages."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BEGUN = "kinmerge: reading the configuration, the founders and the tasks …\n"


def first_words(*given: str, **environment: str) -> tuple[str, str]:
    """What `python -m GIVEN` says before anything of its own is imported, and what was imported by then."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "sys.orig_argv, sys.argv = [sys.executable, *sys.argv[1:]], ['-m', *sys.argv[3:]]\n"
        "import src\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - {'src'} - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-m", *given],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr, done.stdout


@pytest.mark.parametrize("given", [[], ["strategy.k=2"], ["-m", "seed=1,2"], ["dry_run=true"]], ids=str)
def test_a_run_says_at_once_that_it_has_begun(given: list[str]) -> None:
    assert first_words("src.run", *given) == (BEGUN, "[]\n")


@pytest.mark.parametrize(
    ("given", "environment"),
    [
        (["src.run", "--help"], {}),
        (["src.run", "--cfg=job"], {}),
        (["src.run", "--cfg", "job"], {}),
        (["src.run", "-sc", "query=bash"], {}),
        (["src.kinship", "A", "B", "--base", "C"], {}),
        (["src.run"], {"RANK": "1", "WORLD_SIZE": "2"}),
    ],
    ids=str,
)
def test_what_a_program_may_read_and_other_processes_say_nothing(given: list[str], environment: dict[str, str]) -> None:
    assert first_words(*given, **environment) == ("", "[]\n")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has no packages."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin/python"


@pytest.mark.parametrize("made", [False, True], ids=["before the environment", "beside the environment"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_a_python_without_the_packages_says_what_to_do(bare: Path, tmp_path: Path, made: bool, elsewhere: bool) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "src").symlink_to(ROOT / "src")
    (root / "conf").symlink_to(ROOT / "conf")
    # Of a linked file Python tells the link's place, which is where the project is.
    if made:
        (root / ".venv/bin").mkdir(parents=True)
        (root / ".venv/bin/python").touch()
    done = subprocess.run(
        [bare, "-m", "src.run", "strategy.k=2"],
        cwd=tmp_path if elsewhere else root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    own = f"{root}/.venv/bin/python" if elsewhere else ".venv/bin/python"
    make = f"`make -C {root} install`" if elsewhere else "`make install`"
    advice = (
        f"{own} -m … has the environment's" if made else f"{make} makes the environment that has it; then {own} -m …"
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {bare} has no package hydra; {advice}\n"


def test_any_other_error_is_shown_as_ever(bare: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [bare, "-c", "import sys; sys.argv = ['-m']; import src; import src.no_such_module"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'src.no_such_module'\n")
