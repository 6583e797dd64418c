"""A user's mistake costs a line or two, seconds, and status 2; it says what was found, expected, and what to do."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.config import Founders
from src.runtime.opening import READING
from tests.checkpoints import llama_shapes, random_weights, write_checkpoint
from tests.conftest import Command, Outcome, run

# (what is typed after `python -m src.run` with sound founders, words that must be in the answer)
MISTYPED = [
    (["strategy=kinship_topkk"], "strategy=kinship_topkk: no such option. Did you mean kinship_topk?"),
    (["merge=foo"], "merge=foo: no such option. Known: actmat"),
    (["founders=zooo"], "Did you mean zoo?"),
    (["merge=1.5"], "Config group override must be a string or a list. Got float"),
    (["+stop.a\x85b=1"], "could not be read as key=value"),
    (["evaluate=nothing"], "evaluate=nothing: no such option"),
    (["track=mlflow"], "Known: none, tensorboard, wandb"),
    (["strategy.kk=3"], "strategy.kk: no such key"),
    (["+strategy.kk=3"], "strategy.kk: no such key"),
    (["nonsense=1"], "nonsense: no such key"),
    (["+nonsense=1"], "nonsense: no such key"),
    (["--resume"], "--resume: no such option. Settings are given as KEY=VALUE"),
    (["nonsense"], "nonsense could not be read as key=value"),
    (["strategy.k=1"], "strategy.k is 1; should be greater than or equal to 2"),
    (["strategy.k=-3"], "strategy.k is -3"),
    (["strategy.k=three"], "strategy.k is 'three'; should be a valid integer"),
    (["strategy.k=null"], "strategy.k is None"),
    (["strategy.name=nope"], "strategy.name is 'nope'. Known: 'kinship_topk'"),
    (["strategy.explore.pool=uncles"], "strategy.explore.pool is 'uncles'; should be 'grandparents' or 'all'"),
    (["strategy.explore.when=never"], "should be 'always' or 'saturated'"),
    (["strategy.explore.when=saturated"], "has when=saturated, which needs kinship=…"),
    (
        ["kinship.metric=manhattan"],
        "kinship.metric is 'manhattan'; should be 'pcc', 'cosine' or 'euclidean', or",
    ),
    (["merge.method=blend"], "merge.method is 'blend'; mergekit has no such method. Known: actmat"),
    (["+merge.parameters.lambda=1"], "merge.parameters.lambda: slerp has no such parameter"),
    (["merge=ties", "+merge.each.tempo=1"], "merge.each.tempo: ties has no such parameter"),
    (["merge=linear", "merge.each=null", "merge.each={}"], "merge.parameters.weight is missing; linear needs it"),
    (["merge.parameters.t=half"], "merge.parameters.t is 'half'; expected float"),
    (["merge=linear", "merge.each.weight=[1,x]"], "merge.each.weight is [1, 'x']; expected float"),
    (["strategy=one_shot", "merge=slerp"], "merge.method=slerp with base_model=parent cannot merge 4 parents"),
    (["merge.base_model=null"], "requires a base input"),
    (["merge.base_model=grandmother"], "merge.base_model is 'grandmother'; should be 'parent' or 'ancestor'"),
    (["merge=linear", "merge.base_model=ancestor"], "linear takes no base"),
    (["merge.treatment.svc=2"], "merge.treatment.svc is 2"),
    (["merge.treatment.scale=much"], "merge.treatment.scale is 'much'; should be a valid number"),
    (["merge.treatment.scale=nan"], "merge.treatment.scale is nan"),
    (["merge.treatment.scale=[1,2]", "merge.treatment.lines.beta=1"], "beside lines, scale is a number"),
    (["merge=wudi", "merge.treatment.svc=1"], "wudi has its own: merge.parameters.svc, and merge.parameters.scale"),
    (["merge.treatment.strength=2"], "merge.treatment.strength: no such key"),
    (["merge.dtype=int8"], "merge.dtype is 'int8'"),
    (["evaluate.tasks=[]"], "evaluate.tasks is empty; name at least one lm-eval task"),
    (["evaluate.tasks=[pico_words,pico_words]"], "evaluate.tasks has pico_words twice"),
    (["evaluate.tasks=[{name: pico_words, weight: 0}]"], "weight is 0; should be greater than 0"),
    (["evaluate.tasks=[{name: pico_words, shots: -1}]"], "shots is -1"),
    (["evaluate.tasks=[{name: pico_words, metric: f1}]"], "pico_words has no metric 'f1'. Known: acc, acc_norm"),
    (["workers.threads=100000"], "workers.threads is 100000; should be less than or equal to 1024"),
    (["evaluate.include=/nowhere"], "evaluate.include is '/nowhere'; no such folder"),
    (["evaluate.limit=0"], "evaluate.limit is 0; should be greater than or equal to 1"),
    (["evaluate.holdout=1"], "evaluate.holdout is 1; expected a share of the samples between 0 and 1 (0.5)"),
    (["evaluate.holdout=0"], "evaluate.holdout is 0; expected a share"),
    (["evaluate.holdout=-0.5"], "evaluate.holdout is -0.5; expected a share"),
    (["evaluate.holdout=half"], "evaluate.holdout is 'half'; expected a share"),
    (["evaluate.holdout=true"], "evaluate.holdout is True; expected a share"),
    (["evaluate.holdout={share: 0.5}"], "expected a share of the samples between 0 and 1 (0.5), other tasks ([TASK])"),
    (["evaluate.holdout=[]"], "evaluate.holdout is empty; name at least one lm-eval task"),
    (["evaluate.holdout=[pico_words]"], "evaluate has pico_words among tasks and holdout alike"),
    (["evaluate.tasks=[pico_words]", "evaluate.holdout=[{name: pico_vowels, weight: 0}]"], "weight is 0"),
    (
        ["evaluate.tasks=[pico_words]", "evaluate.holdout=[{name: pico_vowels, metric: f1}]"],
        "evaluate.holdout: pico_vowels has no metric 'f1'. Known: acc, acc_norm",
    ),
    (["evaluate.batch_size=0"], "evaluate.batch_size is 0"),
    (["evaluate.dtype=float8"], "evaluate.dtype is 'float8'"),
    (["stop.generations=0"], "stop.generations is 0"),
    (["stop.hours=-1"], "stop.hours is -1; should be greater than 0"),
    (["stop.kinship=high"], "stop.kinship is 'high'"),
    (["stop.patience=0"], "stop.patience is 0"),
    (["seed=-1"], "seed is -1; should be greater than or equal to 0"),
    (["name=../elsewhere"], "name is not a folder name"),
    (["name=/etc"], "name is not a folder name"),
    (["keep=some"], "keep is 'some'; should be 'all', 'survivors' or 'best'"),
    (["resume=please"], "resume is 'please'; should be 'auto' or 'force'"),
    (["workers.threads=0"], "workers.threads is 0"),
    (["workers.device=tpu"], "workers.device is 'tpu'"),
    (["founders.models=[a,b]"], "founders.models: a list was given for what is a mapping here"),
    (["strategy=[kinship_topk"], "strategy=[kinship_topk could not be read as key=value"),
    (
        ["strategy.k=interval(5,1)"],
        "strategy.k=interval(5,1) stands for several runs; -m before the settings starts them",
    ),
    (["strategy.k=tag(t,choice(2,3))"], "strategy.k=tag(t,choice(2,3)) stands for several runs; -m"),
    (["strategy.k=2,3"], "strategy.k=2,3: one value is expected; a list is strategy.k=[…]"),
    (["strategy.k=shuffle(2,3)"], "strategy.k=shuffle(2,3): one value is expected"),
    (["strategy.k=range(5,1)"], "strategy.k=range(5,1): no value lies there"),
    (["strategy.k=tag(x)"], "strategy.k=tag(x) could not be read as key=value"),
]


def check_refused(outcome: Outcome, words: str) -> None:
    assert outcome.status == 2, outcome.out + outcome.err
    assert words in outcome.err
    lines = [line for line in outcome.err.splitlines() if line.strip() and line != READING]
    assert 1 <= len(lines) <= 2, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.err
    assert "Input should" not in outcome.err


@pytest.mark.parametrize(("overrides", "words"), MISTYPED, ids=[" ".join(typed) for typed, _ in MISTYPED])
def test_a_mistyped_configuration(evolve: Command, tmp_path: Path, overrides: list[str], words: str) -> None:
    check_refused(evolve(*overrides), words)
    assert not (tmp_path / "outputs").exists(), "nothing may be written before the configuration is sound"


def test_a_task_that_lm_eval_does_not_have(evolve: Command) -> None:
    for key in ("tasks", "holdout"):
        outcome = evolve(f"evaluate.{key}=[no_such_task]")
        check_refused(outcome, f"evaluate.{key} names 'no_such_task', which lm-eval does not have")


def test_founders_and_tasks_that_were_not_given() -> None:
    told = run("founders=local")
    check_refused(told, "founders.base, founders.models, evaluate.tasks have no value; give them: founders.base=BASE ")
    assert len(told.err.splitlines()) == 1
    given = "founders.base=b", "founders.models=[x,y]"
    check_refused(run("founders=local", *given), "evaluate.tasks has no value; give one: 'evaluate.tasks=[gsm8k")


@pytest.fixture
def copy(family: Path, tmp_path: Path) -> Path:
    """A pico family that a test may spoil."""
    return Path(shutil.copytree(family, tmp_path / "family"))


def test_a_founder_that_is_not_there(evolve: Command, copy: Path) -> None:
    shutil.rmtree(copy / "blue")
    check_refused(evolve(at=copy), "blue: no such folder")


def test_a_folder_without_weights(evolve: Command, copy: Path) -> None:
    (copy / "blue/model.safetensors").unlink()
    check_refused(evolve(at=copy), "no weights there; expected model.safetensors")


def test_a_pickle_is_refused_with_the_command_that_converts_it(evolve: Command, copy: Path) -> None:
    (copy / "blue/model.safetensors").rename(copy / "blue/pytorch_model.bin")
    check_refused(evolve(at=copy), "save_pretrained")


def test_a_truncated_file(evolve: Command, copy: Path) -> None:
    file = copy / "blue/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    check_refused(evolve(at=copy), "truncated")


def test_an_adapter_needs_its_configuration(evolve: Command, copy: Path) -> None:
    (copy / "blue/model.safetensors").rename(copy / "blue/adapter_model.safetensors")
    check_refused(evolve(at=copy), "no adapter_config.json beside its adapter_model.safetensors")


def test_founders_of_another_architecture(evolve: Command, copy: Path) -> None:
    config = json.loads((copy / "blue/config.json").read_text())
    (copy / "blue/config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    check_refused(evolve(at=copy), "blue has model_type mistral and the base llama")


def test_founders_of_another_shape(evolve: Command, copy: Path) -> None:
    vocab = json.loads((copy / "blue/config.json").read_text())["vocab_size"]
    write_checkpoint(copy / "blue", random_weights(llama_shapes(vocab=vocab, mlp=16), seed=9))
    check_refused(
        evolve(at=copy), "model.layers.0.mlp.down_proj.weight has shape [8, 16] in blue and [8, 12] in the base"
    )


def test_a_founder_with_nan_weights(evolve: Command, copy: Path) -> None:
    vocab = json.loads((copy / "blue/config.json").read_text())["vocab_size"]
    config = json.loads((copy / "blue/config.json").read_text())
    weights = random_weights(llama_shapes(vocab=vocab), seed=9)
    weights["model.norm.weight"][0] = float("nan")
    write_checkpoint(copy / "blue", weights, config=config)
    check_refused(evolve(at=copy), "blue has NaN or infinite weights, first in model.norm.weight")


def test_the_base_among_the_founders_by_path_and_by_content(evolve: Command, copy: Path) -> None:
    check_refused(
        evolve(at=copy, founders=("red", "green", "base")), "the run itself uses; name that founder otherwise"
    )
    local = "founders=local", "evaluate=paper", f"founders.base={copy}/base"
    check_refused(
        run(*local, f"founders.models={{a:{copy}/red,b:{copy}/base}}"),
        "the base never is one: leave it out",
    )
    shutil.copy(copy / "base/model.safetensors", copy / "blue/model.safetensors")
    check_refused(evolve(at=copy), "is the same model as the base")


def test_two_founders_the_same_by_path_and_by_content(evolve: Command, copy: Path) -> None:
    local = "founders=local", "evaluate=paper", f"founders.base={copy}/base"
    check_refused(
        run(*local, f"founders.models={{a:{copy}/red,b:{copy}/red}}"),
        "has the same checkpoint twice, as 'a' and 'b'",
    )
    shutil.copy(copy / "red/model.safetensors", copy / "blue/model.safetensors")
    check_refused(evolve(at=copy), "is the same model as red")


@pytest.mark.parametrize("name", ["../../evil", "a/b", "/etc/x", "..", ".hidden", "1-1", "2-exp", "base", ""])
def test_founders_names_that_could_lead_out_of_the_folder_or_be_mistaken(name: str) -> None:
    with pytest.raises(ValueError, match="has the name"):
        Founders(base="b", models={name: "x", "other": "y"})


def test_a_hub_name_where_no_hub_can_be_reached() -> None:
    outcome = run(
        "founders=local", "founders.base=no-one/nothing", "founders.models=[no-one/a,no-one/b]", "evaluate=paper"
    )
    check_refused(outcome, "no-one/nothing: neither a folder here nor a model that the hub gave")


def test_a_file_where_the_run_s_folder_should_be(evolve: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/run").write_text("")
    check_refused(evolve(), "outputs/run")


def test_mistakes_are_found_within_seconds_from_the_shell() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "src.run", "strategy=kinship_topk", "strategy.k=1"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    begun, _, told = done.stderr.partition("\n")
    assert begun.startswith("kinmerge: reading the configuration")
    check_refused(Outcome(done.returncode, done.stdout, told), "strategy.k is 1")
    assert time.monotonic() - began < 30  # it was seen to take 1; nothing heavy may come before it


def test_nothing_heavy_is_imported_for_help_or_a_bad_configuration() -> None:
    code = (
        "import sys; sys.argv = ['src.run', *sys.argv[1:]]\n"
        "import runpy\n"
        "try: runpy.run_module('src.run', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'mergekit', 'lm_eval', 'wandb', 'accelerate'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["--cfg", "job"], ["strategy.k=1"], ["merge=foo"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.splitlines()[-1] == "[]", arguments
