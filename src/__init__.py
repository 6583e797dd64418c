"""kinmerge: evolves language models by merging them, guided by model kinship (arXiv 2410.12613)."""

import sys

if sys.argv[:1] == ["-m"]:  # this is `python -m src.…`, whose libraries take seconds to be there
    from src.runtime import opening, signals

    signals.loading()
    opening.begin("src.run" in getattr(sys, "orig_argv", []))
