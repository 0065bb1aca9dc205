"""`moonlark` on a machine without BERT: the shipped commands, with words in its place.

python -m infra.drills.with_words night [--generation ID]
"""

import sys
from contextlib import ExitStack
from unittest.mock import patch

from infra.cli.main import app
from infra.drills.small_night import Words
from ray_jobs.nightly.settings import NightSettings


def open_words(_: NightSettings) -> Words:
    """In place of `item_bert.open_bert`."""
    return Words()


def need_no_model(*, is_local: bool) -> None:
    """In place of `infra.cli.bert.check_model`."""


IN_PLACE = {
    "infra.cli.bert.check_model": need_no_model,
    "infra.cli.bert.load_encoder": Words,
    "ray_jobs.nightly.embed.open_bert": open_words,
    "ray_jobs.nightly.parity.open_bert": open_words,
}


def main() -> None:
    """As `moonlark` does, with the same words behind it."""
    with ExitStack() as patches:
        for name, stand_in in IN_PLACE.items():
            patches.enter_context(patch(name, stand_in))
        app(sys.argv[1:], prog_name="moonlark")


if __name__ == "__main__":
    main()
