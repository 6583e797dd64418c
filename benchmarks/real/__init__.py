"""A real family: SmolLM2-135M-Instruct, three fine-tunes of it, and what merging does to them (docs/real.md).

| module | what it is |
| --- | --- |
| questions | six tasks of generated questions, asked in plain English |
| base | the base, out of the package that ships it |
| family | the fine-tunes, and the lm-eval tasks beside them |
| programs | a program as a user starts it, its time and its memory |
| by_hand | the same candidate by today's three programs |
| table | every strategy on the family |
| learned | a recipe, all weights or a LoRA, learned from the same samples |
| page | all that was measured, in Markdown |

`python -m benchmarks.real` builds the family, `python -m benchmarks.real --table` writes the page too.
"""
