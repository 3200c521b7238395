"""The wheel: what `pip install` and LeRobot's plugin search find in it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("firmware_bridge", "embodiments", "hybridpolicy", "recipes", "lerobot_policy_hybrid")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The opened wheel of this tree, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    """Scenes, pages and styles too: a pattern of .gitignore that hits a package would leave them out."""
    packed = set(wheel.namelist())
    files = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert len(files) >= 60
    assert any(not name.endswith(".py") for name in files)
    assert sorted(set(files) - packed) == []


def test_nothing_else_is_in_the_wheel(wheel):
    roots = {name.partition("/")[0] for name in wheel.namelist()}
    assert roots == {*PACKAGES, "lerobot_policy_hybrid-0.1.0.dist-info"}


def test_lerobot_finds_the_plugin_by_its_name(wheel):
    """LeRobot compares the raw metadata name, so hyphens would hide the plugin."""
    lines = wheel.read("lerobot_policy_hybrid-0.1.0.dist-info/METADATA").decode().splitlines()
    assert "Name: lerobot_policy_hybrid" in lines
    assert "Requires-Python: <3.13,>=3.12" in lines
    entry_points = wheel.read("lerobot_policy_hybrid-0.1.0.dist-info/entry_points.txt").decode()
    assert "hybridpolicy = recipes.commands:main" in entry_points
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
