"""What can go wrong in the store.

    StoreError
    |-- UnsafeDatabase        an acknowledged write might not survive a power cut
    |-- SchemaBehind          the schema is older than this code
    |-- StoreUnavailable      the database did not answer; the caller may try again
    |   `-- StoreBusy         it answered, but a lock or a connection took too long
    |-- UnknownGeneration     no generation of that name is registered
    |-- GenerationConflict    the generation is in a state that does not allow the step
    |-- ErasureKeyLost        the ledger of erasures is there, its key is not
    |-- FlipLost              another process moved the live pointer first
    |-- HoldSet               a person must clear the hold before anything is published
    |-- KeyNameTaken          an API key of that name is in force
    |-- UnknownKey            no API key of that name is in force
    `-- TooManyPolicies       pins, boosts and seen rules are at their limit

Each carries its coordinates as attributes and a `hint` with the operator's next command. A caller's
bad input is a `ValueError` (see `ids.BadInput`), not one of these.
"""


class StoreError(Exception):
    """Base of the tree. `hint` names the next command."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}. {hint}")
        self.hint = hint


class UnsafeDatabase(StoreError):
    """`setting` of `database` has a value with which a committed write may be lost."""

    def __init__(self, database: str, setting: str, actual: str, accepted: str) -> None:
        super().__init__(
            f"{database}: {setting} is {actual!r}, accepted is {accepted}",
            hint=f"Set {setting} to {accepted} on the database, then start again.",
        )
        self.database, self.setting = database, setting
        self.actual, self.accepted = actual, accepted


class SchemaBehind(StoreError):
    """The database is at revision `actual` (None: empty), the code needs `expected`."""

    def __init__(self, database: str, actual: str | None, expected: str | None) -> None:
        super().__init__(
            f"{database}: schema revision is {actual or 'none'}, the code needs {expected}",
            hint="Run `moonlark init`.",
        )
        self.database, self.actual, self.expected = database, actual, expected


class StoreUnavailable(StoreError):
    """The database did not answer. Nothing of the transaction was committed, or it is not known."""

    def __init__(self, database: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"{database}: {reason}", hint=hint or "Check the database, then `moonlark status`."
        )
        self.database, self.reason = database, reason


class StoreBusy(StoreUnavailable):
    """A lock or a pooled connection was not had in time, or a deadlock was broken. Try again."""


class UnknownGeneration(StoreError):
    """`generation_id` is not registered."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(
            f"generation {generation_id!r} is not registered",
            hint="`moonlark generations` lists those that are.",
        )
        self.generation_id = generation_id


class GenerationConflict(StoreError):
    """`generation_id` is in `state`; the step needs one of `accepted`."""

    def __init__(self, generation_id: str, step: str, state: str, accepted: str) -> None:
        super().__init__(
            f"generation {generation_id!r}: cannot {step}, it is {state!r}, accepted is {accepted}",
            hint="`moonlark generations` shows the states.",
        )
        self.generation_id, self.step = generation_id, step
        self.state, self.accepted = state, accepted


class ErasureKeyLost(StoreError):
    """The key at `path` is not there, or not the one that the ledger beside it was written with."""

    def __init__(self, path: str, why: str = "is missing beside a ledger of erasures") -> None:
        super().__init__(
            f"{path} {why}; without its key the ledger says nothing",
            hint="Bring the key back from where it is kept.",
        )
        self.path = path


class LedgerNotShared(StoreError):
    """Nodes without a folder in common would each have their own key: an erased user's late events
    would be taken by all nodes but one."""

    def __init__(self) -> None:
        super().__init__(
            "MOONLARK_ARTIFACT_URI is set, and nothing says where the ledger of erasures lies",
            hint="Set MOONLARK_LEDGER_ROOT to a folder that every gateway, job and command line "
            "reaches; the ledger and its key do not go through the object store.",
        )


class FlipLost(StoreError):
    """The live pointer is at flip `actual`, the caller expected `expected`."""

    def __init__(self, to: str, expected: int, actual: int) -> None:
        super().__init__(
            f"live pointer is at flip {actual}, expected {expected}; {to!r} was not published",
            hint="`moonlark status` shows what is live now; decide again.",
        )
        self.to, self.expected, self.actual = to, expected, actual


class HoldSet(StoreError):
    """The live pointer at `flip` holds `generation_id`: `who` set it, because of `why`."""

    def __init__(self, to: str, flip: int, generation_id: str, who: str, why: str) -> None:
        super().__init__(
            f"{generation_id!r} is held since flip {flip} by {who}: {why}; {to!r} did not go live",
            hint=f"A person publishes it with `moonlark publish {to} --override-hold`.",
        )
        self.to, self.flip, self.generation_id, self.who, self.why = (
            to,
            flip,
            generation_id,
            who,
            why,
        )


class KeyNameTaken(StoreError):
    """An API key called `name` is in force."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"an API key {name!r} is in force",
            hint=f"Take another name, or `moonlark keys revoke {name}` first.",
        )
        self.name = name


class UnknownKey(StoreError):
    """No API key called `name` is in force."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no API key {name!r} is in force", hint="`moonlark keys list` shows them."
        )
        self.name = name


class TooManyPolicies(StoreError):
    """There are `limit` policies already: each recommendation weighs all of them."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"there are {limit} policies, the most that are accepted",
            hint="Delete one: `moonlark policies` lists them, `moonlark unset POLICY_ID` deletes.",
        )
        self.limit = limit
