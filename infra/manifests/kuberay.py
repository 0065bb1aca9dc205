"""What of KubeRay's resources is used here, with every other key refused.

kubernetes-validate has no custom resources. The names are those of KubeRay 1.6's reference
(https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html); a field that a manifest
begins to use is added here. Pod templates are checked against Kubernetes' own schema.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    """Keys in camel case, none that is not known."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, strict=True)


class Metadata(Strict):
    """Of a custom resource."""

    name: str | None = None
    generate_name: str | None = None
    namespace: Literal["moonlark"]


class AuthOptions(Strict):
    """Whoever speaks to the cluster shows the token of that secret, key `auth_token`."""

    mode: Literal["token"]
    secret_name: str


class SecretKey(Strict):
    """A key of a secret."""

    name: str
    key: str


class SecretSource(Strict):
    """`valueFrom` with a secret."""

    secret_key_ref: SecretKey


class RedisPassword(Strict):
    """Never as a literal."""

    value_from: SecretSource


class GcsFaultTolerance(Strict):
    """What the GCS knows survives its pod."""

    redis_address: str
    redis_password: RedisPassword


class HeadGroup(Strict):
    """The head."""

    service_type: Literal["ClusterIP"]
    ray_start_params: dict[str, str]
    template: dict[str, Any]


class WorkerGroup(Strict):
    """Workers of one kind, as many as `replicas` says.

    `minReplicas` and `maxReplicas` are bounds for Ray's autoscaler, which is not used: it goes by
    what actors ask for, and those of the day ask for a tenth of a CPU however busy they are.
    """

    group_name: str
    replicas: Annotated[int, Field(ge=1)]
    ray_start_params: dict[str, str]
    template: dict[str, Any]


class ClusterSpec(Strict):
    """A Ray cluster: with a token and a GCS that survives, or not at all."""

    ray_version: str
    auth_options: AuthOptions
    gcs_fault_tolerance_options: GcsFaultTolerance
    head_group_spec: HeadGroup
    worker_group_specs: Annotated[list[WorkerGroup], Field(min_length=1)]


class RayCluster(Strict):
    """`kind: RayCluster`."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


class UpgradeStrategy(Strict):
    """How a changed cluster takes over."""

    type: Literal["NewCluster", "None"]


class ServiceSpec(Strict):
    """A cluster, and what Serve runs on it."""

    upgrade_strategy: UpgradeStrategy
    exclude_head_pod_from_serve_svc: bool
    serve_config_v2: Annotated[str, Field(alias="serveConfigV2")]
    ray_cluster_config: ClusterSpec


class RayService(Strict):
    """`kind: RayService`."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: ServiceSpec


class JobSpec(Strict):
    """A job on a cluster that is there."""

    entrypoint: str
    cluster_selector: dict[Literal["ray.io/cluster"], str]
    submission_mode: Literal["K8sJobMode"]
    backoff_limit: Annotated[int, Field(ge=0)]
    active_deadline_seconds: Annotated[int, Field(ge=1)]
    submitter_pod_template: dict[str, Any]


class RayJob(Strict):
    """`kind: RayJob`."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


KINDS: dict[str, type[RayCluster] | type[RayService] | type[RayJob]] = {
    "RayCluster": RayCluster,
    "RayService": RayService,
    "RayJob": RayJob,
}
