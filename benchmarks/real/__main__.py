"""python -m benchmarks.real: build the real family; with --table, run every strategy on it and write docs/real.md."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.real import base, by_hand, learned, page, table
from benchmarks.real.family import Family, build
from benchmarks.real.programs import ROOT, Cost
from src.runtime.command import Parser, status
from src.runtime.errors import UserError
from src.runtime.files import write_text
from src.runtime.progress import note

WEIGHT = 0.4
"""Of the candidate that is made by hand."""


def main() -> int:
    """Do what the command line asks for; return 0, 1 where the machine failed, 2 where the arguments make no sense."""
    parser = Parser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/real", help="where everything is kept")
    parser.add_argument("--base", type=Path, help="a checkpoint to fine-tune instead of SmolLM2-135M-Instruct")
    parser.add_argument("--gguf", type=Path, help="the package's GGUF file, where there is no network")
    parser.add_argument("--seed", type=_at_least(0), default=0)
    parser.add_argument("--steps", type=_at_least(1), default=150, help="of a founder's training (default: 150)")
    parser.add_argument("--batch", type=_at_least(2), default=16, help="questions a step (default: 16)")
    parser.add_argument(
        "--samples", type=_at_least(4), default=120, help="questions a task, half held out (default: 120)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--table", action="store_true", help="run the strategies too, and write the page")
    parser.add_argument(
        "--only", nargs="+", metavar="RUN", help="these rows of the table alone; by_hand and learned are others"
    )
    parser.add_argument(
        "--evaluations", type=_at_least(4), default=20, help="of a search, the founders' too (default: 20)"
    )
    parser.add_argument("--batch-size", default="64", help="of evaluations, ours and lm_eval's (default: 64)")
    parser.add_argument("--write", type=Path, default=ROOT / "docs/real.md", help="the page (default: docs/real.md)")
    return status(lambda: _work(parser.parse_args()))


def _at_least(least: int) -> type[int]:
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    number.__name__ = "number"
    return number  # type: ignore[return-value]


def _work(options: argparse.Namespace) -> None:
    family = _family(options)
    rows, common = table.overrides(options.evaluations), table.shared(family, options.batch_size)
    known = [*rows, "by_hand", "learned"]
    if unknown := sorted(set(options.only or ()) - set(known)):
        raise UserError(f"--only names {unknown[0]!r}; the table has {', '.join(known)}")
    wanted = options.only or known
    if wanted == ["by_hand"]:
        raise UserError("--only by_hand has no row to stand beside; name a run too")
    if "learned" in wanted and "recipe_gradient" not in wanted:
        raise UserError("--only learned starts from the merge that recipe_gradient starts from; name that too")
    if options.base is None:
        base.prepare(family.base, options.gguf)
    build(family)
    print(f"base      {family.base}")
    print(f"founders  {' '.join(map(str, family.founders.values()))}")
    print(f"tasks     {family.tasks}", flush=True)
    if not options.table:
        return
    hand = _by_hand(family, options.batch_size) if "by_hand" in wanted else None
    command = shlex.join(["python", "-m", "benchmarks.real", *sys.argv[1:]])
    found: list[table.Row] = []
    taught: list[learned.Learned] = []

    def write() -> None:  # what there is, should this be ended
        kept = options.write.read_text(encoding="utf-8") if options.write.is_file() else ""
        write_text(options.write, page.page(command, family, found, hand, taught, common, kept))

    for name in (name for name in rows if name in wanted):
        found.append(table.row(family, name, rows[name], common))
        write()
    if "learned" in wanted:
        start = next(row for row in found if row.name == "recipe_gradient")
        for one in learned.all_methods(family, start, common):
            taught.append(one)
            write()
    print(f"page      {options.write}")


def _family(options: argparse.Namespace) -> Family:
    folder = options.folder.resolve()
    origin = options.base.resolve() if options.base else folder / base.NAME
    if options.base and not (origin / "config.json").is_file():
        raise UserError(f"--base is {str(options.base)!r}; expected a folder with config.json and model.safetensors")
    return Family(
        base=origin,
        folder=folder / f"{origin.name}-seed-{options.seed}-steps-{options.steps}-batch-{options.batch}",
        seed=options.seed,
        steps=options.steps,
        batch=options.batch,
        samples=options.samples,
        device=_device(options.device),
    )


def _device(asked: str) -> str:
    """Return the device that is meant, once it is there."""
    if asked == "cpu":
        return asked
    import torch

    available = torch.cuda.is_available()
    if asked == "auto":
        return "cuda:0" if available else "cpu"
    if not asked.startswith("cuda") or not available:
        raise UserError(
            f"--device is {asked!r}; expected cpu{' or cuda' if available else ', as there is no GPU here'}"
        )
    return asked if ":" in asked else f"{asked}:0"


def _by_hand(family: Family, batch_size: str) -> page.ByHand:
    work = table.runs(family) / "by_hand"
    kept = work / "row.json"
    if kept.is_file():
        content = json.loads(kept.read_text(encoding="utf-8"))
        costs: Mapping[str, Cost] = {name: Cost(**cost) for name, cost in content.pop("costs").items()}
        return page.ByHand(**content, costs=costs)
    note("running the programs by hand")
    costs, scores = by_hand.candidate(family, WEIGHT, batch_size, work)
    _, origin = by_hand.lm_eval(family, family.base, batch_size, work)
    found = page.ByHand(WEIGHT, costs, scores, origin)
    write_text(kept, json.dumps(asdict(found), indent=1))
    return found


if __name__ == "__main__":
    sys.exit(main())
