"""A helper process of a run: a fresh interpreter at the other end of a pipe, which is closed when we end."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

# bitsandbytes asks for a package of no use here. When `serve` returns all is put away, and taking torch and
# LeRobot down module by module takes seconds.
_BOOT = """
import logging, os, sys
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
from {module} import serve
serve(int(sys.argv[1]), *sys.argv[2:])
os._exit(0)
"""


def spawn(module: str, *arguments: str, threads: int = 1) -> tuple[subprocess.Popen[bytes], Connection]:
    """Starts `module.serve(handle, *arguments)`, handle being the descriptor of its end of the pipe.

    threads: of its numerics. Returns the process and our end.
    """
    ours, theirs = Pipe()
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT.format(module=module), str(theirs.fileno()), *arguments],
        pass_fds=(theirs.fileno(),),
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    return process, ours
