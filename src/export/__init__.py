"""What leaves a run: the winner's folder with its card, its licence, its recipe, an upload; weights made again.

| module | what it is |
| --- | --- |
| winner | the best model's folder |
| card | the model card, and the recipe that rebuilds the model with mergekit alone |
| metadata | the card's YAML header |
| licence | the licence of a merge, from its founders' |
| upload | the folder on the hub |
| rebuild | weights that were deleted, made again and checked |
"""
