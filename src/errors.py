"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Bad input, found before work was wasted on it.

    The message is one or two lines: what was found, what was expected, what to do. Every command prints it without a
    traceback and ends with exit status 2.
    """
