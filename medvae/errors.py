"""The one exception, and the one warning, for what a user can fix: a wrong file, a wrong option, a full disk."""


class MedvaeError(Exception):
    """A problem in the user's input, explained in one paragraph.

    The message names the file, what was found, what was expected and what to do. The command line prints
    it without a traceback and exits with code 1; any other exception that reaches a user is a bug.
    """


class MedvaeWarning(UserWarning):
    """Something in the user's input that was corrected or guessed, and may be wrong; the work continues."""
