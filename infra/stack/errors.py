"""Errors of the local stack.

StackError
├── StackRunning      a stack already runs from this state dir
├── StackNotRunning   nothing runs from this state dir
├── StackStartFailed  a child process ended, or was not ready in time
├── StackStopFailed   processes survived the kill
├── StateFileInvalid  the state file cannot be read
├── PortTaken         something else listens on the HTTP port
├── NoFreePorts       no run of free loopback ports was found
└── PathTooLong       a socket path would not fit (sun_path)
"""


class StackError(Exception):
    """A failure of the local stack; `hint` names the next command."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (next: {hint})")
        self.hint = hint


class StackRunning(StackError):
    """A stack already runs from this state dir."""


class StackNotRunning(StackError):
    """Nothing runs from this state dir."""


class StackStartFailed(StackError):
    """A child process ended, or was not ready in time."""


class StackStopFailed(StackError):
    """Processes survived SIGKILL for longer than the limit."""


class StateFileInvalid(StackError):
    """The state file is there but cannot be read."""


class PortTaken(StackError):
    """Something else listens on the HTTP port."""


class NoFreePorts(StackError):
    """No run of free loopback ports was found in the searched range."""


class PathTooLong(StackError):
    """A socket path under this folder would not fit in sun_path."""
