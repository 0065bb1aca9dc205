"""By which code a kept answer was found: of another, it is measured again."""

import hashlib
from pathlib import Path
from types import ModuleType


def shelf_digest(*shelves: ModuleType) -> str:
    """Of the modules of these packages and of those in them, 8 hex digits."""
    digest = hashlib.blake2b(digest_size=4)
    for shelf in shelves:
        for module in sorted(Path(shelf.__path__[0]).rglob("*.py")):
            digest.update(module.read_bytes())
    return digest.hexdigest()
