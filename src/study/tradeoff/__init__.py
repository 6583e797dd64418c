"""What else could be had of a run's founders: the trade-offs between tasks, as its answers predict them.

front   the recipe that is best under any weighting of the tasks, and what is expected of it
view    the same for a terminal, and drawn
"""
