"""Recipes by name: found by file name, described by docstring, imported only when one is run.

A recipe is a file `recipes/<name>.py` that defines `recipe()`; its first docstring line is its description.
Reading them costs milliseconds, where importing one costs seconds.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridpolicy.errors import HybridPolicyError, allowed

RECIPES_FOLDER = Path(__file__).parent
RECIPE_FUNCTION = "recipe"
JOB_FUNCTION = "run"


class UnknownRecipeError(HybridPolicyError):
    """No recipe has the name that was given."""


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe that can be loaded, known without importing it."""

    name: str
    summary: str


def find_recipes(folder: Path = RECIPES_FOLDER) -> list[RecipeEntry]:
    """Every recipe in `folder`, by name. A file without a `recipe()` is a part that recipes share."""
    found = []
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        if any(isinstance(node, ast.FunctionDef) and node.name == RECIPE_FUNCTION for node in tree.body):
            found.append(RecipeEntry(path.stem, (ast.get_docstring(tree) or "").partition("\n")[0]))
    return found


def get_recipe(name: str) -> Callable[..., Any]:
    """The function that returns recipe `name`'s complete `TrainConfig`.

    Raises UnknownRecipeError, with the nearest names, when there is none.
    """
    names = [entry.name for entry in find_recipes()]
    if name not in names:
        raise UnknownRecipeError(
            f"no recipe {name!r}: {allowed(name, names)}; `hybridpolicy train --list` describes them"
        )
    function: Callable[..., Any] = getattr(importlib.import_module(f"recipes.{name}"), RECIPE_FUNCTION)
    return function


def get_job(name: str) -> Callable[..., Path] | None:
    """The recipe's `run(output, seed=, progress=, config=)`, the whole job with its report; or None."""
    get_recipe(name)
    job: Callable[..., Path] | None = getattr(importlib.import_module(f"recipes.{name}"), JOB_FUNCTION, None)
    return job
