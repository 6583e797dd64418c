"""Many runs as one search, with Hydra's Optuna sweeper: the only place that knows Optuna.

    plugin     the sweeper as Hydra finds it
    study      the search itself: trials handed out, told, and taken up again after a kill
    space      the parameters of a trial, as far as its other parameters leave them a meaning
    verdict    within a run: is it hopeless beside the other trials?

The same command again goes on: a study lies on disk, a trial's folder is named by its number in the study, and a trial
whose process was killed is resumed in its folder.
"""
