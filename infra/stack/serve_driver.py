"""The child process that `infra.stack.serve_app` starts: one Serve verb on a running cluster.

RAY_ADDRESS=... python -m infra.stack.serve_driver deploy module:app --http-port 8000
"""

import argparse
import importlib
import json
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve as ray_serve

from infra.stack.ports import LOOPBACK

RAY_SERVE_NAMESPACE = "serve"
NO_ACCESS_LOG = {"enable_access_log": False}
"""Paths name users, and an erasure does not reach logs."""


def _load_app(import_path: str, args: dict[str, Any]) -> ray_serve.Application:
    module_name, separator, attribute = import_path.partition(":")
    if not separator:
        raise ValueError(f"app import path: {import_path!r}, accepted: module:attribute")
    target = getattr(importlib.import_module(module_name), attribute)
    if isinstance(target, ray_serve.Application):
        return target
    app = target(args)
    if not isinstance(app, ray_serve.Application):
        raise ValueError(f"{import_path} gave {type(app).__name__}, accepted: a bound application")
    return app


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.stack.serve_driver", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("deploy")
    verb.add_argument("app", help="module:attribute")
    verb.add_argument("--name", default="moonlark")
    verb.add_argument("--route-prefix", default="/")
    verb.add_argument("--http-port", type=int, required=True)
    verb.add_argument("--args", type=json.loads, default={}, help="JSON object for a builder")
    verb.add_argument("--env", type=json.loads, default={}, help="JSON object for the replicas")
    verbs.add_parser("undeploy")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    # The cluster's address comes from RAY_ADDRESS.
    if options.verb == "undeploy":
        with ray.init(namespace=RAY_SERVE_NAMESPACE):
            ray_serve.shutdown()  # type: ignore[no-untyped-call]
        return
    # Replicas take over the runtime environment of the driver that deploys them.
    runtime_env = {"env_vars": options.env} if options.env else None
    with ray.init(namespace=RAY_SERVE_NAMESPACE, runtime_env=runtime_env):
        app = _load_app(options.app, options.args)  # now: it may ask what the cluster has
        # Without a host, HAProxy mode binds proxies and replicas to all interfaces.
        ray_serve.start(
            http_options={"host": LOOPBACK, "port": options.http_port},
            # The nodes of a machine share the port, so one of them has it.
            proxy_location="HeadOnly",
            logging_config=NO_ACCESS_LOG,
        )
        ray_serve.run(
            app,
            name=options.name,
            route_prefix=options.route_prefix,
            logging_config=NO_ACCESS_LOG,
        )


if __name__ == "__main__":
    main()
