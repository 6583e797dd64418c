"""python -m src.models.methods RECIPE …: mergekit-multi, which here knows our merge methods too; the options are its own."""

from mergekit.scripts.multimerge import main

if __name__ == "__main__":
    main(prog_name="python -m src.models.methods")
