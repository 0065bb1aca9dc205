"""What the README says exists, exists: commands, make targets, folders."""

import re
from pathlib import Path

import typer.main

from infra.cli.main import app
from infra.tree import TREE, tree

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_moonlark_command_of_the_readme_exists() -> None:
    known = set(typer.main.get_command(app).list_commands(None))  # type: ignore[attr-defined,arg-type]
    said = set(re.findall(r"^moonlark ([a-z]+)", README, re.M))
    said |= set(re.findall(r"`moonlark ([a-z]+)", README))
    assert said
    assert said <= known


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    code = re.findall(r"```.*?```|`[^`]+`", README, re.S)  # in prose it is a verb
    said = {target for each in code for target in re.findall(r"(?<!keys )\bmake ([\w-]+)", each)}
    assert {"demo", "test", "bench", "drills", "accuracy"} <= said
    assert said <= targets


def test_every_folder_of_the_tree_exists() -> None:
    folders = re.findall(r"^([a-z_]+(?:/[a-z_]+)*)/ +\S", README, re.M)
    assert len(folders) >= 9
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_the_tree_names_each_file_as_it_is() -> None:
    assert TREE.read_text(encoding="utf-8") == tree(), "python -m infra.tree writes it again"
