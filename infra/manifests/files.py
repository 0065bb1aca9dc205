"""The files that deploy moonlark, read: compose, Kubernetes, Serve, Dockerfiles."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

INFRA = Path(__file__).parents[1]
ROOT = INFRA.parent
COMPOSE = INFRA / "compose.yaml"
SERVE = INFRA / "serve.yaml"
KUBERNETES = INFRA / "kubernetes"
DOCKERFILES = (INFRA / "docker" / "airflow.Dockerfile", INFRA / "docker" / "ray.Dockerfile")

_SETTING = re.compile(r"\bMOONLARK_[A-Z0-9_]+\b")


def documents(path: Path) -> list[dict[str, Any]]:
    """All documents of a YAML file."""
    return [dict(found) for found in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def compose() -> dict[str, Any]:
    """infra/compose.yaml, its anchors resolved."""
    return documents(COMPOSE)[0]


def resources() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each Kubernetes resource and the file it is in, kustomize's own file left out."""
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from ((path, document) for document in documents(path))


def resource(kind: str) -> dict[str, Any]:
    """The only resource of that kind."""
    (found,) = [document for _, document in resources() if document["kind"] == kind]
    return found


def named_settings() -> dict[str, set[str]]:
    """Each MOONLARK_... variable that any of the files sets, and which files do."""
    found: dict[str, set[str]] = {}
    for path in (COMPOSE, SERVE, *DOCKERFILES, *sorted(KUBERNETES.glob("*.yaml"))):
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        for name in _SETTING.findall(text):
            found.setdefault(name, set()).add(path.name)
    return found


def pod_templates(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every pod template anywhere in a resource: a mapping whose `spec` has containers."""
    spec = document.get("spec")
    if isinstance(spec, Mapping) and "containers" in spec:
        yield dict(document)
    for value in document.values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Mapping):
                yield from pod_templates(inner)
