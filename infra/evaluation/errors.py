"""What can go wrong in an evaluation.

EvaluationError
├── UnknownModel     a name that is none of ours
├── NoSuchData       neither a data set's name nor a folder with items and events
└── TooLittleData    nobody is left after the protocol's filters
"""

from collections.abc import Iterable


class EvaluationError(Exception):
    """Root of the tree. `hint` names what to do next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (hint: {hint})")
        self.hint = hint


class UnknownModel(EvaluationError):
    """`name` is not among the models."""

    def __init__(self, name: str, accepted: Iterable[str]) -> None:
        super().__init__(f"no model {name!r}", hint=f"choose among {', '.join(accepted)}")
        self.name = name


class NoSuchData(EvaluationError):
    """`data` is no name, and no folder that we can read."""

    def __init__(self, data: str, reason: str) -> None:
        super().__init__(
            f"cannot evaluate on {data!r}: {reason}",
            hint="give ml-100k, or a folder with items.* and events.* as `moonlark ingest` reads",
        )
        self.data = data


class TooLittleData(EvaluationError):
    """No user has enough events."""

    def __init__(self, data: str, users: int, items: int) -> None:
        super().__init__(
            f"{data!r} has {users} users and {items} items after the filters",
            hint="leave-one-out needs users and items with at least 5 events",
        )
        self.data = data
