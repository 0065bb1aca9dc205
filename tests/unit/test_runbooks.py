"""Alerts and runbooks: each has the other, and what a runbook says to type can be typed."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from click import UsageError
from ray.scripts.scripts import cli as ray_cli
from ray.serve.scripts import cli as serve

from dags.night_tasks import HOURS
from infra import runbooks
from infra.cli.main import app
from infra.doctor import artefacts, day, store
from infra.drills.faults import FAULTS, runbook_of
from infra.prometheus import PROXY_METRICS
from infra.prometheus.check import RULES, RULES_TESTS
from ray_jobs.nightly import canary, parity
from serve import readings
from serve.metric_names import METRICS, exported_names
from tests.unit.test_grafana import labels_of

ROOT = Path(__file__).parents[2]
NAMES = runbooks.names()
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    assert ALERTS.keys() == set(NAMES)
    for name, alert in ALERTS.items():
        assert alert["annotations"]["runbook_url"] == runbooks.read(name).path
        assert (ROOT / alert["annotations"]["runbook_url"]).is_file()
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["summary"].endswith(".")


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tests = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES_TESTS}
    fired = {
        rule["alertname"]
        for of_file in tests.values()
        for test in of_file["tests"]
        for rule in test["alert_rule_test"]
        if rule.get("exp_alerts")
    }
    (when_well,) = tests["rules_test.yaml"]["tests"]
    asked_when_well = {rule["alertname"] for rule in when_well["alert_rule_test"]}
    assert fired == asked_when_well == ALERTS.keys()


def test_every_metric_of_the_rules_is_one_that_replicas_or_haproxy_tell() -> None:
    used = set(re.findall(r"\b(?:ray_\w+|haproxy_\w+|up(?={))", RULES.read_text(encoding="utf-8")))
    assert used >= {"up", "ray_moonlark_database_up"}
    assert used <= exported_names() | PROXY_METRICS.keys()


def test_rules_ask_for_labels_and_values_that_are_told() -> None:
    told = {
        "why": {*readings.WHY_FAILED.values(), "step", readings.AFTER_PUBLISH},
        "role": set(readings.ROLES),
        "holds": set(readings.HOLDS),
        "set_by": set(readings.HOLDERS),
    }
    asked = re.findall(r"\b(\w+){([^}]+)}", RULES.read_text(encoding="utf-8"))
    assert len(asked) > len(told)
    for metric, matchers in asked:
        for label, value in re.findall(r'(\w+)[=!]~?"([^"]*)"', matchers):
            assert label in labels_of(metric), metric
            assert set(value.split("|")) <= told.get(label, {*value.split("|")}), metric


def test_labels_of_metrics_are_few_and_of_nobody() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert labels == {"route", "method", "status", "reason", "outcome", "holds", "role", "of",
                      "why", "step", "set_by", "check"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_has_its_sections_and_its_commands_exist(name: str) -> None:
    runbook = runbooks.read(name)
    assert all(text.strip() for text in runbook.sections.values())
    assert runbook.commands("Diagnosis")
    assert runbook.commands("Mitigation")
    inline = re.findall(
        r"`((?:moonlark|ray|serve|python) [^`]+)`", "\n".join(runbook.sections.values())
    )
    for line in [*runbook.commands("Diagnosis"), *runbook.commands("Mitigation"), *inline]:
        check_command(line)


RAYS = {"ray": ray_cli, "serve": serve}
TOOLS = {"curl", "df", "psql", "systemctl"}
"""Programs of runbooks that are not ours to look into."""


def check_command(line: str) -> None:
    """Raises AssertionError, KeyError or click's UsageError where it cannot be typed."""
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    if words[0] == "timeout":
        assert float(words[1]) > 0, line
        del words[:2]
    program, *arguments = words
    if program == "moonlark":
        _parses(arguments)
    elif program in RAYS:
        RAYS[program].commands[arguments[0]].make_context(arguments[0], arguments[1:])
    elif program == "python":
        assert arguments[0] == "-m", line
        assert importlib.util.find_spec(arguments[1]) is not None, line
    else:
        assert program in TOOLS, line


@pytest.mark.parametrize(
    "line",
    [
        "moonlark nigth",
        "moonlark rollback --whi x",
        "serve runn serve.app:build",
        "serve run --non-blokking serve.app:build",
        "timeout 30 serve statsu",
        "ray kill-actor --forse --name SERVE_CONTROLLER_ACTOR",
        "MOONLARK_KEEP_GENERATIONS=2 python -m ray_jobs.nightly.prun",
        "python ray_jobs/nightly/prune.py",
        "pqsl -c 'SELECT 1'",
    ],
)
def test_a_command_with_a_typo_is_found(line: str) -> None:
    with pytest.raises((AssertionError, KeyError, UsageError)):
        check_command(line)


def _parses(arguments: list[str]) -> None:
    """As the command line itself would: a command or an option that does not exist raises."""
    found = typer.main.get_command(app)
    if found.name == arguments[0]:
        return
    command = found.commands[arguments[0]]  # type: ignore[attr-defined]
    real = command.resolve()
    options = {name for parameter in real.params for name in parameter.opts}
    if hasattr(real, "commands"):
        assert arguments[1] in real.commands, arguments
        parameters = real.commands[arguments[1]].params
        options = {name for parameter in parameters for name in parameter.opts}
    for argument in arguments:
        assert not argument.startswith("-") or argument in options, (arguments, sorted(options))
    is_told_apart = any(argument.startswith("-") for argument in arguments) or not real.params
    if is_told_apart and not hasattr(real, "commands"):
        real.make_context(arguments[0], arguments[1:], resilient_parsing=False)


def test_the_page_of_runbooks_says_which_are_tried_on_a_stack() -> None:
    page = (runbooks.FOLDER / "README.md").read_text(encoding="utf-8")
    tried = dict(re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \| (yes|no)", page, re.M))
    assert tried.keys() == set(NAMES)
    assert {name for name, is_tried in tried.items() if is_tried == "yes"} == {
        runbook_of(name) for name in FAULTS
    }


def test_the_doctor_and_the_alerts_have_the_same_limits() -> None:
    def says(name: str, limit: str) -> bool:
        return limit in ALERTS[name]["expr"]

    assert store.MAX_DIFF == parity.MAX_DIFF
    assert store.MIN_COSINE == canary.MIN_COSINE
    assert says("ParityBroken", f"> {store.MAX_DIFF:.0e}".replace("e-05", "e-5"))
    assert says("ParityBroken", f"< {store.MIN_COSINE}")
    assert says("IndexRecallLow", f"< {store.MIN_RECALL}")
    assert says("GenerationOld", f"> {store.MAX_AGE_MS // 3_600_000} * 3600")
    quiet_min = store.MAX_QUIET_MS // 60_000
    assert says("EventsStopped", "> 3600\n")
    assert ALERTS["EventsStopped"]["for"] == f"{quiet_min - 60}m"
    assert says("LiveBroken", f"> {store.MAX_UNVERIFIED_MS // 3_600_000} * 3600")
    assert says("NightStuck", f"> {store.MAX_SILENT_MS // 3_600_000} * 3600")
    assert says("ErasureOpen", f"> {store.MAX_OPEN_MS // 3_600_000} * 3600")
    assert 3_600_000 * max(HOURS.values()) <= store.MAX_SILENT_MS, "a step may take so long"
    assert says("DiskAlmostFull", f"< {artefacts.MIN_FREE_SHARE}")
    assert says("CatalogBehind", f"> {day.MAX_BEHIND_MS // 1_000}\n")
    assert says("AccuracyDropped", f"< {store.MIN_NDCG_SHARE} * max(")
    assert says("AccuracyDropped", f"[{store.WEEK_MS // 86_400_000}d]")
    assert says("DeltaLarge", f"> {day.MAX_DELTA_SHARE}")
