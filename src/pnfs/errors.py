"""The base class of everything that a user can put right."""


class PnfsError(ValueError):
    """What was asked for cannot be done; the message names the file or key, what is wrong, and what to do.

    Commands print the message alone. Any other exception is a mistake in the program: it is shown with the place
    that it came from.
    """

    def __str__(self) -> str:
        # From a loader process it arrives with that process's traceback before it.
        text = super().__str__()
        return text.rpartition(f"{type(self).__name__}: ")[2].strip() if _FROM_A_LOADER in text else text


_FROM_A_LOADER = "in DataLoader worker process"
