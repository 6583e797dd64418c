"""Whatever is typed: a configuration is valid, or refused in a line or two; never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src import config
from src.config import Settings
from src.runtime import validation
from src.runtime.errors import UserError

CONF = Path(__file__).parent.parent / "conf"

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "..", "/etc/passwd", "a/../b", "\x00", "nan", "inf", "${seed}", "${nothing}", "???", "auto", "zoo"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.sampled_from(["name", "k", "t", "weight"])), inner, max_size=3
        ),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF)):
        found = OmegaConf.to_container(compose("config", ["name=run"]), resolve=True)
    assert isinstance(found, dict)
    found.pop("hydra", None)
    return {str(key): value for key, value in found.items()}


def check_words(text: str) -> None:
    lines = text.splitlines()
    assert 1 <= len(lines) <= 2, text
    assert all(line.strip() for line in lines)
    assert "Traceback" not in text


def check_read(given: DictConfig) -> None:
    """Valid settings, which survive a trip through the journal, or a complaint."""
    try:
        found = config.read(given)
    except UserError as error:
        check_words(str(error))
        return
    kept = json.loads(json.dumps(found.model_dump(mode="json"), allow_nan=False))
    assert Settings.model_validate(kept).model_dump(mode="json") == kept
    assert found.folder.parent == found.outputs.resolve()


FAST = [Phase.explicit, Phase.reuse, Phase.generate]  # hypothesis can take minutes to shrink a whole configuration


@settings(max_examples=400, phases=FAST)
@given(draw=st.data())
def test_any_value_in_any_place(composed: dict[str, Any], draw: st.DataObject) -> None:
    changed = json.loads(json.dumps(composed))
    for _ in range(draw.draw(st.integers(1, 3))):
        place, spot = changed, draw.draw(st.sampled_from(sorted(config.flat(composed))), label="key")
        *path, last = spot.split(".")
        for part in path[: draw.draw(st.integers(0, len(path)), label="depth")]:
            if not isinstance(place.get(part), dict):
                break
            place, last = place[part], last
        action = draw.draw(st.sampled_from(["replace", "remove", "add"]), label="action")
        key = last if last in place else draw.draw(st.sampled_from(sorted(place)), label="of") if place else "key"
        if action == "replace":
            place[key] = draw.draw(values, label="value")
        elif action == "remove":
            place.pop(key, None)
        else:
            place[draw.draw(st.text(max_size=5), label="name")] = draw.draw(values, label="value")
    try:
        given = OmegaConf.create(changed)
    except (OmegaConfBaseException, ValueError):  # nothing that a command line could bring about
        return
    check_read(given)


@settings(max_examples=150, phases=FAST)
@given(
    overrides=st.lists(
        st.one_of(
            st.text(max_size=20),
            st.builds(
                lambda sign, key, value: f"{sign}{key}={value}",
                st.sampled_from(["", "+", "++", "~"]),
                st.sampled_from(
                    ["strategy", "strategy.k", "merge", "merge.parameters.t", "evaluate.tasks", "stop.kinship"]
                ),
                st.one_of(st.text(max_size=12), st.sampled_from(["[", "{a:1", "null", "${x}", "ties", "1e999", "'"])),
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_words_on_the_command_line(overrides: list[str]) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF)):
        try:
            given = compose("config", ["name=run", *overrides])
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if not validation.is_config_error(error):
                raise
            check_words(validation.explain(error))
            return
        check_read(given)
