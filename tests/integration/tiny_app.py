"""The smallest app that shows which replica answered, from where and with which environment."""

import os

from fastapi import FastAPI
from ray import serve as ray_serve

api = FastAPI()


@ray_serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
@ray_serve.ingress(api)
class Tiny:
    @api.get("/who")
    def who(self) -> dict[str, str | int | None]:
        return {"pid": os.getpid(), "word": os.environ.get("TINY_WORD")}


app = Tiny.bind()
