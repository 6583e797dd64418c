"""Tracking of a run: Weights & Biases, TensorBoard, or nothing.

| module | what it is |
| --- | --- |
| trackers | Weights & Biases, TensorBoard, none |
| private | the parts of W&B that are not public |
| figures | the numbers of a generation |
| table | the models as a table |
| summary | the result of a run |
"""
