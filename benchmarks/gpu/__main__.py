"""Everything that only a GPU can show: python -m benchmarks.gpu (--help tells more; at most ten minutes).

Section by section, each in a process of its own, it measures and checks kinship, merges, evaluation, learning, a shared
GPU, a killed run, and runs of 1 B and 7 B parameters on random families that it makes; prints a table and writes it.
Without a GPU it says so and tries its own logic on the processors with tiny shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # whoever asks for the GPU otherwise cannot fork and use it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.gpu import evaluation, family, kinship, learning, merging, moves, page, runs, sections, whole
from benchmarks.gpu.place import RAM, SPARE, Place, Row, available, bytes_of, full, processors, tiny
from benchmarks.gpu.sections import Section

SECTIONS = {
    "begin": Section("a family", sections.begin, 5, 60),
    "kinship": Section("kinship", kinship.run, 10, 60),
    "moves": Section("weights to the GPU and back", moves.run, 5, 40),
    "merging": Section("merges and decompositions", merging.run, 20, 100),
    "evaluation": Section("evaluation", evaluation.run, 20, 120),
    "learning": Section("a recipe learned", learning.run, 15, 60),
    "memory": Section("short of memory", evaluation.short_of_memory, 10, 60),
    "spread": Section("a model over two GPUs", evaluation.spread, 5, 60),
    "vllm": Section("vLLM", evaluation.by_vllm, 5, 120),
    "killed": Section("a killed run", runs.killed, 30, 100),
    "shared": Section("one process, and two that share the GPU", runs.shared, 40, 150),
    "one": Section("1 B parameters, end to end", whole.one, 30, 120),
    "large": Section("7 B parameters, end to end", whole.large, 60, 300),
}
SHARING = frozenset({"kinship", "evaluation", "learning", "memory", "spread", "vllm", "one"})
"""Sections that work with the family of 1 B parameters."""
MODES = ("fork", "spawn")


def main() -> int:
    """Run the sections; return 1 where something that was promised was not seen."""
    options = parsed()
    began = time.monotonic()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    log = out / "gpu.log"
    log.unlink(missing_ok=True)
    machine, way, gpus = look(log)
    small = options.smoke or not gpus
    print(
        machine if gpus else f"{machine}: a dry run, which tries the logic on the processors with tiny shapes",
        flush=True,
    )
    print(f"imports: {time.monotonic() - began:.0f} s\n\n{page.HEADER}", flush=True)
    sizes = tiny() if small else full()
    found: dict[str, tuple[float, list[Row]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="kinmerge-gpu-") as disk,
        tempfile.TemporaryDirectory(dir=memory(sizes)) as ram,
    ):
        place = Place("cuda:0" if gpus else "cpu", gpus, sizes, Path(ram), Path(disk))
        family.write_task(place.folder / "tasks", sizes.samples, sizes.words)
        chosen = options.only or [*SECTIONS][1:]
        for name in ["begin", *chosen] if SHARING & {*chosen} else chosen:
            section = SECTIONS[name]
            left = 60 * options.minutes - (time.monotonic() - began)
            rows: list[Row] = []
            found[section.title] = (0.0, rows)
            since = time.monotonic()
            if left < section.least and gpus:
                coming = iter([Row("left out", f"{left:.0f} s are left of {options.minutes:g} minutes; it takes more")])
            else:
                most = min(section.most, left) if gpus else 4 * section.most
                coming = sections.separate(section, place, most, log, way)
            for row in coming:
                rows.append(row)
                print(page.line(row), flush=True)
            found[section.title] = (time.monotonic() - since, rows)
            write(out, machine, found, whole=bool(gpus))
    failed = [row for _, rows in found.values() for row in rows if row.held is False]
    print(
        f"\n{time.monotonic() - began:.0f} s; {len(failed)} of what was promised not seen; {out / 'gpu.log'}",
        flush=True,
    )
    return 1 if failed else 0


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="in all; sections that have no time left are left out"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on a GPU too")
    parser.add_argument(
        "--only", nargs="+", choices=[*SECTIONS][1:], metavar="SECTION", help=f"of {', '.join([*SECTIONS][1:])}"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="where gpu.md, gpu.json and gpu.log go")
    return parser.parse_args()


def look(log: Path) -> tuple[str, str, int]:
    """Return what the machine is, how sections are started, and how many GPUs they see.

    A library may have touched the GPU while it was imported: then a forked process cannot use it.
    """
    place = Place("cpu", 0, tiny(), Path(), Path())
    for way in MODES:
        row = next(iter(sections.separate(Section("machine", sections.facts, 0, 60), place, 60, log, way)))
        if row.held is None:
            break
    else:
        raise SystemExit(f"torch cannot use the GPU: {row.found}")
    processor = f"{processors()} × {platform.machine()}, {available() / 1e9:.0f} GB of memory free"
    return f"{row.found}; {processor}; Python {platform.python_version()}", way, int(row.what)


def memory(sizes: object) -> str | None:
    """Return the folder in memory, where it has room for the largest family of the smaller runs; else None."""
    need = 4 * bytes_of(full().one)
    roomy = RAM.is_dir() and shutil.disk_usage(RAM).free > need and available() > need + SPARE
    return str(RAM) if roomy else None


def write(out: Path, machine: str, found: dict[str, tuple[float, list[Row]]], *, whole: bool) -> None:
    """Write the page, and the same for programs."""
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    text = page.page(machine if whole else f"Not run: {machine}. This is the dry run.", command, found)
    (out / "gpu.md").write_text(text)
    plain = {title: [seconds, [dataclasses.asdict(row) for row in rows]] for title, (seconds, rows) in found.items()}
    (out / "gpu.json").write_text(json.dumps({"machine": machine, "sections": plain}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
