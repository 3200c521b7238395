"""Recipes: found by file name, described by docstring, imported only when one is run."""

import importlib
import re

import pytest

from recipes.commands import main
from recipes.registry import RecipeEntry, UnknownRecipeError, find_recipes, get_recipe


def test_recipes_are_read_without_importing_them(tmp_path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "b_arm.py").write_text(
        '"""Second arm.\n\nMore."""\nimport absent_module\ndef recipe(): ...\n'
    )
    (tmp_path / "a_arm.py").write_text('"""First arm."""\ndef recipe(seed=0): ...\n')
    (tmp_path / "shared_parts.py").write_text('"""What recipes share."""\ndef stages(): ...\n')
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "train.py").write_text("def recipe(): ...")
    assert find_recipes(tmp_path) == [RecipeEntry("a_arm", "First arm."), RecipeEntry("b_arm", "Second arm.")]


@pytest.mark.parametrize("name", ["registry", "commands", "no_such_recipe", "../registry"])
def test_what_is_no_recipe(name):
    with pytest.raises(UnknownRecipeError, match=f"no recipe {re.escape(repr(name))}: .*train --list"):
        get_recipe(name)


def test_every_recipe_of_the_project_is_listed_and_described(capsys):
    entries = find_recipes()
    for entry in entries:
        assert entry.summary.endswith("."), (
            f"recipes/{entry.name}.py: the first docstring line describes the recipe"
        )
    assert main(["train", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        entry.name for entry in entries
    ]


def test_a_recipe_is_loaded_by_name():
    names = [entry.name for entry in find_recipes()]
    if not names:
        pytest.skip("this checkout has no recipe")
    assert get_recipe(names[0]) is importlib.import_module(f"recipes.{names[0]}").recipe
