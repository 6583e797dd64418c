"""README, docs and conf say what can be typed: commands compose, options and settings exist, links lead somewhere."""

import contextlib
import importlib
import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from src.run import prepare
from tests.test_conf import CONF, GROUPS, NEEDED, settings

ROOT = CONF.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TYPED = re.compile(
    r"^[ #]{4,}(?:(?:torchrun|accelerate launch).* -m src\.run|python -m src\.run|…) (.*)$", re.MULTILINE
)
"""A command of its own line, up to the settings; … stands for what the page has said before."""
PROGRAMS = ("analyse", "compare", "holdout", "kinship", "rebuild", "report", "track", "tradeoff", "zoo")
FRAGMENT = re.compile(r"(?:^|(?<=[ ']))\+?([a-z_][\w/]*(?:\.\w+)*)(?:@[\w.]+)?=([^\s…']*)")
"""A setting within backticks."""
OTHERS = ("evaluate.model_args.", "evaluate.gen_kwargs.", "hydra.", "merge.parameters.")
"""Keys of mappings that take others' keys."""
NO_SETTING = (
    "rest",
    "rho",
    "scale",
    "svc",
    "kind",
    "prior",
    "batch",
    "batch_size",
    "objective_loss",
    "trust",
    "zoo_ranks",
)
"""Named in the docs by their last part, where the sentence has the rest, or arguments in Python."""


def text(page: Path) -> str:
    """A page, with the lines put together that a backslash divides."""
    return re.sub(r"\s*\\\n[# ]*", " ", page.read_text())


def written() -> Iterator[tuple[str, list[str]]]:
    """Every command of a run on a line of its own: its page, and its words without remarks."""
    for page in [*PAGES, *sorted(CONF.rglob("*.yaml"))]:
        for line in TYPED.findall(text(page)):
            words = shlex.split(re.split(r"\s{3,}|\s+#", line.replace("[…]", "[q]"))[0])
            yield page.name, [word for word in words if "=" in word and not re.search(r"=[SMN]$|=S-M/N$", word)]


def one_run(words: list[str]) -> list[str]:
    """The first of the runs that a command is, without what only several have; what … may stand for before it."""
    about = " ".join(words)
    if "hydra" in about and "+sweep=" not in about:
        words = ["hydra/sweeper=optuna", "+sweep=strategy", *words]
    found = dict.fromkeys(word for option, needed in NEEDED.items() if option in about for word in needed)
    keys = {word.partition("=")[0].lstrip("+") for word in words}
    needed = [word for word in found if word.partition("=")[0] not in keys]
    return [first for one in OverridesParser.create().parse_overrides([*words, *needed]) if (first := _first(one))]


def _first(override: Override) -> str | None:
    if not override.is_sweep_override():
        return None if override.get_key_element() == "name" else str(override.input_line)
    if override.is_interval_sweep():
        return None
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


COMMANDS = [
    pytest.param(words, id=f"{page}: {' '.join(words)[:90]}")
    for page, words in written()
    if "=mine." not in " ".join(words)  # tests/test_extending.py runs those
]


def test_the_commands_of_readme_docs_and_conf_are_found() -> None:
    pages = {param.id.partition(":")[0] for param in COMMANDS if param.id}
    assert pages >= {
        "README.md",
        "sweeps.md",
        "strategies.md",
        "holdout.md",
        "extending.md",
        "strategy.yaml",
        "seeds.yaml",
    }
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_composes_to_valid_settings(words: list[str]) -> None:
    prepare()
    settings(*one_run(words))


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every key of any combination of options, and every group."""
    found = set(GROUPS) | {"hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "merge@strategy"}
    options = [f"{group}={name}" for group in ("strategy", "merge", "track") for name in GROUPS[group]]
    for option in [*options, "+sweep=strategy", "founders=local"]:
        with initialize_config_dir(str(CONF)):
            found |= set(_flat(OmegaConf.to_container(compose("config", [option]), resolve=False)))
    return found


def _flat(value: Any, key: str = "") -> Iterator[str]:
    if key:
        yield key
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}".lstrip("."))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_setting_that_a_sentence_names_is_one(page: Path, keys: set[str]) -> None:
    plain = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    quoted = [
        one for one in re.findall(r"`([^`\n]+)`", plain) if not re.search(r"\b(?!choice|range|interval)\w+\(", one)
    ]
    for name, value in (found for one in quoted for found in FRAGMENT.findall(one)):
        key = name.replace("__", ".")
        if key in GROUPS and re.fullmatch(r"[a-z]\w*", value):
            assert value in GROUPS[key], f"{page.name}: {key}={value}"
        elif not key.startswith(OTHERS) and key not in NO_SETTING:
            assert key in keys, f"{page.name}: {key}={value}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_option_that_a_command_is_shown_with_is_one(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"src.{program}")
    main = module.main if hasattr(module, "main") else importlib.import_module(f"src.{program}.__main__").main
    told = io.StringIO()
    monkeypatch.setattr("sys.argv", [program, "--help"])
    with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
        main()
    for page in PAGES:
        for line in re.findall(rf"python -m src\.{program}\b([^`\n]*)", text(page)):
            for option in re.findall(r"(?<![\w-])--[a-z-]+", re.split(r"\s{3,}|\s#", line)[0]):
                assert re.search(rf"{option}\b", told.getvalue()), f"{page.name}: {program} {option}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    plain = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", one) for one in re.findall(r"^#+ (.*)$", plain, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", one.strip().lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs/example.ipynb"], ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    whole = page.read_text()
    if page.suffix == ".ipynb":
        whole = "".join("".join(cell["source"]) for cell in json.loads(whole)["cells"])
    for link in re.findall(r"\]\(([^)\s]+)\)", whole):
        if "://" not in link:
            place, _, anchor = link.partition("#")
            target = page.parent / place if place else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_a_page_of_the_docs_that_code_or_conf_names_is_there() -> None:
    for file in [*(ROOT / "src").rglob("*.*"), *(ROOT / "benchmarks").rglob("*.py"), *CONF.rglob("*.yaml")]:
        if file.suffix in {".py", ".yaml", ".md", ".c", ".html"}:
            for name in re.findall(r"\bdocs/\w+\.(?:md|ipynb)", file.read_text()):
                assert (ROOT / name).exists(), f"{file}: {name}"
