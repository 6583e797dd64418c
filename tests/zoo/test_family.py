"""The family on disk: loadable by everybody, the same for the same seed, never half made."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from src import zoo
from src.runtime.errors import UserError

EFFORT = 0.02


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def visible(folder: Path) -> list[str]:
    """Everything in a folder but the lock, an empty file that stays so that processes can agree on it."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "family"
    zoo.build(folder, seed=0, effort=EFFORT)
    return folder


def test_every_model_loads_as_an_ordinary_checkpoint(family: Path) -> None:
    weights = []
    for name in ("base", *zoo.FOUNDERS):
        model = AutoModelForCausalLM.from_pretrained(family / name)
        assert sum(p.numel() for p in model.parameters()) <= 2_000_000
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert (family / name / "model.safetensors").is_file()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for i, one in enumerate(weights):
        assert not any(torch.equal(one, other) for other in weights[:i])


def test_the_tokenizer_knows_every_word_and_splits_a_question_as_its_parts(family: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(family / "base")
    assert None not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    for task in zoo.TASKS:
        for line in (family / "tasks" / f"{task}.jsonl").read_text().splitlines():
            document = json.loads(line)
            prompt = tokenizer(document["question"])["input_ids"]
            assert prompt[0] == tokenizer.bos_token_id
            for choice in document["choices"]:
                answer = tokenizer(choice, add_special_tokens=False)["input_ids"]
                assert tokenizer(f"{document['question']} {choice}")["input_ids"] == prompt + answer
                assert tokenizer.unk_token_id not in prompt + answer


def test_lm_eval_reads_and_scores_the_tasks_wherever_the_folder_lies(family: Path, tmp_path: Path) -> None:
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    moved = tmp_path / "moved"
    moved.mkdir()
    for name, data in contents(family / "tasks").items():
        if not name.startswith("__pycache__"):
            (moved / name).write_bytes(data)
    tasks = TaskManager(include_path=str(moved), include_defaults=False).load(list(zoo.TASKS))["tasks"]
    model = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(family / "base"),
        tokenizer=AutoTokenizer.from_pretrained(family / "base"),
        batch_size=64,
        device="cpu",
    )
    results = evaluate(lm=model, task_dict=tasks, bootstrap_iters=0, limit=20)["results"]
    assert set(results) == set(zoo.TASKS)
    assert all(0 <= result["acc,none"] <= 1 for result in results.values())
    assert all(task.get_config("num_fewshot") == 0 for task in tasks.values())
    assert all(len(task.eval_docs) >= 200 for task in tasks.values())


def test_labels_lie_everywhere(family: Path) -> None:
    for task in zoo.TASKS:
        documents = [json.loads(line) for line in (family / "tasks" / f"{task}.jsonl").read_text().splitlines()]
        labels = [document["label"] for document in documents]
        assert all(labels.count(place) >= 0.15 * len(labels) for place in range(4)), task
        assert all(len(set(document["choices"])) == 4 for document in documents)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(family: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    zoo.build(tmp_path / "again", seed=0, effort=EFFORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    zoo.build(tmp_path / "other", seed=1, effort=EFFORT)
    first, again, other = (
        {name: data for name, data in contents(f).items() if name.endswith(("safetensors", "jsonl", "yaml"))}
        for f in (family, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert all(first[name] != other[name] for name in first if not name.endswith("yaml"))


def test_a_finished_family_is_left_alone_and_another_seed_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "family"
    stages: list[str] = []
    zoo.build(folder, effort=0.001, progress=lambda stage, done, total: stages.append(stage))
    assert {"base", *zoo.FOUNDERS} <= set(stages)
    before, stages = contents(folder), []
    zoo.build(folder, effort=0.001, progress=lambda stage, done, total: stages.append(stage))
    assert stages == []
    assert contents(folder) == before
    zoo.build(folder, seed=7, effort=0.001)
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 7
    assert visible(tmp_path) == ["family"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "base":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.build(tmp_path / "family", effort=EFFORT, progress=interrupt)
    assert visible(tmp_path) == []


def test_a_killed_build_leaves_no_family(tmp_path: Path) -> None:
    """What is left of a killed build is not where a family is looked for."""
    script = (
        "import os, signal; from pathlib import Path; from src import zoo\n"
        "def kill(stage, done, total):\n"
        "    if stage == 'facts': os.kill(os.getpid(), signal.SIGKILL)\n"
        f"zoo.build(Path({str(tmp_path / 'family')!r}), effort=0.001, progress=kill)\n"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, env=os.environ, capture_output=True, check=False)
    assert killed.returncode < 0
    assert not (tmp_path / "family").exists()
    zoo.build(tmp_path / "family", effort=0.001)
    assert (tmp_path / "family" / "manifest.json").is_file()
    assert visible(tmp_path) == ["family"]


def test_a_folder_that_is_no_family_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no family"):
        zoo.build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("manifest", ['{"name": "my extension", "version": "1.0"}', "{}", "[1]", "x", '{"seed": 3}'])
def test_a_manifest_of_another_program_makes_no_family(tmp_path: Path, manifest: str) -> None:
    folder = tmp_path / "extension"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    (folder / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="exists and is no family"):
        zoo.build(folder, effort=0.001)
    assert contents(tmp_path) == before


def test_what_lies_within_a_family_without_being_of_it_is_not_lost_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "family"
    zoo.build(folder, effort=0.001)
    (folder / "notes").mkdir()
    (folder / "notes/thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="beside it 'notes', which would be lost"):
        zoo.build(folder, seed=7, effort=0.001)
    zoo.build(folder, effort=0.001)  # it is what is wanted: nothing is to be done
    assert contents(tmp_path) == before


def test_what_lies_beside_a_family_is_left_alone(tmp_path: Path) -> None:
    beside = [".family-photos/me.jpg", ".family-x/new/thesis.txt", ".family.lock", ".other.partial/x"]
    beside.append(f".family.{socket.gethostname()}.{os.getpid()}.1.partial/of-a-process-that-lives")
    for name in beside:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("years of work")
    zoo.build(tmp_path / "family", effort=0.001)
    zoo.build(tmp_path / "family", seed=7, effort=0.001)
    assert all((tmp_path / name).read_text() == "years of work" for name in beside)
    assert {path.name for path in tmp_path.iterdir()} == {"family", *(name.partition("/")[0] for name in beside)}


@pytest.mark.parametrize("folder", ["/dev/null/family", "file/family"])
def test_a_place_where_no_family_can_be_made(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be made \((Not a directory|File exists)"):
        zoo.build(tmp_path / folder)


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--effort", "0"], ["--effort", "nan"], ["--seed", "x"]])
def test_bad_arguments_end_in_a_line_and_status_2(tmp_path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "src.zoo", str(tmp_path / "family"), *arguments]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "error: " in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "family").exists()


def test_importing_the_family_imports_nothing_heavy() -> None:
    script = (
        "import sys, src.zoo; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'lm_eval', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False).returncode == 0
