"""python -m src.kinship, as its users meet it."""

import csv
import io
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from src.kinship import METRICS, kinship_matrix, measure
from src.kinship.__main__ import main, name_models
from src.models.checkpoint import open_checkpoint
from src.runtime.errors import UserError
from tests.checkpoints import llama_shapes, random_weights, write_checkpoint, write_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"), ["math", "words", "facts"])


@pytest.fixture
def arguments(family):
    return [*(str(family[name]) for name in ("math", "words", "facts")), "--base", str(family["base"])]


@pytest.fixture
def grams(family):
    models = {name: open_checkpoint(path) for name, path in family.items()}
    return measure(models.pop("base"), models)


@pytest.mark.parametrize("metric", METRICS)
def test_json_is_one_object(metric, arguments, grams, family, capsys):
    assert main([*arguments, "--metric", metric, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["base"] == str(family["base"])
    assert content["metric"] == metric
    assert content["models"] == ["math", "words", "facts"]
    np.testing.assert_array_equal(content["matrix"], kinship_matrix(grams, metric))
    assert content["larger_is_closer"] is METRICS[metric].larger_is_closer


@pytest.mark.parametrize(
    ("by", "parts"), [("layer", ["0", "1"]), ("kind", ["embeddings", "norms", "mlp", "attention"])]
)
def test_parts(by, parts, arguments, grams, capsys):
    assert main([*arguments, "--by", by, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["parts"]) == set(parts)
    wanted = grams.select(layer=1) if by == "layer" else grams.select(kind="mlp")
    found = content["parts"]["1" if by == "layer" else "mlp"]["matrix"]
    np.testing.assert_array_equal(found, kinship_matrix(wanted, "pcc"))


def test_an_undefined_kinship_is_null(family, tmp_path, capsys):
    """A model whose norms were frozen has no kinship by its norms."""
    base = random_weights(llama_shapes(), 0)
    frozen = {n: w if "norm" in n else w + 0.1 * random_weights(llama_shapes(), 5)[n] for n, w in base.items()}
    folder = write_checkpoint(tmp_path / "frozen", frozen)
    command = [str(family["math"]), str(folder), "--base", str(family["base"]), "--by", "kind"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["norms"]["matrix"][0][1] is None
    assert main(command) == 0
    assert any(line.split() == ["norms", "-", "-"] for line in capsys.readouterr().out.splitlines())


def test_csv(arguments, grams, capsys):
    assert main([*arguments, "--csv"]) == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["model", "math", "words", "facts"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], dtype=float), kinship_matrix(grams, "pcc"))
    assert main([*arguments, "--csv", "--by", "layer"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "layer,model,math,words,facts"


def test_the_table(arguments, grams, capsys):
    assert main([*arguments, "--by", "kind"]) == 0
    out = capsys.readouterr().out
    matrix = kinship_matrix(grams, "pcc")
    assert ["words", f"{matrix[1, 0]:.4f}", "1.0000"] in [line.split()[:3] for line in out.splitlines()]
    assert "larger is closer" in out
    assert "mean over pairs:" in out
    assert "math × words" in out


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_heat_map(suffix, arguments, tmp_path, capsys):
    file = tmp_path / f"kinship.{suffix}"
    assert main([*arguments, "--plot", str(file), "--metric", "euclidean"]) == 0
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert file.read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_different_vocabularies_are_announced_on_stderr(family, tmp_path, capsys):
    folder = write_checkpoint(tmp_path / "more", random_weights(llama_shapes(vocab=14), 3))
    assert main([str(family["math"]), str(folder), "--base", str(family["base"]), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["models"] == ["math", "more"]
    assert "warning: lm_head.weight: vocabulary sizes differ (base 11, math 11, more 14)" in captured.err


WRONG = {
    "no base": (["{math}", "{words}"], "the following arguments are required: --base"),
    "an absent base": (["{math}", "{words}", "--base", "/nowhere"], "/nowhere: no such folder"),
    "an absent model": (["{math}", "/nowhere", "--base", "{base}"], "/nowhere: no such folder"),
    "one model": (["{math}", "--base", "{base}"], "one model, .* kinship is between two or more"),
    "a model twice": (["{math}", "{math}", "--base", "{base}"], "two models are called math; give each once"),
    "a twin": (["{math}", "b={math}", "--base", "{base}"], "is the same model as math"),
    "the base as a model": (["{math}", "{base}", "--base", "{base}"], "is the same model as the base"),
    "unknown metric": (
        ["{math}", "{words}", "--base", "{base}", "--metric", "x"],
        "unknown metric 'x'; .* pcc, cosine",
    ),
    "unknown option": (["{math}", "{words}", "--base", "{base}", "--fast"], "unrecognized arguments: --fast"),
    "unknown part": (["{math}", "{words}", "--base", "{base}", "--by", "x"], "invalid choice: 'x'"),
    "two forms": (["{math}", "{words}", "--base", "{base}", "--csv", "--json"], "not allowed with"),
    "plot of a kind": (["{math}", "{words}", "--base", "{base}", "--plot", "x.gif"], "ends in .png, .svg, .pdf"),
    "plot nowhere": (["{math}", "{words}", "--base", "{base}", "--plot", "/no/x.png"], "there is no folder /no"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_clear_line(name, family, capsys):
    command, words = WRONG[name]
    try:
        status = main([part.format(**family) for part in command])
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) <= 2
    assert re.search(words, captured.err)


def test_as_a_program(family):
    command = [sys.executable, "-m", "src.kinship", str(family["math"]), str(family["words"]), "--base"]
    good = subprocess.run([*command, str(family["base"]), "--json"], capture_output=True, text=True, check=False)
    assert good.returncode == 0
    assert set(json.loads(good.stdout)) >= {"base", "metric", "models", "matrix"}
    bad = subprocess.run([*command, "/nowhere"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "Traceback" not in bad.stderr


def test_help_answers_at_once_and_names_every_metric():
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "src.kinship", "--help"], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.3
    assert all(metric in run.stdout for metric in METRICS)


def test_nothing_heavy_is_imported_by_the_engine(family):
    script = (
        "import sys; from src.kinship.__main__ import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    arguments = [str(family["math"]), str(family["words"]), "--base", str(family["base"]), "--json"]
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "mergekit", "matplotlib", "huggingface_hub"} & set(run.stderr.split())


def test_names(tmp_path):
    assert name_models(["runs/one/math", "two/words"]) == {"math": "runs/one/math", "words": "two/words"}
    assert name_models(["one/math", "two/math"]) == {"one/math": "one/math", "two/math": "two/math"}
    assert name_models(["m=one/math", "two/math"]) == {"m": "one/math", "math": "two/math"}
    assert name_models(["org/x", "./y/"]) == {"x": "org/x", "y": "./y/"}
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert name_models([str(odd)]) == {"a=b": str(odd)}
    with pytest.raises(UserError, match="two models are called m"):
        name_models(["m=one", "m=two"])
