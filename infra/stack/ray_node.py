"""`ray start` of a node beside the head, on the loopback: run by `LocalRay.add_node`.

Ray keeps a cluster on the loopback only where it takes the machine for a Mac, and there it refuses
a second node (scripts.py, `ENABLE_RAY_CLUSTER`); elsewhere it turns 127.0.0.1 into the outward
address (services.py, `resolve_ip_for_localhost`). Both are undone here, for this process; what it
starts reads the environment, in which the cluster stays on the loopback.
"""

from ray._private import ray_constants, services
from ray.scripts import scripts

if __name__ == "__main__":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.resolve_ip_for_localhost = lambda host: host
    scripts.main()  # type: ignore[no-untyped-call]
