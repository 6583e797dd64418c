"""The exceptions that carry a message in plain words, and what makes a stranger's words safe to put in one."""


class _WordsError(Exception):
    """What is printed as it stands: whatever its message quotes, no line of it acts on a terminal."""

    def __str__(self) -> str:
        return printable_lines(super().__str__())


class UserError(_WordsError):
    """Bad input, found before work was wasted on it.

    The message is one or two lines: what was found, what was expected, what to do. Every command prints it without a
    traceback and ends with exit status 2.
    """


class SpoiledError(_WordsError):
    """A candidate that can never be a parent, whatever is tried; the run goes on without it."""


class MachineError(_WordsError):
    """The machine failed, not the user and not a candidate: the disk, the memory, a GPU, the network.

    The message is one line: what failed and where. The run ends with exit status 1, nothing counts as failed, and the
    same command goes on from the journal once the cause is gone.
    """


def printable(text: str) -> str:
    """Return the text with whatever would break its line, or move or colour the terminal, spelled out (`\\x1b`, `\\n`).

    Letters of every language stay; line breaks, escapes, marks that turn the direction of writing and halves of
    characters (of file names that are no UTF-8) do not.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, each of them `printable`."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))
