"""python -m src.models.methods RECIPE …: mergekit-multi, and it knows our merge methods; its options are the same."""

from mergekit.scripts.multimerge import main

if __name__ == "__main__":
    main(prog_name="python -m src.models.methods")
