"""Comparison of runs, from their journals alone.

runs             a run as far as a comparison needs it; found by folder, pattern or Optuna storage
configurations   runs that differ in nothing but their seed, and runs that found the same best model
parameters       what was varied, and which of it matters
verdicts         which differences are real; what stopping on kinship saves, and exploring gains
text, page       the tables on a terminal, as CSV and JSON; one HTML page
"""
