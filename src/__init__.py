"""kinmerge: evolves language models by merging them, guided by model kinship (arXiv 2410.12613)."""
