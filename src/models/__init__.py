"""Checkpoints and how they are made: read, identified by content, merged, stored.

| module | what it is |
| --- | --- |
| header | what a safetensors file says of itself |
| checkpoint | a folder of weights that can be trusted |
| digest | fingerprints of content |
| founders | the models that the user brings |
| merging | recipes, and mergekit that carries them out |
| private | the inner parts of mergekit that merging needs |
| methods | merge methods of our own, registered with mergekit |
| store | the weights of a run's models: made, deleted, made again |
"""
