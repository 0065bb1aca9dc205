"""A real S3-compatible server (moto's), in a process of its own on the loopback, for one test.

Its process ends when this one does, and can be killed before: then the store is away.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from pyarrow import fs

BUCKET = "moonlark"

# What pyarrow's client looks for; it must not ask the machine's metadata service, which is absent.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "of-the-test",
    "AWS_SECRET_ACCESS_KEY": "of-the-test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class S3Server:
    """A running server with an empty bucket."""

    process: "subprocess.Popen[str]"
    port: int

    def uri(self, prefix: str) -> str:
        """Of a prefix in the bucket, as MOONLARK_ARTIFACT_URI."""
        return (
            f"s3://{BUCKET}/{prefix}?endpoint_override=127.0.0.1:{self.port}"
            "&scheme=http&region=us-east-1"
        )

    def kill(self) -> None:
        """From now on the store is away."""
        self.process.kill()
        self.process.wait()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server of its own, and the credentials in the environment."""
    command = [sys.executable, "-m", __name__]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        server = S3Server(process, int(process.stdout.readline()))
        with mock.patch.dict(os.environ, CREDENTIALS):
            client, _ = fs.FileSystem.from_uri(server.uri("") + "&allow_bucket_creation=true")
            client.create_dir(BUCKET)
            yield server
    finally:
        process.kill()
        process.communicate()


def _serve() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()  # until whoever started us is gone


if __name__ == "__main__":
    _serve()
