"""The tree with one line a file: what each module says of itself first. `python -m infra.tree`.

It writes infra/TREE.md, which tests/unit/test_readme.py holds against the files.
"""

import ast
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREE = ROOT / "infra" / "TREE.md"
SHELVES = ("sql", "ray_jobs", "dags", "serve", "infra", "tests")
"""In reading order."""


def first_line(module: Path) -> str:
    """The first sentence of its docstring, on one line; "" without one."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def tree() -> str:
    """All modules by folder, those of a folder by name."""
    lines = ["# The tree, a line a file", "", "Written by `python -m infra.tree`.", ""]
    for shelf in SHELVES:
        modules = sorted((ROOT / shelf).rglob("*.py"), key=lambda path: (path.parent, path.name))
        told = [module for module in modules if first_line(module)]
        for folder, files in groupby(told, key=lambda path: path.parent.relative_to(ROOT)):
            lines += [f"## {folder.as_posix()}/", ""]
            for file in files:
                lines.append(f"- `{file.name}`: {first_line(file)}")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    TREE.write_text(tree(), encoding="utf-8")
