"""Learning by gradient: weights of a recipe, on the samples that steer the search.

| module | what it is |
| --- | --- |
| samples | what is learned from, what is kept back, batches, and the loss of each sample |
| gradient | a weighted sum of models, and the gradient of a loss by its weights |
| training | the course of learning, look by look |
| lessons | the lessons of a run, one before every candidate |
| forecast | what it takes, for the plan |
"""
