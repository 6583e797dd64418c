"""LoRA adapters as founders: from the front door to the recipe that mergekit alone rebuilds."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from src.export import card
from src.export.rebuild import rebuild
from src.journal import events_of, replay
from src.kinship import kinship_matrix, measure
from src.kinship.__main__ import main as kinship
from src.models.checkpoint import Checkpoint, open_checkpoint, open_family, tensors_of
from src.population import KinshipTable
from src.runtime.errors import UserError
from tests.adapters import write_adapter
from tests.conftest import Outcome, run
from tests.family import TASKS, write_family

NAMES = ("one", "two", "three")
VARIANTS = {
    "plain": {},
    "16 bits": {"dtype": "BF16"},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {r"layers\.0\.self_attn\.v_proj": 9}},
    "embeddings": {"embeddings": 31},
}


@pytest.fixture(scope="module", params=["F32", "BF16"])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, dict]:
    """A base, and adapters of every kind beside a full fine-tune."""
    folder = write_family(tmp_path_factory.mktemp("mixed") / "family", dtype=request.param)
    base = open_checkpoint(folder / "base")
    models = {"red": open_checkpoint(folder / "red")}
    for seed, (name, options) in enumerate(VARIANTS.items()):
        write_adapter(folder / name, folder / "base", seed, **options)
        models[name] = open_checkpoint(folder / name, base=base)
    return base, models


def delta_of(base: Checkpoint, model: Checkpoint) -> dict[str, torch.Tensor]:
    """The dense delta, in float64."""
    weights = {name: tensor.double() for name, tensor in tensors_of(base.path).items()}
    if model.adapter is None:
        return {name: tensor.double() - weights[name] for name, tensor in tensors_of(model.path).items()}
    delta = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    stored = load_file(model.path / "adapter_model.safetensors")
    for name, one in model.adapter.factors.items():
        product = one.scaling * (stored[one.b.name].double() @ stored[one.a.name].double())
        delta[name] = product.T if one.transposed else product
    return delta


def test_kinship_from_factors_is_that_of_dense_deltas(mixed: tuple[Checkpoint, dict]) -> None:
    base, models = mixed
    grams = measure(base, models)
    deltas = [{name: tensor.double() for name, tensor in tensors_of(base.path).items()}]
    deltas += [delta_of(base, model) for model in models.values()]
    dense = np.array([[[float((x[t.name] * y[t.name]).sum()) for y in deltas] for x in deltas] for t in grams.tensors])
    sums = np.array([[float(x[t.name].sum()) for x in deltas] for t in grams.tensors])
    lengths = np.sqrt(np.einsum("tii->ti", dense)) + 1e-30
    error = np.abs(grams.gram - dense) / lengths[:, :, None] / lengths[:, None, :]
    assert error[:, 1:, 1:].max() < 1e-6
    assert error.max() < 1e-6
    assert np.allclose(grams.sums, sums, rtol=1e-9, atol=1e-9)

    one_by_one = measure(base, models, known=measure(base, {name: models[name] for name in ("red", "plain")}))
    assert np.allclose(kinship_matrix(one_by_one.of(list(models)), "pcc"), kinship_matrix(grams, "pcc"), atol=1e-6)


def test_a_family_of_adapters_is_measured_without_its_base(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "family")
    base = open_checkpoint(folder / "base")
    models = {
        name: open_checkpoint(write_adapter(folder / name, folder / "base", seed), base=base)
        for seed, name in enumerate(NAMES)
    }
    wanted = kinship_matrix(measure(base, models), "cosine")
    weights = folder / "base/model.safetensors"
    with weights.open("r+b") as file:  # the header stays
        file.seek(-8, 2)
        file.write(b"\xff" * 8)
    found = measure(base, models, with_base=False)
    assert np.array_equal(kinship_matrix(found, "cosine"), wanted)
    with pytest.raises(UserError, match="NaN or infinite"):
        measure(base, models)


@pytest.mark.parametrize("name", VARIANTS)
def test_whole_weights_are_those_that_peft_makes(mixed: tuple[Checkpoint, dict], name: str) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, models = mixed
    model = AutoModelForCausalLM.from_pretrained(base.path)
    wanted = peft.PeftModel.from_pretrained(model, models[name].path).merge_and_unload().state_dict()
    found = dict(models[name].adapter.weights())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in found)


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """A family in 16 bits whose founders are three adapters, and one full fine-tune."""
    folder = write_family(tmp_path / "family", ("red",), dtype="BF16")
    for seed, name in enumerate(NAMES):
        write_adapter(folder / name, folder / "base", seed)
    (folder / "one" / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def start(folder: Path, founders: str, *overrides: str) -> Outcome:
    """`python -m src.run` with these founders of a family, into `outputs` beside it."""
    return run(
        *("strategy=kinship_topk", "founders=local", f"founders.base={folder / 'base'}", f"founders.models={founders}"),
        *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={folder / 'tasks'}", "stop.generations=2"),
        *(f"outputs={folder.parent / 'outputs'}", "name=run", "track=none", "cache=off", "workers.threads=1"),
        *overrides,
    )


def evolved(folder: Path, founders: str, *overrides: str) -> Path:
    """The folder of a run that came to its end."""
    ended = start(folder, founders, *overrides)
    assert ended.status == 0, ended.err
    return folder.parent / "outputs/run"


def test_a_run_of_adapters_and_a_full_fine_tune(loras: Path) -> None:
    founders = f"{{one:{loras / 'one'},two:{loras / 'base'}+{loras / 'two'},red:{loras / 'red'}}}"
    done = evolved(loras, founders, "evaluate.holdout=0.5", "merge=linear")
    events = [json.loads(line) for line in (done / "journal.jsonl").read_text().splitlines()]
    assert not (done / "founders").is_dir() or not list((done / "founders").iterdir())  # only while it went on
    merged = [event for event in events if event["event"] == "merged"]
    assert merged

    again = rebuild(done, merged[0]["model"])
    assert open_checkpoint(again).fingerprint() == merged[0]["fingerprint"]
    assert not list((done / "founders").iterdir())
    assert (done / "best/model.safetensors").is_file()  # whole, even where an adapter won
    assert "one" not in [event["model"] for event in events if event["event"] == "failed"]


def test_the_plan_and_the_kinship_command_take_adapters(loras: Path, capsys: pytest.CaptureFixture[str]) -> None:
    founders = f"{{one:{loras / 'one'},two:{loras / 'two'},red:{loras / 'red'}}}"
    planned = start(loras, founders, "dry_run=true", "merge=tsv_m", "evaluate.holdout=null")
    assert planned.status == 0, planned.err
    assert "for adapters with whole weights while it goes on" in planned.out
    assert "what one, two changed looks like a merged adapter" in planned.out
    assert not (loras.parent / "outputs").exists()

    arguments = [str(loras / "one"), f"{loras / 'base'}+{loras / 'two'}", "--base", str(loras / "base"), "--json"]
    assert kinship(arguments) == 0
    found = json.loads(capsys.readouterr().out)["matrix"]
    base = open_checkpoint(loras / "base")
    deltas = [delta_of(base, open_checkpoint(loras / name, base=base)) for name in ("one", "two")]
    flat = [torch.cat([tensor.flatten() for tensor in delta.values()]) for delta in deltas]
    assert found[0][1] == pytest.approx(torch.corrcoef(torch.stack(flat))[0, 1].item(), rel=1e-6)


def test_a_run_goes_on_with_the_adapters_that_it_finds(loras: Path) -> None:
    """Whole weights that lie there are used; those that are damaged, or of another adapter, are made again."""
    founders = f"{{one:{loras / 'one'},two:{loras / 'two'}}}"
    options = ("strategy=one_shot", "merge=linear", "keep=all")
    done = evolved(loras, founders, *options)
    journal = done / "journal.jsonl"
    whole = journal.read_text().splitlines()
    before = {  # copies: what was loaded is mapped from the files
        name: {key: tensor.clone() for key, tensor in tensors_of(done / "founders" / name).items()}
        for name in ("one", "two")
    }
    cut = next(i for i, line in enumerate(whole) if json.loads(line)["event"] == "merged")
    journal.write_text("\n".join(whole[:cut]) + "\n")
    shutil.rmtree(done / "models")
    weights = done / "founders/two/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    ended = start(loras, founders, *options)
    assert ended.status == 0, ended.err
    assert "two is not what was merged there" in ended.err
    for name, tensors in before.items():
        found = tensors_of(done / "founders" / name)
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    merged = [
        next(e for e in map(json.loads, lines) if e["event"] == "merged")
        for lines in (whole, journal.read_text().splitlines())
    ]
    assert merged[0]["fingerprint"] == merged[1]["fingerprint"]

    write_adapter(loras / "other", loras / "base", 9)
    shutil.copy(loras / "other/adapter_model.safetensors", loras / "two/adapter_model.safetensors")
    refused = start(loras, founders, *options)
    assert refused.status == 2
    assert "weights or configuration of two" in refused.err


def test_mergekit_alone_rebuilds_a_merge_of_adapters(loras: Path, tmp_path: Path) -> None:
    done = evolved(loras, f"{{one:{loras / 'one'},two:{loras / 'two'}}}", "strategy=one_shot", "merge=linear")
    state = replay(events_of(done))
    sources = {name: one.origin for name, one in open_family(state.sources).items()}
    (tmp_path / "recipe.yaml").write_text(card.multi_recipe(state, "1-1", sources))
    assert f"{loras / 'base'}+{loras / 'one'}" in (tmp_path / "recipe.yaml").read_text()

    told = card.model_card(state, "1-1", KinshipTable("pcc"), sources, {"one": None, "two": None})
    command = next(line for line in told.splitlines() if "mergekit-multi recipe" in line).split()
    assert "--lora-merge-cache" in command
    command[0] = str(Path(sys.executable).with_name(command[0]))
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found, wanted = tensors_of(tmp_path / "1-1"), tensors_of(rebuild(done, "1-1"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA is not supported"),
    "another kind": ({"peft_type": "IA3"}, "has peft_type IA3; supported is LORA"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save (whole modules beside the factors)"),
    "biases": ({"bias": "all"}, "bias='all', but trained biases are not supported"),
    "what nobody knew": ({"use_new_trick": 3}, "use_new_trick=3 is not supported"),
    "a base of its own": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changed the base"),
    "another base": ({"base_model_name_or_path": "org/other"}, "is an adapter of org/other, and the base is"),
    "another rank": ({"r": 3}, "expected [r, in] and [out, r] with r = 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_plain_lora_is_refused_by_name(mistake: str, family: Path, tmp_path: Path) -> None:
    options, words = MISTAKES[mistake]
    adapter = write_adapter(tmp_path / "lora", family / "base", 0)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **options}))
    with pytest.raises(UserError) as refused:
        open_checkpoint(adapter, base=open_checkpoint(family / "base"))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_factors_that_do_not_fit_are_refused(family: Path, tmp_path: Path) -> None:
    base = open_checkpoint(family / "base")
    adapter = write_adapter(tmp_path / "lora", family / "base", 0)
    weights = adapter / "adapter_model.safetensors"
    whole = load_file(weights)
    at = "base_model.model.model.layers.0.self_attn"
    for extra, words in {
        f"{at}.q_proj.lora_magnitude_vector": "DoRA (",
        "base_model.model.lm_head.weight": "a whole module's",
        f"{at}.x_proj.lora_A.weight": "has one factor of two, A",
    }.items():
        save_file({**whole, extra: torch.ones(2, 8)}, weights)
        with pytest.raises(UserError, match=re.escape(words)):
            open_checkpoint(adapter, base=base)
    save_file({**whole, f"{at}.q_proj.lora_B.weight": torch.ones(9, 2)}, weights)
    with pytest.raises(UserError, match=r"make \[9, 8\] of model.layers.0.self_attn.q_proj.weight, which is \[8, 8\]"):
        open_checkpoint(adapter, base=base)
    with pytest.raises(UserError, match=r"an adapter of .*red, and the base is .*base; expected one base for all"):
        open_checkpoint(f"{family / 'red'}+{adapter}", base=base)
    weights.rename(adapter / "adapter_model.bin")
    refused = start(family, f"{{one:{adapter},red:{family / 'red'}}}")
    assert refused.status == 2
    assert refused.err.count("\n") == 1
    assert "its factors are pickled (adapter_model.bin)" in refused.err


def test_the_same_adapter_twice_is_refused(family: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", family / "base", 0)
    shutil.copytree(adapter, tmp_path / "copy")
    refused = start(family, f"{{one:{adapter},two:{family / 'base'}+{tmp_path / 'copy'}}}")
    assert refused.status == 2
    assert "is the same model as one" in refused.err
