"""Which errors are somebody's mistake or a machine's state, and the one message each becomes."""

from __future__ import annotations

import dis
import errno

from hybridpolicy.errors import HybridPolicyError

EXIT_REFUSED = 2  # as argparse: what was asked cannot be done; nothing is wrong with the program
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

OUR_PACKAGES = ("hybridpolicy", "embodiments", "recipes", "firmware_bridge")
# The types a deliberate error may have; `is_deliberate` decides about each one.
CANDIDATES = (HybridPolicyError, OSError, ValueError, ImportError, RuntimeError)

# What to do next, by cause. An OSError says what was given and what the system answered, never the way out.
_WAY_OUT = {
    errno.ENOSPC: "The disk is full: free some space or choose a folder on another disk. "
    "Complete checkpoints are intact; the same command with --resume goes on from the last one.",
    errno.EDQUOT: "Your disk quota is used up: free some space or choose a folder on another disk.",
    errno.EROFS: "The file system is read-only: choose another folder.",
    errno.EACCES: "Check who owns it, or choose another folder.",
    errno.EPERM: "Check who owns it, or choose another folder.",
    errno.ENOENT: "Check the spelling; a relative path starts at the current folder.",
    errno.EEXIST: "Choose another name, or remove it first.",
    errno.ENOMEM: "Close other programs, or use smaller batches.",
    errno.EMFILE: "Raise the limit with `ulimit -n 4096`.",
}


class CommandError(HybridPolicyError):
    """What a command was asked for cannot be done as asked; the text says what is allowed and what to do."""


def is_deliberate(error: BaseException) -> bool:
    """Whether `error` is meant for the user, and not a bug that needs its traceback.

    It is, if its class is ours, or the system refused something, or a `raise` of our own is the origin of a
    plain ValueError or ImportError: in this house they are about a user's value; `assert` is about our
    invariants, and what Python itself finds wrong in one of our lines is a bug.
    """
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in OUR_PACKAGES:
        return True
    if not isinstance(error, (ValueError, ImportError)) or error.__traceback__ is None:
        return False
    origin = error.__traceback__
    while origin.tb_next is not None:
        origin = origin.tb_next
    frame = origin.tb_frame
    ours = frame.f_globals.get("__name__", "").partition(".")[0] in OUR_PACKAGES
    return ours and any(
        line.offset == origin.tb_lasti and line.opname == "RAISE_VARARGS"
        for line in dis.get_instructions(frame.f_code)
    )


def describe(error: BaseException) -> str:
    """The one message for a known error: what was given, what is wrong with it, what to do next."""
    if not isinstance(error, OSError) or error.errno is None or error.strerror is None:
        return str(error) or type(error).__name__
    paths = " -> ".join(repr(str(path)) for path in (error.filename, error.filename2) if path is not None)
    head = f"{paths}: {error.strerror}" if paths else error.strerror
    way_out = _WAY_OUT.get(error.errno)
    return f"{head}. {way_out}" if way_out else f"{head} (errno {error.errno})"
