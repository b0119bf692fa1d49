"""Errors that are the user's to mend: one clear line, never a traceback."""


class UserError(Exception):
    """Bad input or a missing file. The message says what is wrong and what to do, in one line.

    Entry points (`run.py`, `python -m preprocessing`) print it and exit with status 2.
    """
