"""Tracking of a run: Weights & Biases, TensorBoard, or nothing.

| module | what it is |
| --- | --- |
| recorder | what a run does with an event |
| sender | sends a tracker what a journal tells |
| trackers | Weights & Biases, TensorBoard, none |
| private | the parts of W&B that are not public |
| about, calls | what is sent before the first figure, and of each event |
| table | the models as a table |
| summary | the result of a run |
"""
