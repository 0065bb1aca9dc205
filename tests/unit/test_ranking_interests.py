"""The words for what a user likes: rare in the catalog, frequent among the nearest items."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.ranking.interests import MOST, TermShares, interests_of, terms_of
from ray_jobs.shards.items import Item, ItemTable


@pytest.mark.parametrize(
    ("title", "terms"),
    [
        ("The Good, the Bad and the Ugly (1966)", {"the", "good", "bad", "and", "ugly"}),
        ("ÉTÉ d'été 2 x", {"été", "d'été"}),
        ("三体 II 黑暗森林", {"三体", "ii", "黑暗", "暗森", "森林"}),
        ("猫", {"猫"}),
        ("ノルウェイの森", {"ノル", "ルウ", "ウェ", "ェイ", "イの", "の森"}),
        ("हिन्दी फिल्म", {"हिन्दी", "फिल्म"}),
        ("தமிழ் படம்", {"தமிழ்", "படம்"}),
        ("مَدْرَسَة", {"مَدْرَسَة"}),
        ("cafe\u0301 ｶﾀｶﾅ", {"café", "ｶﾀ", "ﾀｶ", "ｶﾅ"}),
        ("ดีใจ", {"ดีใ", "ใจ"}),
        ("1984 - 42", set()),
        ("", set()),
    ],
)
def test_terms_of_titles_in_several_writings(title: str, terms: set[str]) -> None:
    assert terms_of(title) == terms


def test_what_is_rare_in_the_catalog_and_frequent_among_the_nearest_comes_first() -> None:
    catalog = TermShares.of(["the garden"] * 60 + ["the star war"] * 10 + ["the pasta"] * 30)
    near = ["the star war", "the star trek", "the star", "the garden", "the garden"]
    found = interests_of(near, ["film", "film", "film", None, "book"], catalog)
    assert found.categories == [("film", 0.6), ("book", 0.2)]
    assert [term for term, _ in found.terms] == ["star", "garden"]  # "war", "trek": one title each
    assert found.terms[0][1] == pytest.approx(3 / 5 * np.log(101 / 11))


@given(st.lists(st.text(max_size=30), max_size=30), st.lists(st.text(max_size=30), max_size=30))
def test_any_titles_give_at_most_ten_weights_that_fall(near: list[str], all_: list[str]) -> None:
    found = interests_of(near, [None] * len(near), TermShares.of(all_))
    weights = [weight for _, weight in found.terms]
    assert len(weights) <= MOST
    assert all(a >= b > 0 for a, b in pairwise(weights))
    assert found.categories == []


def test_the_sample_of_titles_is_even_and_bounded() -> None:
    table = ItemTable.of(
        [Item(o, f"i{o}", f"title {o}", None, "{}", None, f"{o}") for o in range(100)]
    )
    assert table.titles(1_000) == [f"title {o}" for o in range(100)]
    assert table.titles(4) == ["title 0", "title 33", "title 66", "title 99"]
    assert ItemTable.of().titles(4) == []
