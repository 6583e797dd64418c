"""What only a GPU can show, measured and checked: python -m benchmarks.gpu (`make gpu`; at most ten minutes).

__main__    options, order and time of the sections
sections    a section in a process of its own, which may fail or be ended without the others
place       the device, the sizes, the time that is left
family      random families of a given shape, and a task to ask them
kinship, moves, merging, evaluation, runs, whole    the sections
forked      runs in copies of a process that has imported what they need
page        the table, printed and written
"""
