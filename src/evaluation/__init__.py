"""How good a model is: the only place that knows lm-eval.

| module | what it is |
| --- | --- |
| base | what the evolution needs of an evaluator, and what one finds |
| definition | what the YAML files of a task say, read without executing anything |
| tasks | lm-eval's tasks, loaded, and which of their samples are asked |
| answers | what lm-eval takes for a model's answers; made-up ones, to try a task out |
| model | a model that takes the weights of one candidate after another, and answers |
| candidates | one candidate merged and evaluated, by whichever process is free |
| holdout | the scores of single samples, and the winner against the best founder |
| evaluator | the questions put to a model, and what its answers are worth |
| benchmarks | well-known test sets, which should not steer unsaid |
| private | the parts of lm-eval that are not public, and why each is used |
"""
