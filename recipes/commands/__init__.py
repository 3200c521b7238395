"""The `hybridpolicy` command.

This file and `recipes/__init__.py` parse under Python 3.6 and later, so that a wrong one gets a
message and not a SyntaxError. Everything else may assume Python 3.12.
"""

import sys

SUPPORTED_PYTHON = (3, 12)


def main(argv: "list[str] | None" = None) -> int:
    """Exit code of one command line: 0 done, 1 a bug, 2 a refused request, 130 interrupted."""
    if sys.version_info[:2] != SUPPORTED_PYTHON:
        needed = ".".join(map(str, SUPPORTED_PYTHON))
        sys.stderr.write(
            f"hybridpolicy: needs Python {needed}; this is {sys.version.split()[0]} at {sys.executable}. "
            "Make the right environment with `make env`, then run `.venv/bin/hybridpolicy`.\n"
        )
        return 2
    from recipes.commands.application import run_command_line

    return run_command_line(sys.argv[1:] if argv is None else argv)
