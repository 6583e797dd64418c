"""What Hydra keeps to itself and this program needs; tests/test_private.py names the version that it was written for.

get_args_parser   Hydra's own parser of the command line: which options there are, so that one which is not costs a
                  line. The public `hydra.main` answers it with a screenful of those that are.
"""

from hydra._internal.utils import get_args_parser as get_args_parser
