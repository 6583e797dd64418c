"""What a tracker is told while the run goes on: Weights & Biases, TensorBoard, or nothing.

| module | what it is |
| --- | --- |
| trackers | Weights & Biases, TensorBoard, several at once, none |
| figures | the numbers of a generation |
| table | the models as a table |
| summary | the numbers and the words at the run's end |
"""
