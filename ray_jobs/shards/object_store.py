"""An object store as a place for files: put, get, list, delete, over any file system of pyarrow.

    MOONLARK_ARTIFACT_URI     s3://bucket/prefix?region=eu-central-1
                              s3://bucket/prefix?endpoint_override=host:9000&scheme=http
                              gs://bucket/prefix, file:///mnt/store

Nothing is read from it in place: what is wanted is copied to a folder (`carry`). An object appears
whole or not at all. Retries and timeouts are those of the store's client in pyarrow (S3: three
tries). Credentials come from where that client looks for them (environment, profile, the machine's
role), never from the URI, which would be in logs and in the settings of jobs.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from ray_jobs.shards.atomic import TEMPORARY_PREFIX, whole_file
from ray_jobs.shards.errors import BadStoreUri, DamagedObject, MissingObject, StoreAway
from ray_jobs.shards.manifest import FileEntry, Progress

CHUNK_BYTES = 8 << 20
"""Read and sent at a time: one ranged read of S3, and nearly one part of an upload."""

FLUSH_BYTES = 64 << 20
"""Sent before what is under way is waited for: pyarrow uploads parts beside the writer and holds
all of them in memory, however slow the store is."""


@dataclass(frozen=True)
class ObjectStore:
    """Objects by name below one URI. It may be pickled and used from many threads."""

    uri: str = field(repr=False)

    @classmethod
    def open(cls, uri: str | None) -> ObjectStore | None:
        """Of that URI; None where there is none. Asks nothing of the store yet.

        Raises:
            BadStoreUri: pyarrow knows no such file system, or there are credentials in it.
        """
        if uri is None:
            return None
        _opened(uri)
        return cls(uri)

    def place(self, name: str) -> str:
        """How an object is named to people: without what stands after the path of the URI."""
        return f"{shown(self.uri)}/{name}"

    def put(self, source: Path, name: str, progress: Progress | None = None) -> FileEntry:
        """Copy a file there; returns the digest and the size of what was sent.

        Where the file cannot be read to its end the object may be short: an object counts only by
        a list that was written after it, with its digest.

        Raises:
            StoreAway: the store did not take it.
        """
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as file, self._writing(name) as stream:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                with self._named(name):
                    stream.write(chunk)
                    if size % FLUSH_BYTES < CHUNK_BYTES:
                        stream.flush()
                if progress is not None:
                    progress(len(chunk))
        return FileEntry(sha256=digest.hexdigest(), size=size)

    def put_bytes(self, content: bytes, name: str) -> None:
        """A small object. Raises StoreAway."""
        with self._writing(name) as stream, self._named(name):
            stream.write(content)

    def get(
        self, name: str, target: Path, expected: FileEntry, progress: Progress | None = None
    ) -> None:
        """Copy an object to `target`, which appears whole, as expected, or not at all.

        Raises:
            MissingObject, DamagedObject: it is not there, or is not what was put.
            StoreAway: the store does not answer.
        """
        digest, size = hashlib.sha256(), 0
        with whole_file(target) as temporary, temporary.open("wb") as file:
            for chunk in self._chunks(name):
                digest.update(chunk)
                size += len(chunk)
                if size > expected.size:
                    break
                file.write(chunk)
                if progress is not None:
                    progress(len(chunk))
            found = FileEntry(sha256=digest.hexdigest(), size=size)
            if found != expected:
                raise DamagedObject(self.place(name), expected=_said(expected), actual=_said(found))

    def copy(self, name: str, target: Path) -> None:
        """Copy an object to `target` as it is, whatever it is. Raises MissingObject, StoreAway."""
        with target.open("wb") as file:
            file.writelines(self._chunks(name))

    def get_bytes(self, name: str, most: int) -> bytes:
        """A small object. Raises MissingObject, StoreAway, DamagedObject beyond `most` bytes."""
        content = b""
        for chunk in self._chunks(name):
            content += chunk
            if len(content) > most:
                raise DamagedObject(
                    self.place(name), expected=f"at most {most} bytes", actual="more"
                )
        return content

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes by name of all objects below a prefix; "": of all. Raises StoreAway."""
        filesystem, root = _opened(self.uri)
        below = f"{root}/{prefix}".rstrip("/")
        chosen = fs.FileSelector(below, allow_not_found=True, recursive=True)
        with self._named(prefix):
            infos = filesystem.get_file_info(chosen)
        return {
            info.path.removeprefix(f"{root}/"): info.size
            for info in infos
            if info.type is fs.FileType.File and not info.base_name.startswith(TEMPORARY_PREFIX)
        }

    def folders(self, prefix: str) -> list[str]:
        """The names that follow `prefix`/, up to the next slash. Raises StoreAway."""
        filesystem, root = _opened(self.uri)
        chosen = fs.FileSelector(f"{root}/{prefix}", allow_not_found=True)
        with self._named(prefix):
            infos = filesystem.get_file_info(chosen)
        return sorted(info.base_name for info in infos if info.type is fs.FileType.Directory)

    def delete(self, name: str) -> None:
        """Delete an object, or do nothing where there is none. Raises StoreAway."""
        filesystem, root = _opened(self.uri)
        try:
            with self._named(name):
                filesystem.delete_file(f"{root}/{name}")
        except MissingObject:
            return

    def delete_folder(self, prefix: str) -> None:
        """Delete every object below a prefix, if there is one. Raises StoreAway."""
        filesystem, root = _opened(self.uri)
        try:
            with self._named(prefix):
                filesystem.delete_dir(f"{root}/{prefix}")
        except MissingObject:
            return

    def _chunks(self, name: str) -> Iterator[bytes]:
        filesystem, root = _opened(self.uri)
        with self._named(name):
            stream = filesystem.open_input_stream(f"{root}/{name}", compression=None)
        with stream:
            while True:
                with self._named(name):
                    chunk = stream.read(CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    @contextmanager
    def _writing(self, name: str) -> Iterator[Any]:
        """A stream to a new object. In a folder, where no put is atomic, it gets its name last."""
        filesystem, root = _opened(self.uri)
        path = target = f"{root}/{name}"
        with self._named(name):
            if isinstance(filesystem, fs.LocalFileSystem):
                folder, _, base = path.rpartition("/")
                filesystem.create_dir(folder)
                target = f"{folder}/{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{base}"
            stream = filesystem.open_output_stream(target, compression=None)
        try:
            yield stream
        finally:
            with self._named(name):
                stream.close()
        if target != path:
            with self._named(name):
                filesystem.move(target, path)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """What pyarrow raises becomes an error that says which object."""
        try:
            yield
        except FileNotFoundError as error:
            raise MissingObject(self.place(name)) from error
        except (OSError, pa.ArrowException) as error:
            raise StoreAway(self.place(name), str(error)) from error


def shown(uri: str) -> str:
    """A URI without user, password and query: what may stand in a log."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "MOONLARK_ARTIFACT_URI"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


@lru_cache(maxsize=16)
def _opened(uri: str) -> tuple[Any, str]:
    """The file system and the path in it. Opening one starts a client: once a process."""
    if "@" in urlsplit(uri).netloc:
        raise BadStoreUri(shown(uri), "there are credentials in it")
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException, ValueError):
        # `from None`: pyarrow's own words have the whole URI.
        raise BadStoreUri(shown(uri), "pyarrow.fs opens no such URI") from None
    return filesystem, path.rstrip("/")


def _said(entry: FileEntry) -> str:
    return f"sha256 {entry.sha256} ({entry.size} bytes)"
