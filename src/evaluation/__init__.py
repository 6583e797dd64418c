"""Evaluation of models: the only room that knows lm-eval.

| module | what it is |
| --- | --- |
| base | what the evolution needs of an evaluator, and what one finds |
| definition | what the YAML files of a task say, read without executing anything |
| tasks | lm-eval's tasks, loaded, and which of their samples are asked |
| answers | precomputed answers for lm-eval; made-up ones that validate a metric |
| choices | the choices of multiple-choice tasks, and the numbers of which a metric takes the largest |
| responses | what one model answered, by sample: made, read, spread over all questions |
| chat | chat templates, and whether founders have them |
| batches | log-likelihood requests in batches |
| prefixes | what texts of a batch begin with alike, encoded once |
| model | a model that takes the weights of one candidate after another, and answers |
| candidates | one candidate merged and evaluated, by whichever process is free |
| holdout | the scores of single samples, and the winner against the best founder |
| evaluator | the scores of a model on the run's tasks |
| forecast | what evaluating takes, for the plan |
| predicted | what a search of recipes makes of a run's answers |
| benchmarks | well-known test sets, which should not steer unsaid |
| private | the parts of lm-eval that are not public, and why each is used |
"""
