"""What a stack leaves on disk is read back as it was, or refused; its ports do not overlap."""

import json
import random
from pathlib import Path

import pytest

from infra.stack.errors import NoFreePorts, StateFileInvalid
from infra.stack.ports import find_free_run
from infra.stack.ray_environment import INGRESS_PORTS, RayPorts, client_environment
from infra.stack.ray_state import RayState, read_state, remove, write_state, write_token

PORTS = RayPorts(**dict(zip(RayPorts.__dataclass_fields__, range(20_000, 20_018), strict=True)))
STATE = RayState("f00d", 4711, 1.5, Path("/tmp/mlk-abc"), PORTS)


def test_the_state_is_read_back_as_it_was(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    assert read_state(tmp_path) == STATE
    remove(tmp_path)
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stack_id": 1}'])
def test_a_state_file_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(StateFileInvalid, match=r"state\.json"):
        read_state(tmp_path)


def test_a_state_file_cannot_make_us_remove_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({**STATE.to_json(), "temp_dir": "/home"}))
    with pytest.raises(StateFileInvalid, match="/home"):
        read_state(tmp_path)


def test_each_token_is_new_and_private(tmp_path: Path) -> None:
    first, second = write_token(tmp_path), write_token(tmp_path)
    assert first != second
    assert len(second) == 64
    assert (tmp_path / "token").read_text() == second
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_no_two_listeners_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.stack.ports.is_free", lambda port: True)
    ports = RayPorts.choose(0)
    single = {name: port for name, port in ports.to_json().items() if "first" not in name}
    ranges = [
        range(first, first + INGRESS_PORTS)
        for first in (ports.ingress_http_first, ports.ingress_grpc_first)
    ]
    every = [*single.values(), *ranges[0], *ranges[1]]
    assert len(set(every)) == len(every)


def test_the_environment_keeps_serve_inside_its_own_ports_and_folder() -> None:
    environment = client_environment(PORTS, STATE.temp_dir, Path("/tmp/token"))
    first = int(environment["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"])
    last = int(environment["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"])
    # Serve takes the last one as excluded (node_port_manager.py).
    assert last - first == INGRESS_PORTS
    paths = [value for name, value in environment.items() if name.endswith(("_PATH", "_LOC"))]
    assert len(paths) >= 5
    assert all(path.startswith("/tmp/mlk-abc/") or path == "/tmp/token" for path in paths)


def test_a_run_with_a_taken_port_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.stack.ports.is_free", lambda port: port % 10 != 0)
    base = find_free_run(9, random.Random(1))
    assert base % 10 == 1
    with pytest.raises(NoFreePorts):
        find_free_run(10, random.Random(1))
