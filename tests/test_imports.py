"""The house: who may import whom, what stays light, and how large a file and a function may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("firmware_bridge", "embodiments", "hybridpolicy", "recipes", "lerobot_policy_hybrid")
# firmware_bridge <- embodiments <- recipes -> hybridpolicy; the plugin names what registers.
ALLOWED = {
    "firmware_bridge": set(),
    "embodiments": {"firmware_bridge"},
    "hybridpolicy": set(),
    "recipes": {"firmware_bridge", "embodiments", "hybridpolicy", "lerobot_policy_hybrid"},
    "lerobot_policy_hybrid": {"embodiments", "hybridpolicy"},
}
HEAVY = ("torch", "lerobot", "mujoco", "transformers", "numpy", "rich", "gymnasium", "metaworld")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def python_files(package):
    """Every Python file of one package, with its tree."""
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_packages(tree):
    """(top-level package, line) of every import anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            # A relative import cannot leave its package without climbing to its parent.
            yield ("(relative)" if node.level else node.module.partition(".")[0]), node.lineno


def wrong_imports(package, tree):
    """The imports of a file in `package` that point in a direction the house does not have."""
    allowed = ALLOWED[package] | {package}
    for name, line in imported_packages(tree):
        if name in PACKAGES and name not in allowed:
            yield f"line {line}: {package} imports {name}"
        elif name in ("tests", "(relative)"):
            yield f"line {line}: {package} imports {name}; name the module in full"
        elif package == "firmware_bridge" and name not in {*sys.stdlib_module_names, "serial", package}:
            yield f"line {line}: firmware_bridge imports {name}; allowed: pyserial, the standard library"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_keep_their_direction(package):
    seen, wrong = 0, []
    for path, tree in python_files(package):
        seen += 1
        wrong += [f"{path.relative_to(ROOT)}, {problem}" for problem in wrong_imports(package, tree)]
    assert seen >= {"recipes": 15, "hybridpolicy": 10, "embodiments": 8}.get(package, 1)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "source", "problem"),
    [
        (
            "hybridpolicy",
            "def f():\n    import embodiments.so101",
            "line 2: hybridpolicy imports embodiments",
        ),
        ("embodiments", "from hybridpolicy import stats", "line 1: embodiments imports hybridpolicy"),
        ("firmware_bridge", "import numpy", "line 1: firmware_bridge imports numpy"),
        ("firmware_bridge", "from embodiments import spec", "line 1: firmware_bridge imports embodiments"),
        ("recipes", "from ..hybridpolicy import stats", r"line 1: recipes imports \(relative\)"),
        ("hybridpolicy", "from recipes.registry import x", "line 1: hybridpolicy imports recipes"),
    ],
)
def test_a_wrong_direction_is_seen(package, source, problem):
    found = list(wrong_imports(package, ast.parse(source)))
    assert len(found) == 1
    assert problem.replace("\\", "") in found[0]


@pytest.mark.parametrize("source", ["import serial, struct", "from firmware_bridge import link"])
def test_what_firmware_bridge_may_import(source):
    assert not list(wrong_imports("firmware_bridge", ast.parse(source)))


def test_quick_commands_import_nothing_heavy():
    """The command line with all its commands, the registry with all recipes, and the bare packages."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "import hybridpolicy, hybridpolicy.errors, embodiments, embodiments.so101, firmware_bridge\n"
        "import lerobot_policy_hybrid\n"
        "from recipes.commands.application import build_parser; build_parser().format_help()\n"
        "from recipes.registry import find_recipes; find_recipes()\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy, _, count = done.stdout.strip().rpartition(" ")
    assert heavy == "[]"
    assert int(count) < 200  # about 100 modules; each costs a few tenths of a millisecond


def test_files_and_functions_stay_readable():
    files, functions, large = 0, 0, []
    for package in PACKAGES:
        for path, tree in python_files(package):
            files += 1
            name = path.relative_to(ROOT)
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > MAX_FILE_LINES:
                large.append(f"{name}: {lines} lines; split it by subject before {MAX_FILE_LINES}")
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    functions += 1
                    length = node.end_lineno - node.lineno + 1
                    if length > MAX_FUNCTION_LINES:
                        large.append(f"{name}:{node.lineno}: {node.name} has {length} lines")
    assert files >= 40
    assert functions >= 150
    assert not large, "\n".join(large)
