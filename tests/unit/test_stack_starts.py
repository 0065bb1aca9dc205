"""Ray gives up a start of its head after half a minute; a busy machine may take longer."""

from pathlib import Path

import pytest

from infra.stack.errors import StackStartFailed
from infra.stack.ray_cluster import HEAD_STARTS, LocalRay


class Slow(LocalRay):
    """Ray that gives up a number of starts."""

    def __init__(self, folder: Path, gives_up: int) -> None:
        super().__init__(folder, http_port=0)
        self.gives_up, self.starts = gives_up, 0

    def _start(self) -> None:
        self.starts += 1
        if self.starts <= self.gives_up:
            raise StackStartFailed("timed out during startup", hint="wait")


@pytest.mark.parametrize("gives_up", range(HEAD_STARTS))
def test_a_head_that_ray_gave_up_is_started_again(gives_up: int, tmp_path: Path) -> None:
    head = Slow(tmp_path, gives_up).start()
    assert head.starts == gives_up + 1


def test_a_head_that_never_starts_is_told(tmp_path: Path) -> None:
    head = Slow(tmp_path, HEAD_STARTS)
    with pytest.raises(StackStartFailed, match="timed out"):
        head.start()
    assert head.starts == HEAD_STARTS
