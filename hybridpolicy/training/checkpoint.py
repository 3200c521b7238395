"""Checkpoint folders that are complete or absent, whatever happens while one is written.

    checkpoints/000064000/
        pretrained_model/   the exported policy, its processors and its recipe: what other commands load
        training_state/     what the trainer continues from
        manifest.json       size and SHA-256 of every file, written last
    checkpoints/last        → 000064000

A checkpoint is written into a hidden sibling folder, flushed to disk and renamed: a rename is done or not
done, also when the process is killed or the power fails.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from hybridpolicy.errors import CheckpointError
from hybridpolicy.files import write_json

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
PRETRAINED_DIR = "pretrained_model"
STATE_DIR = "training_state"
LAST = "last"
SPARE_BYTES = 32 * 1024 * 1024  # left free on the disk
_PARTIAL, _REMOVED = ".partial", ".removed"


class CheckpointStore:
    """The checkpoints folder of one run, used by one process at a time."""

    def __init__(self, root: Path, keep_last: int) -> None:
        self.root = root
        self.keep_last = keep_last

    def complete_names(self) -> list[str]:
        """Names of all renamed checkpoints, oldest first; their contents are not checked."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and path.name.isdigit())

    def leftovers(self) -> list[Path]:
        """Folders of checkpoints whose writing or removal was interrupted."""
        return sorted(path for ending in (_PARTIAL, _REMOVED) for path in self.root.glob(f".*{ending}"))

    def newest(self) -> Path | None:
        """The newest undamaged checkpoint, None where none was ever completed.

        Half-written and damaged ones are reported in the log and passed over.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        for path in self.leftovers():
            logger.warning("%s: writing was interrupted, ignored; the next checkpoint removes it", path)
        problems = []
        for name in reversed(self.complete_names()):
            try:
                verify(self.root / name)
            except CheckpointError as error:
                logger.warning("%s; trying the one before", error)
                problems.append(str(error))
            else:
                return self.root / name
        if problems:
            raise CheckpointError(
                f"{self.root}: no undamaged checkpoint. {' | '.join(problems)}. Restore one from a copy, "
                "or remove this folder to train from the start"
            )
        return None

    def write(self, samples: int, fill: Callable[[Path], None], num_bytes: int) -> Path:
        """A new checkpoint whose files `fill(folder)` writes, about `num_bytes` large.

        Raises:
            CheckpointError: the disk is full or fails. Earlier checkpoints are untouched.
        """
        target = self.root / f"{samples:09d}"
        partial = self.root / f".{target.name}{_PARTIAL}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for path in self.leftovers():
                shutil.rmtree(path)
            self._check_free_space(num_bytes)
            partial.mkdir()
            fill(partial)
            seal(partial)
            self._put_in_place(partial, target)
            self._point_last_to(target.name)
            self._prune(target.name)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise self._write_error(target, error) from error
        return target

    def _check_free_space(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self.root).free
        if free < num_bytes + SPARE_BYTES:
            raise CheckpointError(
                f"{self.root}: {free / 1e6:.0f} MB free, a checkpoint needs {num_bytes / 1e6:.0f} MB and "
                f"{SPARE_BYTES / 1e6:.0f} MB to spare; earlier checkpoints are untouched. Free some space "
                "or lower keep_last, then run the same command again to resume"
            )

    def _write_error(self, target: Path, error: Exception) -> CheckpointError:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        free = shutil.disk_usage(self.root).free / 1e6 if self.root.is_dir() else 0.0
        cause = "the disk is full" if full else f"writing failed ({error}) with {free:.0f} MB free"
        return CheckpointError(
            f"{target}: {cause}; earlier checkpoints are untouched. Free some space or choose another "
            "output_dir, then run the same command again to resume"
        )

    def _put_in_place(self, partial: Path, target: Path) -> None:
        if target.exists():  # a damaged one that a resumed run has reached again
            target.rename(self.root / f".{target.name}{_REMOVED}")
        partial.rename(target)
        _sync(self.root)

    def _point_last_to(self, name: str) -> None:
        link = self.root / f".{LAST}.{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(self.root / LAST)
        _sync(self.root)

    def _prune(self, newest: str) -> None:
        # Those beyond it are damaged, or the run would have gone on from them: they count for nothing.
        names = [name for name in self.complete_names() if name <= newest]
        for name in names[: -self.keep_last]:
            (self.root / name).rename(self.root / f".{name}{_REMOVED}")
        for path in self.root.glob(f".*{_REMOVED}"):
            shutil.rmtree(path)


def seal(folder: Path) -> None:
    """Flushes every file to disk and writes the manifest that makes `folder` complete."""
    entries = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _sync(path)
        entries[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    manifest = folder / MANIFEST_FILE
    manifest.write_text(json.dumps(entries, indent=2))
    for path in (manifest, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(path)


def sealed_in(path: Path) -> Path | None:
    """The checkpoint whose manifest names the file `path`, or None."""
    for folder in path.resolve().parents[:2]:
        manifest = folder / MANIFEST_FILE
        if manifest.is_file() and path.resolve().relative_to(folder).as_posix() in json.loads(
            manifest.read_text()
        ):
            return folder
    return None


def reseal(folder: Path, path: Path) -> None:
    """Renews what the manifest of checkpoint `folder` says of one of its files, changed on purpose."""
    entries = json.loads((folder / MANIFEST_FILE).read_text())
    name = path.resolve().relative_to(folder).as_posix()
    entries[name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    write_json(folder / MANIFEST_FILE, entries)


def verify(folder: Path) -> None:
    """Checks every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: naming the first file that is missing or altered.
    """
    try:
        entries = json.loads((folder / MANIFEST_FILE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: no readable {MANIFEST_FILE} ({error}), the checkpoint is damaged"
        ) from error
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing, the checkpoint is damaged")
        if path.stat().st_size != entry["bytes"] or _digest(path) != entry["sha256"]:
            raise CheckpointError(
                f"{folder}: {name} was altered after it was written, the checkpoint is damaged"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
