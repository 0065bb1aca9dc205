"""What another process does to the store: `store_process.py append URL NAME ROUNDS`, or `migrate`.

It says `ready`, waits for a line, and prints its answers as JSON.
"""

import json
import sys

from sql.engine import check_schema, migrate, open_engine
from sql.events import EventKind, NewEvent, append

USERS = ("u1", "u2")
EVENTS_A_ROUND = 6


def main(what: str, url: str, *more: str) -> None:
    """Run one of the two."""
    print("ready", flush=True)
    sys.stdin.readline()
    if what == "migrate":
        engine = open_engine(url)
        migrate(engine)
        check_schema(engine)
        print(json.dumps("migrated"))
        return
    print(json.dumps(write(url, more[0], int(more[1]))))


def write(url: str, name: str, rounds: int) -> list[tuple[str, str, int, bool]]:
    """Events of two users: some that only this writer sends, some that the other sends too."""
    engine = open_engine(url)
    answers: list[tuple[str, str, int, bool]] = []
    for n in range(rounds):
        requests = [
            [
                NewEvent(user, f"{who}-{n}-{i}", EventKind.VIEW, "i1")
                for i, who in enumerate((name, "both") * (EVENTS_A_ROUND // 2))
            ]
            for user in (USERS if name == "a" else USERS[::-1])
        ]
        for request, answer in zip(
            requests, append(engine, requests, received_at_ms=1), strict=True
        ):
            assert isinstance(answer, list), answer
            answers += [
                (event.user_id, event.event_id, given.user_seq, given.duplicate)
                for event, given in zip(request, answer, strict=True)
            ]
    return answers


if __name__ == "__main__":
    main(*sys.argv[1:])
