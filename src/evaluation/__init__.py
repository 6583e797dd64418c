"""How good a model is: the only place that knows lm-eval.

| module | what it is |
| --- | --- |
| definition | what the YAML files of a task say, read without executing anything |
| tasks | lm-eval's tasks, loaded, and which of their samples are asked |
| answers | what lm-eval takes for a model's answers; made-up ones, to try a task out |
| living | a model that takes the weights of one candidate after another, and answers |
| evaluator | the questions put to a model, and what its answers are worth |
| benchmark | well-known test sets, which should not steer unsaid |
"""
