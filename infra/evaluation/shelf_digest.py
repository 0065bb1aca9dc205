"""By which code a kept answer was found: of another, it is measured again."""

import hashlib
from pathlib import Path
from types import ModuleType


def shelf_digest(*shelves: ModuleType) -> str:
    """Of the modules of these packages and of those in them, and of these modules, 8 hex digits."""
    digest = hashlib.blake2b(digest_size=4)
    for shelf in shelves:
        for module in _modules(shelf):
            digest.update(module.read_bytes())
    return digest.hexdigest()


def _modules(shelf: ModuleType) -> list[Path]:
    if hasattr(shelf, "__path__"):
        return sorted(Path(shelf.__path__[0]).rglob("*.py"))
    assert shelf.__file__ is not None, "a module of ours is a file"
    return [Path(shelf.__file__)]
