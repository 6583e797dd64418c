"""python -m src.kinship MODEL MODEL… --base BASE: how related are these checkpoints?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.runtime import plugins
from src.runtime.command import Parser, check_folder, status
from src.runtime.errors import UserError

# Everything that computes is imported where it is first needed: --help and a mistyped option must answer at once.

PLOTS = (".png", ".svg", ".pdf")
DETAILS = """
kinship is the similarity of what training changed: of the models' weights minus the base's, over all float tensors.
  pcc        Pearson correlation, -1 to 1; above about 0.9 two models have little left to give each other
  cosine     the same without subtracting the means, -1 to 1
  euclidean  distance, 0 or more; small is close

MODEL and BASE are folders of safetensors checkpoints, or names on the Hugging Face hub (org/name).
A MODEL may be a LoRA adapter of BASE, which is compared by its factors (docs/merging.md).
A MODEL may be given a name of your own: math=outputs/zoo/math
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit status: 0, or 2 after one `error:` line or two on stderr."""
    options = _parser().parse_args(arguments)
    return status(lambda: _run(options))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m src.kinship",
        description="How related are checkpoints that were fine-tuned from one base?",
        epilog=DETAILS,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="two or more checkpoints: PATH or NAME=PATH")
    parser.add_argument("--base", required=True, help="the checkpoint that they were all fine-tuned from")
    parser.add_argument("--metric", default="pcc", help="pcc (the default), cosine, euclidean, or a dotted path")
    parser.add_argument("--by", choices=("layer", "kind"), help="also for every layer, or for attention, mlp, norms, …")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object: base, metric, models, matrix, …")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a heat map: .png, .svg or .pdf")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu (the default), or cuda")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.plot is not None and options.plot.suffix.lower() not in PLOTS:
        raise UserError(f"--plot {options.plot}: expected a file name that ends in {', '.join(PLOTS)}")
    check_folder("--plot", options.plot)
    from src.kinship import render
    from src.kinship.metrics import metric_of
    from src.models.checkpoint import check_family, open_checkpoint
    from src.runtime.progress import bar, whole
    from src.runtime.terminal import warn

    plugins.trust(options.metric)
    metric = metric_of(options.metric)
    sources = name_models(options.models)
    if len(sources) < 2:
        raise UserError(f"one model, {options.models[0]}; kinship is between two or more: give another MODEL")
    base = open_checkpoint(options.base)
    models = {name: open_checkpoint(source, base=base) for name, source in sources.items()}
    for warning in check_family(base, models):
        warn(warning)
    from src.kinship.measuring import measure

    with bar("reading", unit="byte") as shown:
        grams = measure(base, models, device=options.device, progress=whole(shown), with_base=False)
    if options.json:
        print(render.as_json(grams, metric, options.base, sources, options.by))
    elif options.csv:
        print(render.as_csv(grams, metric, options.by))
    else:
        print(render.as_table(grams, metric, options.base, options.by))
    if options.plot:
        from src.kinship.plot import heat_map

        heat_map(grams, metric, options.base, options.plot)
        print(f"heat map in {options.plot}", file=sys.stderr)


def name_models(arguments: Sequence[str]) -> dict[str, str]:
    """Return sources by name: NAME=PATH as given, else as much of the path's end as tells the models apart.

    Raises:
        UserError: two models of one name.
    """
    named = [_split(argument) for argument in arguments]
    unnamed = [source for name, source in named if not name]
    result: dict[str, str] = {}
    for name, source in named:
        label = name or _label(source, [other for other in unnamed if other != source])
        if label in result:
            raise UserError(f"two models are called {label}; give each once, or names of their own: NAME=PATH")
        result[label] = source
    return result


def _split(argument: str) -> tuple[str, str]:
    name, _, source = argument.partition("=")
    return (name, source) if name and source and "/" not in name and not Path(argument).exists() else ("", argument)


def _label(source: str, others: Sequence[str]) -> str:
    """Return the fewest last parts of a path that none of the others ends in."""
    parts, ends = Path(source).absolute().parts, [Path(other).absolute().parts for other in others]
    for depth in range(1, len(parts)):
        if all(end[-depth:] != parts[-depth:] for end in ends):
            return "/".join(parts[-depth:])
    return str(Path(source).absolute())


if __name__ == "__main__":
    sys.exit(main())
