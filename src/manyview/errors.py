"""The one exception a user's mistake raises; the command line prints it as a single line and exits with 2."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend. The message says what, where (file and value) and how to mend it, in one line."""
