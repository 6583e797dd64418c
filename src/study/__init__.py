"""Many runs: searched, compared; and one run's founders, weighed otherwise.

| module | what it is |
| --- | --- |
| sweep | many runs as one search, by Optuna |
| compare | which configuration is better, by how much, and how certain that is |
| tradeoff | what else could be had of a run's founders |
"""
