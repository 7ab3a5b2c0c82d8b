"""The errors a user can cause, each one sentence that says what to do, with its exit code."""


class TopnineError(Exception):
    """An error that is shown as its message alone, without a traceback."""

    exit_code = 1


class WorkError(TopnineError):
    """Work that was started failed: exit code 1."""


class StopError(WorkError):
    """Work that failed for a reason that lies in none of its parts, as a full disk: no other part is tried."""


class BusyError(TopnineError):
    """Another run is writing to the store: exit code 3."""

    exit_code = 3


class InputError(TopnineError):
    """Wrong input, found before anything was started: exit code 2."""

    exit_code = 2


class DecodeError(Exception):
    """One image that cannot be decoded; its message is the reason that the store records."""
