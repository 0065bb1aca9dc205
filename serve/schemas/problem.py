"""An error, as RFC 9457 has it."""

from pydantic import BaseModel


class ProblemField(BaseModel):
    """One field that was refused."""

    field: str
    value: str | int | float | bool | None
    accepted: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemField]
    hint: str | None = None
