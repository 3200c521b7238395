"""A folder that appears when it is complete. Imports no torch and no LeRobot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class PartialFolder:
    """`path`, hidden beside `root` and not made yet, which `finish` puts in the place of `root`.

    Leave it with `with`: without `finish`, nothing stays. What processes that were killed left behind goes.

    Raises:
        FileExistsError: `root` is there already.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if self.root.exists():
            raise FileExistsError(f"dataset: {self.root} exists already; choose another folder or remove it")
        self.path = self.root.parent / f".{self.root.name}.{os.getpid()}.partial"
        for folder in self.root.parent.glob(f".{self.root.name}.*.partial"):
            owner = folder.name.split(".")[-2]
            if owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
                shutil.rmtree(folder, ignore_errors=True)

    def finish(self) -> Path:
        """`root`, complete."""
        self.path.rename(self.root)
        return self.root

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
