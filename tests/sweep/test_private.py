"""The libraries whose inner parts the sweeper uses are those that it was written for."""

from importlib.metadata import version

import pytest


@pytest.mark.parametrize(("library", "written_for"), [("hydra-core", "1.4."), ("hydra-optuna-sweeper", "1.4.")])
def test_the_versions_are_those_that_private_py_was_written_for(library: str, written_for: str) -> None:
    assert version(library).startswith(written_for), f"read src/study/sweep/private.py anew for {library}"
