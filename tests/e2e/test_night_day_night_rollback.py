"""A night, a day, a second night with traffic running, and a rollback: nothing is lost, nobody
notices. Real Ray, Serve, HAProxy, Airflow, FAISS and BERT on a made catalog."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from infra.client import Moonlark
from infra.stack.airflow_env import AirflowEnvironment
from infra.stack.ray_cluster import LocalRay
from infra.stack.serve_app import deploy
from sql.engine import open_engine, read_snapshot
from sql.events import find_user, read_tail
from sql.generations import get_generation

ROOT = Path(__file__).parents[2]
TOPICS = ("space battle", "cooking pasta", "garden flowers", "chess opening")
USERS = 40
ITEMS = 80
CANARY = "canary-7f3a"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalRay, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("e2e")
    settings = {
        "MOONLARK_DATABASE_URL": f"sqlite:///{folder / 'moonlark.db'}",
        "MOONLARK_ARTIFACT_ROOT": str(folder / "artifacts"),
        "MOONLARK_BERT_MODEL": str(ROOT / ".moonlark" / "models" / "all-MiniLM-L6-v2"),
        "MOONLARK_STATE_DIR": str(folder),
        "MOONLARK_TRAIN_RECIPE": "tiny",
    }
    _write_files(folder)
    _moonlark(settings, "init")
    files = ["--items", str(folder / "items.csv"), "--events", str(folder / "events.csv")]
    _moonlark(settings, "ingest", *files)
    with LocalRay(folder, http_port=0, num_cpus=2, cwd=ROOT, extra_env=settings) as cluster:
        yield cluster, settings


def _write_files(folder: Path) -> None:
    items = ["item_id,title,category"]
    items += [f"i{n},{TOPICS[n % 4]} number {n},{TOPICS[n % 4]}" for n in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    events = ["user_id,item_id,kind,occurred_at"]
    events += [
        f"u{user},i{_item_of(user, step)},click,{1_700_000_000 + 60 * (step * USERS + user)}"
        for step in range(12)
        for user in range(USERS)
    ]
    (folder / "events.csv").write_text("\n".join(events) + "\n")


def _item_of(user: int, step: int) -> int:
    """An item of the user's own topic."""
    return (user % 4 + 4 * ((user + step) % (ITEMS // 4))) % ITEMS


def _moonlark(settings: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


class Traffic(threading.Thread):
    """Plain HTTP without retries: every answer that is not 200 counts as a failure."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ended = threading.Event()
        self.failures: list[str] = []
        self.acked: list[int] = []
        self.generations: set[str] = set()
        self.requests = 0

    def run(self) -> None:
        try:
            self._ask()
        except Exception as error:
            self.failures.append(f"the traffic ended: {error!r}")
            raise

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            number = 0
            while not self._ended.is_set():
                number += 1
                event = {"kind": "view", "user_id": "busy", "item_id": f"i{number % ITEMS}"}
                posted = http.post("/v1/events", json={**event, "event_id": f"t{number}"})
                listed = http.get("/v1/users/busy/recommendations", params={"k": 3})
                self.requests += 2
                for answer in (posted, listed):
                    if answer.status_code != 200:
                        self.failures.append(f"{answer.status_code} {answer.text[:200]}")
                if posted.status_code == listed.status_code == 200:
                    self.acked.append(posted.json()["events"][0]["user_seq"])
                    body = listed.json()
                    self.generations.add(body["generation"])
                    if body["user_seq"] != self.acked[-1] or body["degraded"]:
                        self.failures.append(f"acked {self.acked[-1]}, answered {body}")
                time.sleep(0.05)

    def end(self) -> None:
        self._ended.set()
        self.join(timeout=60)


def _live(client: Moonlark) -> str | None:
    live = client.status().live
    return None if live is None else live.generation


def _assert_metrics(cluster: LocalRay, settings: dict[str, str], generation_id: str) -> None:
    """Prometheus is told what the registry says of the live generation, by every replica."""
    with read_snapshot(open_engine(settings["MOONLARK_DATABASE_URL"])) as conn:
        live = get_generation(conn, generation_id)
    assert live is not None
    name = "ray_moonlark_live_generation_ndcg{"
    url = f"http://127.0.0.1:{cluster.state.ports.metrics_export}/metrics"
    deadline = time.monotonic() + 60
    while True:
        text = httpx.get(url, timeout=10).text
        assert CANARY not in text, "metrics name no user"
        lines = text.splitlines()
        told = [line for line in lines if line.startswith(name)]
        values = [float(line.rpartition(" ")[2]) for line in told]
        if len(values) == 2 and values == pytest.approx([live.metrics["ndcg@10"]] * 2):
            break
        assert time.monotonic() < deadline, told or lines[:20]
        time.sleep(1)
    ages = [line for line in lines if line.startswith("ray_moonlark_live_generation_age_seconds{")]
    assert len(ages) == 2


@pytest.mark.timeout(2_400)
def test_a_night_a_day_a_second_night_and_a_rollback_lose_nothing_and_nobody_notices(
    stack: tuple[LocalRay, dict[str, str]],
) -> None:
    cluster, settings = stack
    _moonlark(settings, "night")
    url = deploy(cluster, "serve.app:build", env=settings)
    as_of = datetime(2026, 11, 24, tzinfo=UTC)
    with Moonlark(url, timeout_s=30) as client:
        first = client.recommend("u3", k=10, as_of=as_of)
        first_generation = first.generation
        put = client.put_item("fresh", {"title": "chess opening for night owls"})
        assert client.recommend("u3", k=100).catalog_seq == put.catalog_seq

        client.post_events([{"kind": "view", "user_id": CANARY, "item_id": "i1"}])
        client.recommend(CANARY, k=3)
        traffic = Traffic(url)
        traffic.start()
        night = AirflowEnvironment(Path(settings["MOONLARK_STATE_DIR"])).run_dag(
            "nightly_generation", env={**settings, **cluster.env}, timeout_s=1_500
        )
        assert night.success, night.log_tail()
        second = client.recommend("u3", k=10, as_of=as_of)
        assert second.generation != first_generation
        assert second.catalog_seq == put.catalog_seq

        _moonlark(settings, "rollback", "--why", "e2e")
        deadline = time.monotonic() + 30
        while _live(client) != first_generation:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        traffic.end()

        back = client.recommend("u3", k=10, as_of=as_of)
        _assert_metrics(cluster, settings, first_generation)
    assert back.generation == first_generation
    listed = [(item.item_id, item.score) for item in back.items if item.item_id != "fresh"]
    before = [(item.item_id, item.score) for item in first.items]
    assert len(listed) >= len(before) - 1, "one place may be the new item's"
    assert listed == before[: len(listed)]
    assert traffic.failures == []
    assert traffic.requests > 100
    assert len(traffic.generations) == 2
    assert traffic.acked == list(range(1, len(traffic.acked) + 1))
    with read_snapshot(open_engine(settings["MOONLARK_DATABASE_URL"])) as conn:
        user = find_user(conn, "busy")
        assert user is not None
        stored = read_tail(conn, user.user_key, 0, 100_000)
    assert [event.user_seq for event in stored] == traffic.acked
