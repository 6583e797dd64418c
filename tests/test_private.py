"""What src/runtime/private.py takes of Hydra is Hydra's own affair: an upgrade has to look at it again."""

from importlib.metadata import version

from src.runtime.private import get_args_parser


def test_hydra_is_of_the_version_that_the_file_was_written_for() -> None:
    assert version("hydra-core").startswith("1.4.0")
    known, unknown = get_args_parser().parse_known_intermixed_args(["seed=1", "-m", "--nonsense"])
    assert (known.overrides, known.multirun, unknown) == (["seed=1"], True, ["--nonsense"])
