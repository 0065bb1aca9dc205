"""The tests of the alerts can fail: each small mistake in a rule turns one of them red.

A mutant is a rule with one thing changed: a label that it asks for is dropped, a side of its `or`
too, max is min, a limit, a window or its `for:` is another. promtool runs the tests of that alert
on each; one that stays green survives, and must be one of EQUIVALENT.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.prometheus.check import RULES, RULES_TESTS, promtool

Rule = dict[str, Any]
RULES_OF = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
TESTS = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES_TESTS]
FACTOR = 1.1
"""A limit that is so far off is noticed."""
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OTHERS = {"max": ("min",), "min": ("max",), "sum": ("max", "min")}
NEVER_NEGATIVE = "a sum of rates, none of them negative, is above 0 where the largest is"
EQUIVALENT = {
    ("EventsNotStored", "max for sum"): NEVER_NEGATIVE,
    ("ShardGone", "max for sum"): NEVER_NEGATIVE,
    ("EncoderGone", "max for sum"): NEVER_NEGATIVE,
    ("WriteBehindDropping", "max for sum"): NEVER_NEGATIVE,
}
"""Mutants that mean the same as the rule, and why."""


@pytest.mark.skipif(promtool() is None, reason="no promtool (Debian: apt-get install prometheus)")
@pytest.mark.parametrize("name", RULES_OF)
def test_a_rule_with_a_mistake_fails_its_tests(name: str, tmp_path: Path) -> None:
    rule = RULES_OF[name]
    mutants = dict(mutants_of(rule))
    green = green_of(name, {"": rule, **mutants}, tmp_path)
    assert "" in green, "the rule itself"
    assert green - {""} == {what for alert, what in EQUIVALENT if alert == name}


def test_mutants_are_of_each_kind_and_differ_from_the_rule_in_one_thing() -> None:
    rule = {
        "expr": '(max(a{b=~"c|d", e="f"}) > 0 or sum(rate(g[2m])) < 0.95) unless on () h == 2',
        "for": "1m",
    }
    assert [what for what, _ in mutants_of(rule)] == [
        'no b=~"c|d"', 'b=~"d"', 'b=~"c"', 'no e="f"', "min for max", "max for sum", "min for sum",
        "[60s] in place of [2m]", "[240s] in place of [2m]", "-1 in place of 0", "1 in place of 0",
        "0.945 in place of 0.95", "0.9545454545 in place of 0.95", "2.2 in place of 2",
        "1.818181818 in place of 2", "only what is before or", "only what is after or",
        "only what is before unless", "only what is after unless", "for: 0s", "for: 30s",
        "for: 120s",
    ]  # fmt: skip


def mutants_of(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """Each with what was done to it; where that was done in two places, they are numbered."""
    seen: dict[str, int] = {}
    for what, expr in expressions_of(rule["expr"].strip()):
        seen[what] = seen.get(what, 0) + 1
        yield what if seen[what] == 1 else f"{what}, {seen[what]}", {**rule, "expr": expr}
    for for_s in (0.0, *(factor * seconds(rule["for"]) for factor in (0.5, 2.0))):
        yield f"for: {for_s:g}s", {**rule, "for": f"{for_s:g}s"}


def expressions_of(expr: str) -> Iterator[tuple[str, str]]:
    for found in re.finditer(r'\w+(=~|!=|=)"([^"]*)"(, )?', expr):
        matcher = found[0].removesuffix(", ")
        yield f"no {matcher}", put(expr, found, "")
        for pattern in patterns_of(found[2]) if found[1] == "=~" else ():
            other = matcher.replace(f'"{found[2]}"', f'"{pattern}"')
            yield other, put(expr, found, other + (found[3] or ""))
    for found in re.finditer(r"\b(max|min|sum)(?=_over_time|\b)", expr):
        for other in OTHERS[found[0]]:
            yield f"{other} for {found[0]}", put(expr, found, other)
    for found in re.finditer(r"\[(\w+)\]", expr):
        for window_s in (seconds(found[1]) // 2, seconds(found[1]) * 2):
            yield f"[{window_s}s] in place of {found[0]}", put(expr, found, f"[{window_s}s]")
    for found in re.finditer(r'"[^"]*"|\[\w+\]|(?<![\w.])(\d[\d.]*(?:e-?\d+)?)', expr):
        for number in numbers_of(float(found[1])) if found[1] else ():
            yield f"{number} in place of {found[1]}", put(expr, found, number)
    for found in re.finditer(r"\b(or|unless)\b(?: on \(\))?", expr):
        begin, end = clause(expr, found.start())
        before, after = expr[begin : found.start()], expr[found.end() : end]
        yield f"only what is before {found[1]}", expr[:begin] + before + expr[end:]
        yield f"only what is after {found[1]}", expr[:begin] + after + expr[end:]


def put(expr: str, found: re.Match[str], other: str) -> str:
    """The expression with something else in the place of what was found."""
    return expr[: found.start()] + other + expr[found.end() :]


def patterns_of(pattern: str) -> Iterator[str]:
    """Without each of its alternatives, with a digit for what stands for anything, and with what
    may be there always or never there."""
    words = pattern.split("|")
    if len(words) > 1:
        for word in words:
            yield "|".join(other for other in words if other != word)
    if "." in pattern:
        yield re.sub(r"\.[+*]?", "0", pattern)
    if ")?" in pattern:
        yield pattern.replace(")?", ")")
        yield re.sub(r"\(.*\)\?", "", pattern)


def numbers_of(number: float) -> Iterator[str]:
    """A little more and less; of what is almost 1, by how much that is short of it."""
    if number == 0:
        yield from ("-1", "1")
        return
    for factor in (FACTOR, 1 / FACTOR):
        other = 1 - (1 - number) * factor if 0.9 <= number < 1 else number * factor
        yield f"{other:.10g}"


def seconds(duration: str) -> int:
    """Of "5m", as Prometheus writes it."""
    return int(duration[:-1]) * SECONDS[duration[-1]]


def clause(expr: str, at: int) -> tuple[int, int]:
    """Where the parentheses around a place open and close; all of it, where there are none."""
    opened = [-1]
    for n, char in enumerate(expr[:at]):
        if char == "(":
            opened.append(n)
        elif char == ")":
            opened.pop()
    depth, end = 1, at
    while depth := depth + {"(": 1, ")": -1}.get((expr + ")")[end], 0):
        end += 1
    return opened[-1] + 1, end


def green_of(alert: str, rules: dict[str, Rule], folder: Path) -> set[str]:
    """Those of the rules, the alert's own and mutants, on which its tests pass."""
    green = set(rules)
    for tests in looks_at(alert):  # the next file sees what is still green
        paths = {str(folder / f"test{n}.yaml"): what for n, what in enumerate(sorted(green))}
        for path, what in paths.items():
            rule_path = Path(path).with_suffix(".rules")
            whole = {"groups": [{"name": "one", "rules": [rules[what]]}]}
            rule_path.write_text(json.dumps(whole), encoding="utf-8")
            own = {**tests, "rule_files": [rule_path.name]}
            Path(path).write_text(json.dumps(own), encoding="utf-8")
        verdicts = verdicts_on(list(paths))
        for path, what in paths.items():
            if verdicts[path] != "SUCCESS":
                assert "got:[" in verdicts[path], (what, verdicts[path])
                green.remove(what)
    return green


def verdicts_on(paths: list[str]) -> dict[str, str]:
    """What one promtool says of each file of tests."""
    done = subprocess.run(
        [str(promtool()), "test", "rules", *paths],
        env={**os.environ, "GOMAXPROCS": "1"},  # its collector's threads cost a third more
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    _, *told = re.split(r"^Unit Testing: +", done.stdout, flags=re.M)
    verdicts = {path: verdict.strip() for path, verdict in (one.split("\n", 1) for one in told)}
    assert verdicts.keys() == set(paths), done.stdout
    return verdicts


def looks_at(alert: str) -> Iterator[dict[str, Any]]:
    """Of each file of tests what looks at the alert, with the series that it reads."""
    read = set(re.findall(r"\b(?:ray_\w+|haproxy_\w+|up(?={))", RULES_OF[alert]["expr"]))
    for whole in reversed(TESTS):  # the healthy time is the longest, and the first
        tests = []
        for test in whole["tests"]:
            looks = [look for look in test["alert_rule_test"] if look["alertname"] == alert]
            series = [one for one in test["input_series"] if one["series"].split("{")[0] in read]
            if looks:
                tests.append({**test, "alert_rule_test": looks, "input_series": series})
        if tests:
            yield {**whole, "tests": tests}
