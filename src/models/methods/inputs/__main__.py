"""Have a founder read prompts: `python -m src.models.methods.inputs FOLDER MODEL --prompts FILE`."""

import sys
from pathlib import Path

import torch

from src.models.methods.inputs import write
from src.runtime.command import Parser, status
from src.runtime.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(
        prog="python -m src.models.methods.inputs",
        description="Have a founder read prompts of its own tasks, for merge=regmean. A line a prompt.",
    )
    parser.add_argument("folder", type=Path, help="where the founders' files go, merge.parameters.inputs later")
    parser.add_argument("model", help="the founder, a folder or a hub name")
    parser.add_argument("--prompts", type=Path, required=True, help="a text file; a hundred lines will do")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    return status(lambda: print(write(options.folder, options.model, _lines(options.prompts), device=options.device)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); expected one prompt a line") from error


if __name__ == "__main__":
    sys.exit(main())
