"""What a program needs around its subject: errors, files, processes, signals, progress, a cache. It knows no model.

| module | what it is |
| --- | --- |
| errors | exceptions that carry a message for the user, and whose fault an exception is |
| files | files written whole or not at all, copies, abandoned partial files |
| checksums | a checksum within what is written |
| cache | what need not be computed again, across runs |
| names | names of runs, founders and offspring, which become files and folders |
| place | where a run's folder may lie |
| opening | the first line of a run, and what to do where packages are missing |
| launch | how many processes were started, before anything heavy is imported |
| workers | the processes of a run, and how work is shared among them |
| messages | what processes tell each other |
| heartbeat | whether the other processes are still alive |
| signals | Ctrl-C and SIGTERM |
| progress | bars and notes on the terminal |
| log | what the terminal showed, kept in the run's folder |
| terminal | text on the terminal, shown as text whatever it contains |
| plugins | objects of the user's own, by their dotted paths |
| validation | complaints about a configuration, in a line or two |
| private | what Hydra keeps to itself |
| command | what every `python -m src.…` has in common |
"""
