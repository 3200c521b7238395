"""The loop that serves one SlotGroup over a pipe.

Run as `python -m embodiments.metaworld.worker FD`: numpy, mujoco and metaworld, no torch, no lerobot. A plain
`multiprocessing` child would import the caller's main module, hence the policy, again.
"""

import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from embodiments.metaworld.slots import SlotGroup


def serve(connection: Connection) -> None:
    """Answers (method, args) with ("ok", result) or ("error", traceback) until "close" or end of file."""
    group: SlotGroup | None = None
    while True:
        try:
            method, args = connection.recv()
        except EOFError:
            return  # the parent died: nothing left to do
        result: Any = None
        try:
            if method == "open":
                group = SlotGroup(*args)
            else:
                result = getattr(group, method)(*args)
        except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError):
            connection.send(("error", traceback.format_exc()))
            continue
        connection.send(("ok", result))
        if method == "close":
            return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
