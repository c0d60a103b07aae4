"""The one error that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: a recipe, an option, a file or a machine that cannot do what is asked.

    The message has at most five lines and names the field, the value and the fix. The command line prints it, without a
    traceback, and exits with code 2.
    """
