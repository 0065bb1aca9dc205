"""What can go wrong in an evaluation.

EvaluationError
├── UnknownModel     a name that is none of ours
├── NotHere          a model that this data set, or this installation, cannot have
├── NoSuchData       neither a data set's name nor a folder that we can read
├── NoReplay         a data set that cannot be replayed
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


class NotHere(EvaluationError):
    """The model `name` exists, but not for this data or not in this installation."""

    def __init__(self, name: str, reason: str, hint: str) -> None:
        super().__init__(f"the model {name!r} cannot be had: {reason}", hint=hint)
        self.name = name


class NoSuchData(EvaluationError):
    """`data` is no name, and no folder that we can read."""

    def __init__(self, data: str, reason: str) -> None:
        super().__init__(
            f"cannot evaluate on {data!r}: {reason}",
            hint="give ml-100k, a folder with the files of IFDB or Online Retail, or one with "
            "items.* and events.* as `moonlark ingest` reads",
        )
        self.data = data


class NoReplay(EvaluationError):
    """`data` cannot be walked through in time."""

    def __init__(self, data: str, reason: str) -> None:
        super().__init__(f"cannot replay {data!r}: {reason}", hint="use --protocol leave-one-out")
        self.data = data


class TooLittleData(EvaluationError):
    """No user has enough events."""

    def __init__(self, data: str, users: int, items: int) -> None:
        super().__init__(
            f"{data!r} has {users} users and {items} items after the filters",
            hint="leave-one-out needs users and items with at least 5 events",
        )
        self.data = data
