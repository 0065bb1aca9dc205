"""Drill `encoder-gone`: the text encoder is killed with -9, or takes ten times its timeout.

Lists go on. Searches are acknowledged all the same, and embedded later, when their user next asks
for a list: in the end each user vector is the fold from nothing, texts and all (the checker). Items
are put whole or refused with 503 and Retry-After, never acknowledged without a vector. The words
encoder stands in for BERT; what waits for it, gives it up and goes back to it is the gateway.
"""

import time
from functools import partial

import httpx
from tqdm import tqdm

from infra.drills.catalog import made_title
from infra.drills.checker import check
from infra.drills.figures import Figures, Options
from infra.drills.record import Kind, Record
from infra.drills.sick_app import APP
from infra.drills.sick_rounds import FAULT_S, RECOVERY_S, SickRounds, list_is_whole, running, until
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.traffic import Client

ROUNDS = 6
ITEMS = 2_000
USERS = 1_000
CLIENTS = 4
EMBED_TIMEOUT_S = 1.0
SLOW_S = 10 * EMBED_TIMEOUT_S
ENVIRONMENT = {"MOONLARK_EMBED_TIMEOUT_S": str(EMBED_TIMEOUT_S)}
SEARCH_SHARE = 0.25


class SearchingClient(Client):
    """Searches, too; an item may be refused while the encoder is away."""

    refusable: frozenset[Kind] = frozenset({"item"})

    def _act(self, http: httpx.Client) -> None:
        if self._rng.random() < SEARCH_SHARE:
            self._search(http)
        else:
            super()._act(http)

    def _search(self, http: httpx.Client) -> None:
        self._post_event(http, {"kind": "search", "text": made_title(self._rng)})


def run(options: Options) -> Figures:
    """`rounds` faults on a stack of their own."""
    with drill_stack(
        items=ITEMS, users=USERS, seed=options.seed, env=ENVIRONMENT, app=APP
    ) as stack:
        return run_on(stack, options, items=ITEMS)


def run_on(stack: DrillStack, options: Options, *, items: int, fault_s: float = FAULT_S) -> Figures:
    """`rounds` faults on a stack that is there already, dead and slow in turn."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures, record = Figures("encoder-gone", rounds, options.seed), Record()
    faults = SickRounds(stack, record, figures, lambda: _is_searched(stack.url), fault_s)
    clients = [
        SearchingClient(n, stack.url, items, record, options.seed, prefix="s")
        for n in range(CLIENTS)
    ]
    with running(clients):
        for number in tqdm(
            range(rounds), "encoder-gone", unit="round", disable=not options.progress
        ):
            faults.ordinary()
            if number % 2 == 0:
                faults.dead("encoder")
            else:
                faults.slow("encoder", SLOW_S)
    late = sum("text_not_embedded" in answer.degraded for answer in record.answers)
    _ask_everybody(stack, clients, record, figures)
    check(record, stack.engine, stack.root, figures)
    faults.report()
    figures.more["answers_text_not_embedded"] = late
    figures.more["items_refused"] = len(record.refused)
    if not late or not record.refused:
        figures.tell("no list waited for a text, or no item was refused: the fault was not felt")
    return figures


def _ask_everybody(
    stack: DrillStack, clients: list[SearchingClient], record: Record, figures: Figures
) -> None:
    """The encoder is back: every user who searched gets a list made of all of it."""
    deadline_s = time.monotonic() + RECOVERY_S
    for client in clients:
        for user_id in client.seqs:
            if until(partial(list_is_whole, stack.url, user_id), deadline_s):
                with httpx.Client(base_url=stack.url, timeout=30) as http:
                    client.ask_for(http, user_id)
            else:
                figures.tell(f"a list of {user_id} is still marked {RECOVERY_S:g} s later")


def _is_searched(url: str) -> bool:
    """A search needs the encoder at once."""
    return httpx.post(f"{url}/v1/search", json={"text": "space"}, timeout=30).status_code == 200
