"""The reference in a browser: whole without internet, and open where keys are on."""

import re
from urllib.parse import urlsplit

import pytest

from sql.keys import make_key, new_secret
from tests.integration.http.conftest import Stack

TAGGED = re.compile(r"""<(?:script|link|img)[^>]*?(?:src|href)=["']([^"']+)["']""")
IMPORTED = re.compile(rb"""@import|url\(["']?https?:""")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
@pytest.mark.parametrize("with_keys", [False, True])
def test_all_that_the_page_loads_is_on_this_host(stack: Stack, path: str, with_keys: bool) -> None:
    replica = stack.replicas[0]
    if with_keys:
        make_key(stack.engine, new_secret(), name="shop", scopes=["admin"], at_ms=1)
        replica.app.state.day.keys.look()
        assert replica.get("/v1/status").status_code == 401
    page = replica.get(path)
    assert page.status_code == 200
    addresses = TAGGED.findall(page.text)
    assert any(address.endswith(".js") for address in addresses)
    for address in addresses:
        assert not urlsplit(address).netloc, address
        answer = replica.get(address)
        assert answer.status_code == 200, address
        assert len(answer.content) > 1_000
        if address.endswith(".css"):
            assert not IMPORTED.search(answer.content)
    assert "/openapi.json" in page.text
    assert replica.get("/openapi.json").status_code == 200


def test_there_is_no_other_file(stack: Stack) -> None:
    for name in ("__init__.py", "..%2Fcore.py"):
        assert stack.replicas[0].get(f"/docs/files/{name}").status_code == 404
