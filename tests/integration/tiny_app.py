"""The smallest app that shows which replica answered, from where and with which environment."""

import os

from fastapi import FastAPI, Request
from ray import serve as ray_serve

api = FastAPI()


@ray_serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
@ray_serve.ingress(api)
class Tiny:
    @api.get("/who")
    def who(self) -> dict[str, str | int | None]:
        return {"pid": os.getpid(), "word": os.environ.get("TINY_WORD")}

    @api.get("/seen/{rest:path}")
    def seen(self, request: Request, rest: str) -> dict[str, str]:
        """The path as it arrives behind the proxy."""
        return {"raw_path": request.scope["raw_path"].decode("ascii"), "rest": rest}


app = Tiny.bind()
