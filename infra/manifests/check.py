"""Kubernetes resources, KubeRay's and Serve's configs against their schemas; no cluster is asked.

    python -m infra.manifests.check

Compose, YAML and Dockerfiles have checkers of their own (`make check`); what the files must say
alike is in tests/unit/test_manifests.py.
"""

import sys
from collections.abc import Mapping
from typing import Any

import kubernetes_validate
import yaml
from pydantic import ValidationError

from infra.manifests.files import SERVE, documents, pod_templates, resources
from infra.manifests.kuberay import KINDS
from infra.manifests.serve_config import check_serve_config

KUBERNETES_VERSION = "1.34"


def check_resource(document: Mapping[str, Any]) -> None:
    """Raises ValueError: a key or a value that the resource's schema does not have."""
    model = KINDS.get(str(document.get("kind")))
    try:
        if model is None:
            _check_builtin(document)
            return
        model.model_validate(document)
        for template in pod_templates(document):
            _check_builtin(
                {
                    "apiVersion": "v1",
                    "kind": "PodTemplate",
                    "metadata": {"name": "of-a-ray-group"},
                    "template": template,
                }
            )
        if model is KINDS["RayService"]:
            check_serve_config(yaml.safe_load(document["spec"]["serveConfigV2"]))
    except ValidationError as error:
        raise ValueError(str(error)) from error


def _check_builtin(document: Mapping[str, Any]) -> None:
    try:
        kubernetes_validate.validate(dict(document), KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(f"{'.'.join(map(str, error.path))}: {error.message}") from error
    except kubernetes_validate.SchemaNotFoundError as error:
        raise ValueError(f"no such kind: {document.get('kind')}") from error


def main() -> int:
    """Print what is wrong; how many files or resources are."""
    wrong = 0
    checked = 0
    for path, document in resources():
        checked += 1
        try:
            check_resource(document)
        except ValueError as error:
            wrong += 1
            name = document.get("metadata", {}).get("name", "")
            print(f"{path.name} {document.get('kind')} {name}: {error}", file=sys.stderr)
    try:
        check_serve_config(documents(SERVE)[0])
    except ValueError as error:
        wrong += 1
        print(f"{SERVE.name}: {error}", file=sys.stderr)
    print(f"manifests: {checked} resources and serve.yaml checked, {wrong} wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    raise SystemExit(main())
