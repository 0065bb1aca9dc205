"""The bench of growth at a small size: what it measures, and what it says of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.bench import sizing
from infra.bench.growth_held import Held, expected, expected_growth, fitted, hold
from infra.bench.growth_plots import plots
from infra.bench.growth_served import Served, served, with_lists
from infra.bench.growth_store import EVENTS_A_USER, ByHistory, ByUsers, by_history, by_users
from infra.bench.growth_tables import (
    TINY,
    calculated,
    floors_table,
    growth_ratios,
    items_table,
    memory_ratios,
    served_ratios,
)
from infra.bench.made_generation import Shape
from sql import quick_snapshot, snapshot


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[Held]:
    """A process with next to nothing, and one with an IVF."""
    return [hold(tmp_path_factory.mktemp(str(items)), items) for items in (TINY, 25_000)]


def test_a_held_generation_is_measured_and_the_formula_says_its_memory(held: list[Held]) -> None:
    tiny, large = held
    assert large.after.mapped > tiny.after.mapped
    # Vectors of texts alone are 38 MB: more than what processes differ by.
    assert large.grown.mapped > 25_000 * 4 * Shape(1).text_dim
    assert large.search_wall_s > 0
    assert expected(large) / large.after.all == pytest.approx(1, abs=0.15)
    own, mapped, second, process = memory_ratios(tiny, [large], fitted([large]))[:4]
    assert second.value == pytest.approx(1, abs=0.15)
    assert own.value == expected_growth(large).private / large.grown.private
    assert own.goal
    assert mapped.value == pytest.approx(1, abs=0.15)
    assert process.value == expected(large) / large.after.all


def test_a_formula_that_forgets_the_texts_is_found_out(
    held: list[Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = sizing.generation_parts

    def without_texts(ask: sizing.Ask) -> dict[str, sizing.Bytes]:
        return {**parts(ask), "texts": sizing.Bytes(0)}

    tiny, large = held
    monkeypatch.setattr(sizing, "generation_parts", without_texts)
    added = sizing.generation_bytes(large.ask).all - sizing.generation_bytes(tiny.ask).all
    assert added < 0.7 * (large.grown.all - tiny.grown.all)


def test_reads_are_measured_by_users_and_by_history() -> None:
    few, more = by_users((20, 60), rounds=3)
    assert (few.users, more.users) == (20, 60)
    assert more.event_bytes > 0
    assert EVENTS_A_USER > 1
    short, long = by_history((5, 200), rounds=5)
    assert (short.events, long.events) == (5, 200)
    measured = (long.tail_read_s, long.tail_fold_s, long.whole_read_s, long.whole_fold_s)
    assert min(measured) > 0


def test_the_reads_of_growth_are_those_of_a_live_generation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick: list[bool] = []

    def spied(*arguments: Any) -> Any:
        found = quick_snapshot.read_quickly(*arguments)
        quick.append(found is not None)
        return found

    monkeypatch.setattr(snapshot, "read_quickly", spied)
    by_users((20,), rounds=2)
    assert quick
    assert all(quick)
    quick.clear()
    by_history((5,), rounds=2)
    assert quick.count(True) == quick.count(False)  # without a session it is not to be had


def test_ratios_and_tables_hold_what_was_measured(held: list[Held]) -> None:
    tiny, large = held
    floors = sizing.Floors(event_bytes=100.0)
    users = [ByUsers(10, 1e-4, 100.0), ByUsers(100, 2e-4, 100.0)]
    histories = [ByHistory(10, 1e-4, 1e-4, 1e-3, 1e-3), ByHistory(100, 1e-4, 3e-4, 2e-3, 9e-3)]
    ratios = {
        ratio.name: ratio.value
        for ratio in growth_ratios([tiny, large], users, {0: 1e-3, 50: 3e-3}, histories)
    }
    assert ratios["search by changes"] == pytest.approx(3)
    assert ratios["read by users"] == pytest.approx(2)
    assert ratios["one more event, by history"] == pytest.approx(2)
    assert items_table(tiny, [large]).rows[1][0] == "25,000"
    # Ten times the items, ten times what they hold, at every size.
    rows = calculated(large.ask, floors).rows
    assert [row[0] for row in rows] == ["10,000", "100,000", "1,000,000", "10,000,000"]
    ten_million, million = (float(row[2].replace(",", "")) for row in (rows[3], rows[2]))
    assert ten_million == pytest.approx(10 * million, rel=0.02)


def test_the_formula_is_held_against_what_serve_measured(tmp_path: Path) -> None:
    assert served(tmp_path / "serve.json") == []
    for found in served():  # of the results that are kept
        assert 1e8 < found.private < 1e11
        assert 1e6 < found.mapped < 1e11
        assert 0 < found.noop_cpu_s < found.list_cpu_s < 1
    ask, floors = sizing.Ask(items=10_000, users=10), sizing.Floors()
    one = sizing.replica_bytes(ask, 1, floors)  # with the sessions of ten users
    own = 2 * one.private
    exact = Served(ask, 2, own, one.mapped / 2, 20, 2 * sizing.size(ask).list_cpu_s, 2e-4)
    memory, pages = served_ratios([exact], floors)
    assert memory.value == pytest.approx(1)
    assert pages.value == pytest.approx(0.5)
    # What all but the search costs is the smallest catalog's; a larger one is held against it.
    found = with_lists(floors, [exact])
    assert sizing.size(ask, found).list_cpu_s == pytest.approx(exact.list_cpu_s)
    assert with_lists(floors, []) == floors
    many = replace(ask, items=1_000_000)
    large = replace(exact, ask=many, list_cpu_s=sizing.size(many, found).list_cpu_s)
    cpu = served_ratios([exact, large], found)[-1]
    assert cpu.value == pytest.approx(1)
    assert cpu.is_reached
    slower = replace(large, list_cpu_s=2 * large.list_cpu_s, noop_cpu_s=4e-4)
    assert served_ratios([exact, slower], found)[-1].value == pytest.approx(1)
    dearer = replace(large, list_cpu_s=1.2 * large.list_cpu_s)
    assert not served_ratios([exact, dearer], found)[-1].is_reached
    caches = floors_table(floors, [exact]).rows[-1][1:]
    assert caches[0] == caches[1]
    more = replace(exact, private=own + 20e6)  # of two gateways
    more_caches = floors_table(floors, [more]).rows[-1][1]
    assert float(more_caches.split()[0]) - float(caches[0].split()[0]) == pytest.approx(10, abs=1)
    assert floors_table(floors, []).rows[-1][1] == ""


def test_plots_are_drawn(held: list[Held], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("infra.bench.growth_plots.PLOTS", tmp_path)
    tiny, large = held
    users = [ByUsers(10, 1e-4, 100.0), ByUsers(100, 2e-4, 100.0)]
    histories = [ByHistory(10, 1e-4, 1e-4, 1e-3, 1e-3), ByHistory(100, 1e-4, 3e-4, 2e-3, 9e-3)]
    names = plots(tiny, [large], {0: 1e-3, 50: 3e-3}, users, histories)
    assert len(names) == 5
    assert all((tmp_path / name).stat().st_size > 5_000 for name in names)
