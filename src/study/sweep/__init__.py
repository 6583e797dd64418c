"""Many runs as one search, with Hydra's Optuna sweeper: the only place that knows Optuna.

    plugin     registration with Hydra
    study      the search: trials are drawn, run, recorded, and resumed after a kill
    space      the parameters of a trial, as far as they apply beside its other parameters
    verdict    within a run: is it hopeless beside the other trials?
    launchers  what could not run a trial here, refused before any
    storage    the folders of a storage's runs, trials by their number, and which sweepers are alive
    private    what the plugin keeps to itself

The same command again goes on: a study lies on disk, a trial's folder is named by its number in the study, and a trial
whose process was killed is resumed in its folder.
"""
