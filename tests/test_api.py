"""From Python: `import kinmerge`, and the notebook of the docs."""

import json
import math
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from src import package as kinmerge
from src.journal import events_of
from tests.conftest import Command, on_pico_family
from tests.family import FOUNDERS, TASKS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def found(family: Path, tmp_path_factory: pytest.TempPathFactory) -> kinmerge.Run:
    """A run of two generations from Python."""
    outputs = tmp_path_factory.mktemp("api")
    return kinmerge.evolve(
        *on_pico_family(family, outputs),
        strategy="greedy_topk",
        strategy__k=2,
        stop={"generations": 2, "kinship": None},
        evaluate__holdout=0.5,
        evaluate__model_args={"attn_implementation": "eager"},
    )


def test_the_same_settings_make_the_same_run_as_on_the_command_line(
    found: kinmerge.Run, evolve: Command, tmp_path: Path
) -> None:
    typed = ("strategy=greedy_topk", "strategy.k=2", "stop.generations=2", "stop.kinship=null")
    assert evolve(*typed, "evaluate.holdout=0.5", "+evaluate.model_args.attn_implementation=eager").status == 0
    other = kinmerge.Run(tmp_path / "outputs/run")
    assert found.models == other.models
    assert found.stopped == other.stopped
    assert (found.best / "model.safetensors").read_bytes() == (other.best / "model.safetensors").read_bytes()
    assert "1-1" in (found.folder / "run.log").read_text()


def test_the_journal_has_the_equal_command(found: kinmerge.Run) -> None:
    command = events_of(found.folder)[0]["provenance"]["command"]
    assert command.startswith("python -m src.run strategy=kinship_topk founders=local ")
    assert command.endswith("evaluate.holdout=0.5 'evaluate.model_args={attn_implementation:'\"'\"'eager'\"'\"'}'")


def test_a_run_is_read_as_models_tables_and_figures(found: kinmerge.Run) -> None:
    pytest.importorskip("pandas")
    table = found.to_pandas()
    assert list(table.index) == [model.name for model in found.models]
    assert list(table.index[:4]) == list(FOUNDERS)
    winner = table.loc[found.winner.name]
    assert winner.average == table.average.max() == found.winner.average
    assert dict(winner[list(TASKS)]) == found.scores[found.winner.name]
    assert winner.holdout == pytest.approx(sum(found.holdout[found.winner.name].values()) / len(TASKS))
    first = table[table.generation == 1].iloc[0]
    assert first.kinship == found.kinship.between(*first.parents)
    assert math.isnan(table.loc["red"].gain)
    assert first.gain == pytest.approx(first.average - table.loc[list(first.parents)].average.mean())
    assert {"pedigree", "scores"} <= found.figures.keys()
    assert type(found.figures["pedigree"]).__module__.startswith("plotly")
    assert "the number to quote" in repr(found)


def test_a_mistake_is_raised_in_one_line_and_hydra_is_left_alone(family: Path, tmp_path: Path) -> None:
    given = on_pico_family(family, tmp_path)
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    for mistake, told in {
        "strategy.kk=2": "strategy.kk: no such key",
        "strategy=greedy": "strategy=greedy: no such option",
        "-m": "expected KEY=VALUE",
        "dry_run=true": "kinmerge.plan",
        "strategy.k=-1": "strategy.k",
        "seed=1,2": "one value is expected",
    }.items():
        with pytest.raises(kinmerge.UserError, match=told):
            kinmerge.evolve(*given, mistake)
    assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == before
    assert not (tmp_path / "run").exists()
    with pytest.raises(kinmerge.UserError, match="is no run"):
        kinmerge.Run(tmp_path)


@pytest.mark.parametrize("name", ["it's", "a, b: {c}", "[x]", "true", "3", "back\\slash", "ends in \\", 'a "b"', "a=b"])
def test_text_is_text_whatever_is_in_it(family: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(kinmerge.UserError) as told:
        kinmerge.plan(*on_pico_family(family, tmp_path), evaluate__include=name)
    assert repr(name)[1:-1] in str(told.value)


def test_a_plan_is_printed(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinmerge.plan(*on_pico_family(family, tmp_path), stop__generations=1)
    assert "red × green" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_notebook_of_the_docs_runs(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kinmerge", kinmerge)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/example.ipynb").read_text())["cells"]
    here: dict[str, Any] = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert cell["outputs"] == []
        exec("".join(cell["source"]), here)
        if "parameters" in cell["metadata"].get("tags", ()):
            here["overrides"] = on_pico_family(family, tmp_path / "outputs")
    assert here["run"].stopped
    assert here["models"].loc[here["winner"].name].average == here["winner"].average
    assert here["model"].num_parameters() > 0


def test_the_list_of_packages_is_complete() -> None:
    listed = set(installing()["packages"])
    there = {folder.parent.relative_to(ROOT) for folder in (ROOT / "src").rglob("__init__.py")} - {Path("src/package")}
    assert listed == {"kinmerge", "kinmerge.conf", *(f"kinmerge.{'.'.join(folder.parts)}" for folder in there)}
    modules = {file.parent.relative_to(ROOT) for file in (ROOT / "src").rglob("*.py")}
    assert modules == {*there, Path("src/package")}, "a folder of modules without __init__.py"


def installing() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, which has this one's packages, and kinmerge installed from a copy of the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("environment")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    venv.create(made)
    (site(made) / "these.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", made / "bin/python", "install", "--quiet"]
    how = ["--editable"] if request.param == "editable" else []
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-build-isolation", *how, copy], check=True)
    return made


def site(environment: Path) -> Path:
    """The folder of an environment's packages."""
    (found,) = environment.glob("lib/python*/site-packages")
    return found


def outside(environment: Path, tmp_path: Path, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment where a package of the user's own is called `src`, too."""
    (tmp_path / "src").mkdir(exist_ok=True)
    (tmp_path / "src/__init__.py").write_text("raise RuntimeError('not this one')")
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [environment / "bin" / command, *more], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )


def test_what_is_installed_is_one_package_with_everything_in_it(installed: Path) -> None:
    here = site(installed)
    expected = {file.relative_to(ROOT) for folder in ("src", "conf") for file in (ROOT / folder).rglob("*.*")}
    expected = {file for file in expected if "__pycache__" not in file.parts and (ROOT / file).is_file()}
    assert {file.suffix for file in expected} == {".py", ".yaml", ".c", ".h", ".css", ".html", ".js", ".json", ".md"}
    if (here / "kinmerge").exists():
        missing = {file for file in expected if not (here / "kinmerge" / file).exists()}
        assert {file for file in missing if file.parts[:2] != ("src", "package")} == set()
        assert all((here / "kinmerge" / name).exists() for name in ("__init__.py", "__main__.py"))
    assert not (here / "src").exists()
    assert not (here / "conf").exists()


@pytest.mark.slow  # two commands, as slowly as they start
def test_the_installed_command_evolves_and_reports(installed: Path, family: Path, tmp_path: Path) -> None:
    given = [*on_pico_family(family, tmp_path / "outputs"), "strategy=one_shot", "evaluate.limit=8"]
    done = outside(installed, tmp_path, "kinmerge", *given)
    assert done.returncode == 0, done.stderr
    done = outside(installed, tmp_path, "kinmerge", "report", "outputs/run", "--out", "page")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "page").is_file()


def test_a_mistake_costs_the_installed_command_a_line(installed: Path, tmp_path: Path) -> None:
    done = outside(installed, tmp_path, "kinmerge", "strategy=greedy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[1:] == [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "strategy=greedy: no such option" in done.stderr
    done = outside(installed, tmp_path, "kinmerge", "reprot", "outputs/run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: reprot: no such command. Did you mean report? Known: analyse, compare, ")
    done = outside(installed, tmp_path, "python", "-m", "kinmerge", "report")
    assert (done.returncode, done.stderr.rpartition(" (")[2]) == (2, "kinmerge report --help tells how)\n")


def test_what_is_installed_is_imported_by_its_place(installed: Path, tmp_path: Path, found: kinmerge.Run) -> None:
    code = f"import kinmerge; print(kinmerge.Run({str(found.folder)!r}).winner.name); import src; print(src.__file__)"
    done = outside(installed, tmp_path, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    name, place = done.stdout.split()
    assert name == found.winner.name
    assert not Path(place).is_relative_to(tmp_path)


def test_another_package_called_src_is_not_mistaken_for_the_code(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/__init__.py").touch()
    done = subprocess.run(
        [installed / "bin/python", "-c", "import src, kinmerge"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"another one was imported before: {tmp_path / 'src/__init__.py'}" in done.stderr


def test_what_is_installed_without_its_dependencies_says_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src/package", tmp_path / "kinmerge")
    shutil.copytree(ROOT / "src", tmp_path / "kinmerge/src", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-S", "-m", "kinmerge"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "has no package hydra; installing kinmerge by pip without --no-deps brings it" in done.stderr
