"""The base class of everything that a user can put right."""


class PnfsError(ValueError):
    """What was asked for cannot be done; the message names the file or key, what is wrong, and what to do.

    Commands print the message alone. Any other exception is a mistake in the program: it is shown with the place
    that it came from.
    """
