"""The bench of the index runs, and its figures agree with each other."""

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.bench import index
from infra.bench.index_catalog import ADDED, EDITED
from infra.bench.index_families import Subject, bisect
from infra.bench.report import Report, Table
from infra.bench.vectors import clustered, like_items, like_users


@pytest.fixture(scope="module")
def report() -> Report:
    return index.measure("small")


def column(table: Table, title: str) -> dict[str, float]:
    """A column as numbers, by the first cell of each row."""
    place = table.columns.index(title)
    return {row[0]: float(row[place].replace(",", "")) for row in table.rows}


def table(report: Report, title: str) -> Table:
    return next(t for t in report.tables if t.title.startswith(title))


def test_moonlark_finds_what_faiss_alone_finds(report: Report) -> None:
    recall = column(table(report, "one query"), "recall@100")
    assert recall["delta 0%"] == pytest.approx(recall["faiss alone"], abs=2e-4)
    assert recall["two shards"] == pytest.approx(recall["faiss alone"], abs=2e-4)
    assert all(value > 0.97 for value in recall.values())


def test_exact_search_finds_everything_and_no_family_more(report: Report) -> None:
    recall = column(table(report, "families"), "recall@100")
    assert recall["Flat"] == 1.0
    assert all(0.5 < value <= 1.0 for value in recall.values())


def test_deltas_hold_the_changes_that_were_made(report: Report) -> None:
    deltas = table(report, "deltas")
    changes, rows, masked = (column(deltas, name) for name in ("changes", "rows", "masked"))
    assert changes == {"0%": 0, "1%": 200, "10%": 2_000}
    for share, count in changes.items():
        added = round(ADDED * count)
        assert masked[share] == count - added  # edited or deleted
        assert rows[share] == round(EDITED * count) + added


def test_the_ratios_have_their_goals_and_were_measured(report: Report) -> None:
    by_name = {ratio.name: ratio for ratio in report.ratios}
    assert by_name["one shard and faiss alone"].at_most == 1.1
    assert by_name["delta of 10 %"].at_most == 1.25
    assert not by_name["delta of 10 % and faiss alone"].goal
    assert all(ratio.value > 0 for ratio in report.ratios)
    assert min(column(table(report, "one query"), "µs").values()) > 0


@pytest.mark.parametrize(("needed", "found"), [(1, 10), (37, 37), (90, 90), (500, 90)])
def test_the_least_effort_that_reaches_the_promise_is_chosen(needed: int, found: int) -> None:
    true_BK = np.arange(100)[None]
    effort = [0]

    def search(_: object) -> NDArray[np.int64]:
        return true_BK if effort[0] >= needed else true_BK + 50

    subject = Subject(
        name="made",
        is_peer=True,
        search=search,
        set_to=lambda value: effort.__setitem__(0, value),
        least=10,
        most=90,
        setting="{}",
        build_s=0.0,
        size=0,
    )
    assert bisect(subject, np.zeros((1, 2), np.float32), true_BK)[0] == found
    assert effort == [found]


def test_made_vectors_are_unit_and_near_their_like() -> None:
    rng = np.random.default_rng(0)
    items_ND = clustered(rng, 2_000, 32)
    for rows in (items_ND, like_users(rng, 50, items_ND), like_items(rng, 50, items_ND)):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    products_NN = items_ND @ items_ND.T
    np.fill_diagonal(products_NN, -1.0)
    assert products_NN.max(axis=1).mean() > 0.7  # uniform ones: 0.57
