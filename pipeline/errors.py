"""The errors a user can cause, each one sentence that says what to do, with its exit code."""

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # in torch's messages


class TopnineError(Exception):
    """An error that is shown as its message alone, without a traceback.

    Its first argument is a sentence; others are lines that belong to it, such as one for each block that failed.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n  ".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentence and the lines below it."""
        return tuple(map(str, self.args)) or ("",)


class WorkError(TopnineError):
    """Work that was started failed: exit code 1."""


class StopError(WorkError):
    """Work that failed for a reason that lies in none of its parts, as a full disk: no other part is tried."""


class DamageError(StopError):
    """A store does not hold what its markers and fingerprints say: ``topnine run`` makes it again."""


class BusyError(TopnineError):
    """Another run is writing to the store: exit code 3."""

    exit_code = 3


class InputError(TopnineError):
    """Wrong input, found before anything was started: exit code 2."""

    exit_code = 2


class DecodeError(Exception):
    """One image that cannot be decoded; its message is the reason that the store records."""


class BandsError(DecodeError):
    """An image that can be decoded, and is none that the network takes: a setting may make it one."""


def check_memory(error: BaseException) -> None:
    """Raise WorkError where an error means that memory ran out: it says nothing of what was computed."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        raise WorkError(
            f"memory ran out: {first_line(error)}. Run it where there is more, or with a smaller decode.size or batch."
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type where it has none.

    >>> first_line(OSError("disk full\\ncontext")), first_line(KeyError())
    ('disk full', 'KeyError')
    """
    return (str(error) or type(error).__name__).splitlines()[0]
