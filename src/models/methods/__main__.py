"""mergekit-multi that knows our merge methods: python -m src.models.methods [--import MODULE …] RECIPE …

MODULE registers further methods; all other options are mergekit-multi's.
"""

import importlib
import sys

from mergekit.scripts.multimerge import main

from src.models.methods import treated

if __name__ == "__main__":
    while sys.argv[1:2] == ["--import"]:
        importlib.import_module(sys.argv[2])
        del sys.argv[1:3]
    treated.register()
    main(prog_name="python -m src.models.methods")
