"""The winner handed on: a card that the hub reads, a recipe that mergekit alone runs."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from src.export import licence
from src.export.card import hub_name, metadata
from src.export.licence import Licence
from tests.conftest import Command
from tests.family import FOUNDERS
from tests.test_run import ALL_RULES_OFF
from tests.test_survival import state

YOUNG = ("evaluate.holdout=0.5", "stop.generations=3", *ALL_RULES_OFF)
"""With three founders, an offspring of a later generation wins."""


@pytest.fixture
def copy(family: Path, tmp_path: Path) -> Path:
    """A pico family that a test may change."""
    return Path(shutil.copytree(family, tmp_path / "family"))


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_s_metadata_is_what_the_hub_reads(evolve: Command, copy: Path, tmp_path: Path) -> None:
    for name, declared in (("red", "mit"), ("green", "apache-2.0"), ("blue", "cc0-1.0")):
        (copy / name / "README.md").write_text(f"---\nlicense: {declared}\ntags: [tiny]\n---\n# A founder\n")
    assert evolve(*YOUNG, founders=FOUNDERS[:3], at=copy).status == 0
    best, found = tmp_path / "outputs/run/best", state(tmp_path / "outputs")
    winner = found.population.best(1)[0]
    assert winner.parents
    card = ModelCard.load(best / "README.md")
    assert card.data.library_name == "transformers"
    assert set(card.data.tags) == {"merge", "mergekit", "kinmerge"}
    assert (card.data.license, card.data.license_name) == ("other", "apache-2.0-and-cc0-1.0")
    assert "- green: apache-2.0\n- blue: cc0-1.0" in (best / card.data.license_link).read_text()
    assert card.data.model_name == winner.name
    results = {(result.dataset_type, result.dataset_split): result for result in card.data.eval_results or []}
    assert set(results) == {(task, side) for task in winner.scores for side in ("holdout", "selection")}
    for task, score in winner.scores.items():
        assert results[task, "selection"].metric_value == round(score, 2)
        assert results[task, "holdout"].metric_value == round(found.holdout[winner.name].scores[task], 2)
        assert results[task, "holdout"].metric_type == "acc"
    assert "base_model" not in metadata_load(best / "README.md")  # folders of this machine are no models of the hub's
    assert f"| blue | {copy / 'blue'} |" in card.text
    heads = [line for line in card.text.splitlines() if line.startswith("| task | red |")]
    assert len(heads) == 2
    for compared in found.compared.values():
        assert all(f"| {compared.founder} |" in head and head.endswith(f"| {winner.name} |") for head in heads)
    line = [model.name for model in found.population.ancestors(winner.name) if model.founder]
    sources = {name: f"someone/{name}-7b" for name in line} | {"base": "someone/base-7b"}
    sources[line[0]] = "/data/models/mine"
    read = yaml.safe_load(metadata(found, winner.name, sources, {}))
    assert read["base_model"] == [f"someone/{name}-7b" for name in line[1:]]
    assert read["base_model_relation"] == "merge"
    assert "license" not in read


@pytest.mark.parametrize(
    ("source", "hub"),
    [("someone/model-7b", True), ("/data/model", False), ("./a/b", False), ("model", False), ("a/b/c", False)],
)
def test_what_is_a_name_on_the_hub(source: str, hub: bool) -> None:
    assert (hub_name(source) == source) is hub


APACHE, MIT = Licence("apache-2.0"), Licence("mit")
OWN = Licence("other", "seven-b", "https://huggingface.co/a/b/blob/main/LICENSE")


@pytest.mark.parametrize(
    ("licences", "fields", "words"),
    [
        ({"a": MIT, "b": MIT}, {"license": "mit"}, "As all its founders: mit."),
        ({"a": OWN, "b": OWN}, {"license": "other", "license_name": "seven-b", "license_link": OWN.link}, "seven-b"),
        (
            {"a": MIT, "b": APACHE},
            {"license": "other", "license_name": "apache-2.0-and-mit", "license_link": "LICENSE.md"},
            "differ; whoever uses this model is bound by each of them:\n\n- a: mit\n- b: apache-2.0",
        ),
        ({"a": MIT, "b": None}, {}, "Not known, since that of b is not:\n\n- a: mit\n- b: not known"),
        ({"a": None, "b": None}, {}, "Not known: no founder's card names one"),
    ],
)
def test_the_licence_of_a_merge(licences: dict[str, Licence | None], fields: dict[str, str], words: str) -> None:
    assert licence.merged_fields(licences) == fields
    assert words in licence.describe(licences)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: MIT\n---\n", MIT),
        ("---\nlicense: [mit]\n---\n", MIT),
        ("---\nlicense: other\nlicense_name: seven-b\nlicense_link: LICENSE\n---\n", OWN),
        ("---\ntags: [a]\n---\n", None),
        ("# no metadata", None),
        ("---\nlicense: [mit\n---\n", None),
        ("---\nlicense: {a: b}\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_that_a_card_declares(tmp_path: Path, card: str | None, expected: Licence | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence.declared_licence(tmp_path, "a/b") == expected


# --- the recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["slerp", pytest.param("dare_ties", marks=pytest.mark.slow)])
def test_mergekit_alone_makes_the_winner_again_to_the_same_bytes(evolve: Command, tmp_path: Path, merge: str) -> None:
    """With the very command that the card gives."""
    assert evolve(f"merge={merge}", *YOUNG, founders=FOUNDERS[:3]).status == 0
    best = tmp_path / "outputs/run/best"
    winner = state(tmp_path / "outputs").population.best(1)[0]
    assert winner.generation > 1
    (command,) = re.findall(r"^    (mergekit-multi .*)$", (best / "README.md").read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command)
    shutil.copy(best / "recipe.yaml", tmp_path / "recipe.yaml")
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / winner.name / "model.safetensors").read_bytes() == (best / "model.safetensors").read_bytes()
