"""A day over HTTP: a list, clicks, an undo, a search, a new item; each with its milliseconds."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from infra.cli.console import console
from infra.client import Moonlark

USER = "196"
K = 5
CLICKS = (("172", "The Empire Strikes Back"), ("181", "Return of the Jedi"), ("50", "Star Wars"))
NEW_ITEM = {
    "title": "Rebels of the Outer Rim",
    "text": "1998. Action Adventure Sci-Fi",
    "category": "Action",
    "attributes": {"genres": ["Action", "Adventure", "Sci-Fi"], "year": 1998},
}

T = TypeVar("T")


def live_a_day(client: Moonlark) -> None:
    """Show that what a user does is in the next answer.

    Raises:
        AssertionError: a promise was broken.
    """
    before = _timed(f"the list of user {USER}", lambda: client.recommend(USER, k=K))
    _show(before.items)
    clicks = [{"kind": "click", "user_id": USER, "item_id": item} for item, _ in CLICKS]
    stored = _timed(
        f"clicks: {', '.join(title for _, title in CLICKS)}",
        lambda: client.post_events(clicks).events,
    )
    after = _timed("the list that follows", lambda: client.recommend(USER, k=K))
    _show(after.items)
    assert after.user_seq == stored[-1].user_seq, "the answer reflects the clicks"
    undos = [{"kind": "undo", "user_id": USER, "undoes": event.event_id} for event in stored]
    _timed("undo of all three", lambda: client.post_events(undos))
    undone = _timed("the list is the first one again", lambda: client.recommend(USER, k=K))
    _show(undone.items)
    same = [item.item_id for item in undone.items] == [item.item_id for item in before.items]
    assert same, "undo takes back exactly what it names"
    search = {"kind": "search", "user_id": USER, "text": "space battles and starships"}
    _timed(f"search: {search['text']!r}", lambda: client.post_events([search]))
    found = _timed("the list after the search", lambda: client.recommend(USER, k=K))
    assert found.user_seq == undone.user_seq + 1, "the answer reflects the search"
    _show(found.items)
    text = "space battles and starships"
    near = _timed("what fits the text, for this user", lambda: client.search(text, user_id=USER))
    _show(near.items[:K])
    _timed(f"a new item: {NEW_ITEM['title']}", lambda: client.put_item("demo-new", NEW_ITEM))
    fitting = client.search(str(NEW_ITEM["title"]), k=1)
    assert fitting.items[0].item_id == "demo-new", "of the whole catalog it fits its title best"
    shelf: Mapping[str, str | int] = {"genres": "Sci-Fi", "year": 1998}
    new = _timed(
        "the user's list of science fiction of 1998",
        lambda: client.recommend(USER, k=20, attributes=shelf),
    )
    _show(new.items)
    assert any(item.item_id == "demo-new" for item in new.items), "a new item is recommended"
    alike = _timed("what is like the new item", lambda: client.similar("demo-new", k=K))
    _show(alike.items)
    _timed("the new item is deleted", lambda: client.delete_item("demo-new"))
    gone = client.recommend(USER, k=20, attributes=shelf)
    assert all(item.item_id != "demo-new" for item in gone.items), "deleted is deleted"


def _timed(what: str, do: Callable[[], T]) -> T:
    started_s = time.perf_counter()
    result = do()
    console.print(f"  {(time.perf_counter() - started_s) * 1000:6.1f} ms  {what}")
    return result


def _show(items: Sequence[Any]) -> None:
    titles = ", ".join(f"{item.title} ({item.score:.2f})" for item in items)
    console.print(f"             {titles}", style="dim")
