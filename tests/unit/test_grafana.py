"""Dashboards ask only for metrics that replicas or HAProxy tell, and for all of the replicas'."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra.prometheus import PROXY_METRICS
from serve.metric_names import METRICS, PREFIX, exported_names

FOLDER = Path(__file__).parents[2] / "infra" / "grafana"
BOARDS = sorted(FOLDER.glob("*.json"))


def expressions(path: Path) -> list[str]:
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_only_for_metrics_and_labels_that_exist(path: Path) -> None:
    asked = expressions(path)
    assert asked
    for expression in asked:
        names = re.findall(r"\b(?:ray_\w+|haproxy_\w+|up(?={))", expression)
        assert names, expression
        assert set(names) <= exported_names() | PROXY_METRICS.keys(), expression
        labels = {"le"} | {label for name in names for label in labels_of(name)}
        by = re.findall(r"by \(([\w, ]+)\)", expression)
        assert {label for group in by for label in group.split(", ")} <= labels, expression
        assert set(re.findall(r"(\w+)=~?\"", expression)) <= labels, expression


def labels_of(exported: str) -> tuple[str, ...]:
    if exported in PROXY_METRICS:
        return PROXY_METRICS[exported]
    stem = re.sub(r"_(bucket|sum|count)$", "", exported.removeprefix(PREFIX))
    return METRICS[stem].labels


def test_every_metric_is_on_a_dashboard() -> None:
    shown = "\n".join(expression for path in BOARDS for expression in expressions(path))
    absent = [name for name in METRICS if f"{PREFIX}{name}" not in shown]
    assert absent == []
