"""What deploys moonlark says the same everywhere, and a slip in it is found without a cluster."""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings
from ray.serve._private.constants import RAY_SERVE_HAPROXY_METRICS_PORT
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import ServeApplicationSchema

from dags.night_tasks import POOL_VARIABLE
from dags.ray_job.hook import JOBS_URL_VARIABLE
from infra.cli.settings import CliSettings
from infra.manifests.check import check_resource, main
from infra.manifests.files import (
    COMPOSE,
    DOCKERFILES,
    INFRA,
    KUBERNETES,
    ROOT,
    SERVE,
    compose,
    documents,
    named_settings,
    pod_templates,
    resource,
    resources,
)
from infra.manifests.serve_config import check_serve_config
from ray_jobs.nightly.settings import NightSettings
from serve.settings import ServeSettings
from sql.settings import RetentionSettings, StoreSettings

SETTINGS: tuple[type[BaseSettings], ...] = (
    StoreSettings,
    RetentionSettings,
    ServeSettings,
    NightSettings,
    CliSettings,
)
LOOPBACK_PORTS = {"8000", "8080", "9090", "3000"}
JOBS_PORT = 8265


def known_settings() -> set[str]:
    found = {JOBS_URL_VARIABLE, POOL_VARIABLE}
    for settings in SETTINGS:
        prefix = str(settings.model_config["env_prefix"])
        found |= {prefix + name.upper() for name in settings.model_fields}
    return found


def test_the_files_pass_their_schemas() -> None:
    assert main() == 0


def test_every_setting_named_exists_in_the_code() -> None:
    named = named_settings()
    assert "MOONLARK_DATABASE_URL" in named
    assert not {name: files for name, files in named.items() if name not in known_settings()}


def test_values_of_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [service.get("environment", {}) for service in compose()["services"].values()]
    places += [document["data"] for _, document in resources() if document["kind"] == "ConfigMap"]
    for variables in places:
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                if name.startswith("MOONLARK_"):
                    patched.setenv(name, str(value))
            for settings in SETTINGS:
                settings()


def _spell_wrong(document: Any, key: str) -> Any:
    """The same with `key` misspelt wherever it stands."""
    if isinstance(document, dict):
        return {
            (f"{name}x" if name == key else name): _spell_wrong(value, key)
            for name, value in document.items()
        }
    if isinstance(document, list):
        return [_spell_wrong(item, key) for item in document]
    return document


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("RayCluster", "authOptions"),
        ("RayCluster", "secretName"),
        ("RayCluster", "runAsNonRoot"),
        ("RayService", "excludeHeadPodFromServeSvc"),
        ("RayService", "replicas"),
        ("RayService", "volumeMounts"),
        ("RayJob", "clusterSelector"),
        ("Job", "backoffLimit"),
    ],
)
def test_a_misspelt_key_of_a_manifest_is_found(kind: str, key: str) -> None:
    right = resource(kind)
    check_resource(right)
    with pytest.raises(ValueError, match=f"{key}x"):
        check_resource(_spell_wrong(right, key))


def _http(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["http_options"]
    return found


def _app(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]
    return found


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (lambda config: config, "proxy_locations"),
        (_http, "hosts"),
        (_app, "route_prefixes"),
        (lambda config: config["logging_config"], "enable_access_logs"),
    ],
)
def test_a_key_that_serve_does_not_know_is_found(
    place: Callable[[dict[str, Any]], dict[str, Any]], key: str
) -> None:
    config = documents(SERVE)[0]
    check_serve_config(config)
    place(config)[key] = "x"
    with pytest.raises(ValueError, match=key):
        check_serve_config(config)


def test_kubernetes_tells_serve_what_compose_tells_it() -> None:
    told = yaml.safe_load(resource("RayService")["spec"]["serveConfigV2"])
    assert told == documents(SERVE)[0]
    assert told["logging_config"]["enable_access_log"] is False


def test_the_runbooks_way_to_replace_the_replicas_changes_what_serve_compares() -> None:
    text = (INFRA / "runbooks" / "README.md").read_text(encoding="utf-8")
    fence = re.search(r"```sh replace\n(.*?)\nserve deploy /tmp/serve.yaml\n```", text, re.S)
    assert fence is not None
    command = (
        fence[1].replace("/etc/moonlark/serve.yaml", str(SERVE)).removesuffix(" > /tmp/serve.yaml")
    )
    told = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout
    changed = yaml.safe_load(told)
    check_serve_config(changed)
    before, after = (
        get_app_code_version(ServeApplicationSchema(**_app(config)))
        for config in (documents(SERVE)[0], changed)
    )
    assert before != after
    del _app(changed)["runtime_env"]
    assert changed == documents(SERVE)[0]


def test_only_what_is_needed_is_published_and_only_on_the_loopback() -> None:
    published = [
        port for service in compose()["services"].values() for port in service.get("ports", [])
    ]
    assert {port.split(":")[0] for port in published} == {"127.0.0.1"}
    assert {port.split(":")[1] for port in published} == LOOPBACK_PORTS
    assert {port.split(":")[2] for port in published} == LOOPBACK_PORTS
    for _, document in resources():
        if document["kind"] == "Service":
            assert document["spec"].get("type", "ClusterIP") == "ClusterIP"


def _reachable(role: str, port: int) -> set[str]:
    """Who may reach `port` of pods with that role, by the ingress rules: roles and namespaces."""
    callers: set[str] = set()
    for _, document in resources():
        if document["kind"] != "NetworkPolicy" or role not in _roles(
            document["spec"]["podSelector"]
        ):
            continue
        for rule in document["spec"].get("ingress", []):
            if any(p["port"] == port for p in rule.get("ports", [{"port": port}])):
                for peer in rule["from"]:
                    callers |= _roles(peer.get("podSelector", {}))
                    callers |= set(
                        peer.get("namespaceSelector", {}).get("matchLabels", {}).values()
                    )
    return callers


def _roles(selector: Mapping[str, Any]) -> set[str]:
    found = set(selector.get("matchLabels", {}).values())
    for expression in selector.get("matchExpressions", []):
        found |= set(expression["values"])
    return found


def test_the_jobs_api_is_reached_by_who_needs_it_alone() -> None:
    assert _reachable("night-head", JOBS_PORT) == {
        *("night-head", "night-worker", "airflow", "submitter", "kuberay-operator", "oncall"),
    }
    assert _reachable("day-head", JOBS_PORT) == {
        *("day-head", "day-worker", "kuberay-operator", "oncall"),
    }
    denied = [d for _, d in resources() if d["metadata"].get("name") == "nothing-by-default"]
    assert denied[0]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_prometheus_reaches_replicas_and_the_proxies_that_clients_reach() -> None:
    day = {"day-head", "day-worker"}
    assert _reachable("day-worker", 8080) == {*day, "monitoring"}
    assert _reachable("day-worker", RAY_SERVE_HAPROXY_METRICS_PORT) == {*day, "monitoring"}
    assert _reachable("day-head", RAY_SERVE_HAPROXY_METRICS_PORT) == day


def test_every_role_that_a_policy_or_budget_names_is_a_pod_s() -> None:
    pods = {
        template["metadata"]["labels"]["moonlark.dev/role"]
        for _, document in resources()
        for template in pod_templates(document)
    }
    named: set[str] = set()
    for _, document in resources():
        if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            text = yaml.safe_dump(document)
            for selector in _selectors(document):
                named |= _roles(selector)
            assert "moonlark.dev/role" in text or document["metadata"]["name"] in (
                *("nothing-by-default", "names"),
            )
    assert named <= pods | {"airflow"}


def _selectors(document: Any) -> Iterator[Mapping[str, Any]]:
    for key, value in document.items() if isinstance(document, dict) else []:
        if key in ("podSelector", "selector"):
            yield value
        yield from _selectors(value)
    for item in document if isinstance(document, list) else []:
        yield from _selectors(item)


def test_a_night_s_head_and_workers_see_one_artifact_root() -> None:
    spec = resource("RayCluster")["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    (root,) = {
        document["data"]["MOONLARK_ARTIFACT_ROOT"]
        for _, document in resources()
        if document["metadata"].get("name") == "moonlark-settings"
    }
    for pod in (group["template"]["spec"] for group in groups):
        (container,) = pod["containers"]
        told = [
            each["configMapRef"]["name"] for each in container["envFrom"] if "configMapRef" in each
        ]
        assert told == ["moonlark-settings"]
        (mount,) = [
            each for each in container["volumeMounts"] if root.startswith(each["mountPath"])
        ]
        (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
        assert volume["persistentVolumeClaim"] == {"claimName": "moonlark-artifacts"}


def test_a_ray_cluster_asks_for_its_token() -> None:
    services = compose()["services"]
    for name in ("ray-head", "ray-worker", "serve", "airflow-scheduler", "airflow-triggerer"):
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert "ray_token" in services[name]["secrets"]


def _literals(document: Any) -> Iterator[tuple[str, str]]:
    for key, value in document.items() if isinstance(document, dict) else []:
        if isinstance(value, str | int):
            yield key, str(value)
        yield from _literals(value)
    for item in document if isinstance(document, list) else []:
        if isinstance(item, dict) and isinstance(item.get("value"), str):
            yield str(item.get("name")), item["value"]
        yield from _literals(item)


def test_no_file_holds_a_secret() -> None:
    for document in [compose(), *(document for _, document in resources())]:
        for name, value in _literals(document):
            if re.search(r"PASSWORD|_TOKEN$|SECRET_KEY|FERNET|JWT_SECRET", name):
                assert "/run/secrets" in value or name.endswith("PASSWORDS_FILE"), name
        assert "://moonlark:" not in str(document)
    assert all(document["kind"] != "Secret" for _, document in resources())


def test_nothing_runs_as_root_or_with_more_than_it_needs() -> None:
    for path in DOCKERFILES:
        users = re.findall(r"^USER (\S+)$", path.read_text(encoding="utf-8"), re.M)
        assert users[-1] == "10001:10001"
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "build" in service or service["user"].split(":")[0] != "0", name
    for _, document in resources():
        for template in pod_templates(document):
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_every_image_is_pinned_and_the_same_everywhere() -> None:
    images = [service["image"] for service in compose()["services"].values()]
    for _, document in resources():
        for template in pod_templates(document):
            images += [container["image"] for container in template["spec"]["containers"]]
    for path in DOCKERFILES:
        images += re.findall(r"^FROM (\S+)", path.read_text(encoding="utf-8"), re.M)
    tags: dict[str, set[str]] = {}
    for image in images:
        name, tag = image.split(":")
        tags.setdefault(name, set()).add(tag)
    assert all(len(found) == 1 and re.search(r"\d+\.\d+", min(found)) for found in tags.values()), (
        tags
    )
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert version is not None
    assert tags["moonlark-ray"] == tags["moonlark-airflow"] == {version[1]}


def test_the_ray_of_the_manifests_is_the_ray_that_is_installed() -> None:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    assert pinned is not None
    assert resource("RayCluster")["spec"]["rayVersion"] == pinned[1]
    assert resource("RayService")["spec"]["rayClusterConfig"]["rayVersion"] == pinned[1]


def test_airflow_gets_no_torch_and_ray_no_airflow() -> None:
    airflow, ray = (path.read_text(encoding="utf-8") for path in DOCKERFILES)
    assert "-c constraints.txt '.[airflow]'" in airflow
    assert "-c constraints.txt '.[ray,cpu]'" in ray


def test_every_path_that_a_file_names_exists() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                path = COMPOSE.parent / source
                assert path.exists(), source
            else:
                assert source in compose()["volumes"]
        assert set(service.get("secrets", [])) <= set(compose()["secrets"])
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    for path in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text("utf-8"), re.M):
            assert all((ROOT / source).exists() for source in sources.split())
    listed = set(documents(KUBERNETES / "kustomization.yaml")[0]["resources"])
    here = {path.name for path in KUBERNETES.glob("*.yaml")}
    by_hand = {"kustomization.yaml", "rayjob.yaml", "object-store.yaml"}
    assert listed == here - by_hand


def test_the_rules_that_compose_s_prometheus_reads_are_mounted_there() -> None:
    (config,) = documents(INFRA / "docker" / "prometheus.yaml")
    mounts = [volume.split(":") for volume in compose()["services"]["prometheus"]["volumes"]]
    folders = {target: COMPOSE.parent / source for source, target, *_ in mounts}
    assert config["rule_files"]
    for named in map(Path, config["rule_files"]):
        assert (folders[str(named.parent)] / named.name).is_file(), named


def test_addresses_name_services_and_ports_that_are_there() -> None:
    services = compose()["services"]
    text = COMPOSE.read_text(encoding="utf-8") + (INFRA / "docker/prometheus.yaml").read_text(
        "utf-8"
    )
    named = set(re.findall(r"\b((?:ray|airflow)-[a-z-]+):(\d+)\b", text))
    assert named == {
        *(("ray-head", "6379"), ("ray-head", "8265"), ("ray-head", "8080")),
        *(("ray-head", "8000"), ("ray-head", "9101")),
        *(("ray-worker", "8080"), ("airflow-api-server", "8080")),
    }
    assert {name for name, _ in named} <= set(services)
    head = " ".join(services["ray-head"]["command"])
    for option in ("--port=6379", "--dashboard-port=8265", "--metrics-export-port=8080"):
        assert option in head
    assert _http(documents(SERVE)[0])["port"] == 8000


def test_the_readme_of_infra_names_every_secret() -> None:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    for name in compose()["secrets"]:
        assert f"`{name}`" in text, name
    named = {
        source["secretName"]
        for _, document in resources()
        for source in _named(document, "secret") + _named(document, "authOptions")
        if isinstance(source, dict)
    }
    named |= {
        ref["name"] for _, document in resources() for ref in _named(document, "secretKeyRef")
    }
    assert len(named) >= 6
    for name in named:
        assert f"`{name}`" in text, name


def test_the_readme_of_infra_names_every_namespace_that_a_policy_opens_to() -> None:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    policies = [document for _, document in resources() if document["kind"] == "NetworkPolicy"]
    selectors = [found for each in policies for found in _named(each, "namespaceSelector")]
    names = {found["matchLabels"]["kubernetes.io/metadata.name"] for found in selectors}
    assert len(names) >= 4
    assert all(f"`{name}`" in text for name in names), names


def _named(document: Any, key: str) -> list[Any]:
    found: list[Any] = []
    for name, value in document.items() if isinstance(document, dict) else []:
        found += [value] if name == key else []
        found += _named(value, key)
    for item in document if isinstance(document, list) else []:
        found += _named(item, key)
    return found
