"""Editors' commands, through the client, against the API."""

import json
from collections.abc import Callable

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from infra.cli.main import app
from infra.client import Moonlark, NotFound
from tests.integration.http.conftest import Stack

MODULES = ("pin", "boost", "seen", "unset", "policies")


@pytest.fixture
def moonlark(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command whose client talks to the second replica."""

    def open_api(url: str | None = None) -> Moonlark:
        assert url is None
        return api_of(stack, 1)

    for name in MODULES:
        monkeypatch.setattr(f"infra.cli.{name}.open_api", open_api)

    def run(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == status, result.output
        return result.output

    return run


class Bridge(httpx.BaseTransport):
    """The client's requests, answered by a replica in this process."""

    def __init__(self, replica: TestClient) -> None:
        self._replica = replica

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        answer = self._replica.request(
            request.method, str(request.url), content=content, headers=request.headers
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def api_of(stack: Stack, replica: int) -> Moonlark:
    return Moonlark("http://127.0.0.1", transport=Bridge(stack.replicas[replica]))


def test_what_an_editor_sets_is_shown_in_force_and_taken_back(
    stack: Stack, moonlark: Callable[..., str]
) -> None:
    zone = "2030-01-01T00:00:00+01:00"
    assert "pin:i5: created (policy_seq 1)" in moonlark("pin", "i5", "--from", "2020-01-01T00:00Z")
    moonlark("pin", "i1", "--position", "2", "--category", "pasta", "--to", zone, "--id", "mine")
    moonlark("boost", "--weight", "0.5", "--category", "chess")
    moonlark("boost", "--weight", "-0.25", "--attribute", "n:3")
    moonlark("seen", "--kinds", "purchase", "--buy-again-after", "30")
    moonlark("seen", "pasta", "--kinds", "none")
    shown = moonlark("policies")
    for words in (
        "pin:i5  pin i5 to place 1, from 2020-01-01T00:00:00Z",
        "mine  pin i1 to place 2 of lists of pasta, to 2029-12-31T23:00:00Z",
        "boost category chess by +0.5",
        "boost n = 3 by -0.25",
        "seen in every other category: purchase; bought again after 30 days",
        "seen in pasta: nothing",
        "6 policies (policy_seq 6)",
    ):
        assert words in shown, shown
    document = json.loads(moonlark("policies", "--json"))
    bodies = {answer["policy_id"]: answer["policy"] for answer in document["policies"]}
    assert bodies["boost:attribute:n:3"]["attribute"] == {"name": "n", "value": 3}
    with api_of(stack, 0) as api:
        assert api.recommend("new").items[0].item_id == "i5"
        assert api.policy("mine").policy_seq == 2
        assert "deleted" in moonlark("unset", "pin:i5")
        with pytest.raises(NotFound):
            api.policy("pin:i5")
        assert api.recommend("new").policy_seq == 7
        trends = api.trending(k=3, hours=2, category="pasta")
        assert (trends.items, trends.hours) == ([], 2)
    assert "does not exist" in moonlark("unset", "pin:i5", status=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pin", "i5", "--from", "2020-01-01"], "no time zone"),
        (["pin", "i5", "--to", "soon"], "RFC 3339"),
        (["boost", "--weight", "1"], "accepted: one of"),
        (["boost", "--weight", "1", "--item", "i1", "--category", "c"], "accepted: one of"),
        (["boost", "--weight", "1", "--attribute", "n"], "NAME:VALUE"),
        (["seen", "--kinds", "hide"], "kinds[0]"),
        (["pin", "i5", "--from", "2030-01-01T00:00Z", "--to", "2020-01-01T00:00Z"], "after starts"),
    ],
)
def test_what_an_editor_gets_wrong_is_named(
    moonlark: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in moonlark(*arguments, status=1)
    assert "0 policies" in moonlark("policies")
