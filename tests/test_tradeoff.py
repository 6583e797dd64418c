"""Trade-offs after a run, through the front door: predicted fronts, the recipe of any weighting, and its model."""

import contextlib
import hashlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mergekit.scripts.multimerge import main as multimerge

from src.journal import State, run_state
from src.models.checkpoint import open_checkpoint, tensors_of
from src.models.methods import treated
from src.study.tradeoff import front as fronts
from src.tradeoff import main as tradeoff
from tests.conftest import Outcome
from tests.family import FOUNDERS, TASKS
from tests.searched import search


def command(*arguments: object) -> Outcome:
    """`python -m src.tradeoff` within this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = tradeoff([str(one) for one in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def made(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search; nobody may change it."""
    return search(family, tmp_path_factory.mktemp("searched"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def state_of(folder: Path) -> State:
    found = run_state(folder)
    assert found is not None
    return found


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_front_has_a_row_a_weighting_and_costs_no_evaluation(folder: Path) -> None:
    before = digests(folder)
    outcome = command(folder)
    assert outcome.status == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines() if line.strip()]
    winner = state_of(folder).population.best(1)[0]
    (found,) = (line for line in lines if line[0] == "found:")
    assert found[1:3] == [winner.name, f"{winner.average:.1f}"]
    assert [line[0] for line in lines[-4:]] == ["average", "worst", *(f"{task}=1" for task in TASKS)]
    assert all(len(line) == 5 and "±" in line[1] for line in lines[-4:])
    assert digests(folder) == before


def test_a_point_is_the_best_that_is_predicted_of_its_own_weighting(folder: Path) -> None:
    front = fronts.load(folder)
    every = front.problem.process.recipes.numpy()
    known = front.judged([""] * len(every), every)
    average, worst, *emphasised = front.points({**front.general, **front.emphasised})
    for point in (average, *emphasised):  # of two tasks, each alike
        assert point.average.value >= max(one.average.value for one in known) - 0.01  # weights are rounded
    assert worst.worst.value >= max(one.worst.value for one in known) - 0.01
    first, *_, last = between = front.points(front.between(*TASKS))
    assert len(between) == fronts.STEPS
    for task, point in zip(TASKS, (first, last), strict=True):
        assert point.tasks[task].value >= max(one.tasks[task].value for one in known) - 0.01
        assert point.tasks[task].low < point.tasks[task].value < point.tasks[task].high
    assert set(fronts.most_opposed(emphasised, TASKS) or ()) == set(TASKS)


def test_the_front_between_two_tasks_is_drawn_with_the_evaluated_models(folder: Path, tmp_path: Path) -> None:
    outcome = command(folder, "--front", *TASKS, "--html", tmp_path / "front.html")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("% :") == fronts.STEPS
    page = (tmp_path / "front.html").read_text()
    assert all(f'"{name}"' in page for name in FOUNDERS)
    assert "error_x" in page


def test_a_model_is_made_on_demand_to_the_bytes_that_the_command_in_its_recipe_gives(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(folder)
    outcome = command(folder, "--weight", f"{TASKS[0]}=3", f"{TASKS[1]}=0.5", "--make")
    assert outcome.status == 0, outcome.err
    target = folder / "tradeoffs" / f"{TASKS[0]}=3,{TASKS[1]}=0.5"
    assert {path: digest for path, digest in digests(folder).items() if not path.startswith("tradeoffs")} == before
    documents = list(yaml.safe_load_all((target / "recipe.yaml").read_text()))
    assert list(yaml.safe_load_all(outcome.out[outcome.out.index("name: ") :])) == documents
    head = (target / "recipe.yaml").read_text().splitlines()[1]
    (given,) = re.findall(r"^# PYTHONPATH=KINMERGE python -m src.models.methods (.*)   makes it again$", head)
    treated.register()
    shutil.copy(target / "recipe.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    multimerge(shlex.split(given), standalone_mode=False)
    made, again = tensors_of(target), tensors_of(tmp_path / given.split("--out-path ")[1].split()[0])
    for name, tensor in made.items():
        assert torch.equal(tensor, again[name]), name
    third = command(folder, "--weight", f"{TASKS[0]}=3", f"{TASKS[1]}=0.5", "--make")
    assert (third.status, third.err.count("\n")) == (2, 1)
    assert "is there already" in third.err


def test_a_made_model_is_the_one_that_the_run_would_have_made(folder: Path, tmp_path: Path) -> None:
    from src.export.unmade import Unmade
    from src.population import Proposal

    state = state_of(folder)
    youngest = state.population.models[-1]
    unmade = Unmade(folder, Proposal(youngest.parents, merge=youngest.merge))
    unmade.make(tmp_path / "again", "")
    assert open_checkpoint(tmp_path / "again").fingerprint() == youngest.fingerprint


def test_a_part_of_the_samples_is_enough(family: Path, tmp_path: Path) -> None:
    folder = search(family, tmp_path / "shared", "evaluate.share=0.5", "strategy.directions=null")
    outcome = command(folder, "--weight", "worst")
    assert outcome.status == 0, outcome.err
    assert "recipe of worst" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weight", "pico_colours=2"), f"has no task 'pico_colours'; its tasks are {', '.join(TASKS)}"),
        (("--weight", "pico_words"), "--weight pico_words: expected TASK=W"),
        (("--weight", "pico_words=much"), "--weight pico_words=much: expected TASK=W"),
        (("--weight", "pico_words=-1"), "weights should be 0 or more"),
        (("--weight", "pico_words=0", "pico_vowels=0"), "one of them above 0"),
        (("--front", "pico_words", "pico_words"), "not pico_words twice"),
        (("--front", "pico_words", "none"), "has no task 'none'"),
        (("--out", "there"), "--out is where --make puts the model"),
        (("--html", "none/page.html"), "there is no folder none"),
    ],
)
def test_a_mistake_costs_one_line(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    outcome = command(folder, *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert words in outcome.err


def test_what_cannot_be_predicted_is_said_in_one_line(folder: Path, made: Path, tmp_path: Path) -> None:
    (folder / "samples" / "red.npz").unlink()
    lost = command(folder)
    assert "what red answered is not in" in lost.err
    (folder / "kinship.npz").unlink()
    unmeasured = command(folder)
    assert "kinship.npz is not there" in unmeasured.err
    nowhere = command(tmp_path / "nowhere")
    lines = (made / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "journal.jsonl").write_text("".join(lines[:7]))
    young = command(tmp_path / "young")
    assert "have to be evaluated first" in young.err
    for outcome in (lost, unmeasured, nowhere, young):
        assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err


def test_a_strategy_that_predicts_nothing_is_named(evolve, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert evolve("strategy=one_shot", "merge=linear").status == 0
    outcome = command(tmp_path / "outputs/run")
    assert outcome.status == 2
    assert "strategy=one_shot, which predicts nothing" in outcome.err
