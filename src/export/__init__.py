"""Export of the winner: its folder with card, licence and recipe, the upload, and rebuilt weights.

| module | what it is |
| --- | --- |
| winner | the best model's folder |
| card | the model card, and the recipe that rebuilds the model with mergekit alone |
| licence | the licence of a merge, from its founders' |
| upload | the folder on the hub |
| rebuild | weights that were deleted, made again and checked |
"""
