"""Many runs: searched, compared, analysed.

| module | what it is |
| --- | --- |
| sweep | many runs as one search, by Optuna |
| compare | which configuration is better, by how much, and how certain that is |
| analyse | a table of merges: how kinship goes with merge gain, when an evolution was saturated |
"""
