"""Every frame of a dataset decoded once, into memory-mapped arrays.

Reading one frame of a video means seeking to a key frame and decoding forward, per sample and camera. Here
every file is decoded once, front to back; afterwards a sample is a copy out of memory.

N frames of the dataset, H and W pixels after the optional resize, E episodes.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybridpolicy.errors import CacheError, DatasetError
from hybridpolicy.training.decode import DatasetFiles, Frame, VideoPart

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
MANIFEST_FILE = "cache.json"
RESIZE_BLOCK = 64  # frames resized together
SPARE_BYTES = 64 * 1024 * 1024  # left free on the disk

Progress = Callable[[int, int], None]
"""progress(frames done, frames in all), over all cameras."""


@dataclass(frozen=True)
class FrameCache:
    """A dataset as arrays.

    frames: per camera (N, 3, H, W) uint8, memory-mapped; columns: per numeric column (N,) or (N, ...).
    episode_from, episode_to: (E,) first row and one past the last row of each episode.
    """

    path: Path
    source: Path
    fps: int
    tasks: list[str]
    frames: dict[str, NDArray[np.uint8]]
    columns: dict[str, NDArray[Any]]
    episode_from: NDArray[np.int64]
    episode_to: NDArray[np.int64]

    @property
    def num_frames(self) -> int:
        return len(self.columns["index"])

    @property
    def num_episodes(self) -> int:
        return len(self.episode_from)


def open_cache(
    root: Path,
    cache_dir: Path,
    *,
    cameras: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> FrameCache:
    """The decoded frames of the dataset in `root`, built first when absent or older than the dataset.

    cameras: observation keys; empty for every colour camera. image_size: (H, W) to resize to by area.

    Raises:
        DatasetError: an unreadable dataset or a camera it does not have.
        CacheError: not enough space, or the disk failed.
    """
    files = DatasetFiles(root)
    names = list(cameras) or files.cameras
    sizes = {name: files.frame_size(name) for name in names}
    if image_size is not None:
        sizes = dict.fromkeys(names, (int(image_size[0]), int(image_size[1])))
    family, content = _fingerprints(files, sizes)
    target = Path(cache_dir) / f"{family}-{content}"
    if not (target / MANIFEST_FILE).is_file():
        _build(files, sizes, target, family, progress or (lambda done, total: None))
    return _read(target)


def _fingerprints(files: DatasetFiles, sizes: Mapping[str, tuple[int, int]]) -> tuple[str, str]:
    """(what was asked of which folder, what the folder holds now), usable as file names."""
    request = json.dumps([str(files.root.resolve()), sorted(sizes.items()), CACHE_VERSION])
    listing = [
        (path.relative_to(files.root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in files.relevant_files()
    ]
    content = json.dumps([files.describe_features(), files.fps, listing])
    short = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in (request, content)]
    return f"{files.root.name}-{short[0]}", short[1]


def _build(
    files: DatasetFiles, sizes: Mapping[str, tuple[int, int]], target: Path, family: str, progress: Progress
) -> None:
    """Writes a temporary folder beside `target` and renames it, so that `target` is complete or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    _check_free_space(target.parent, files.num_frames * sum(3 * h * w for h, w in sizes.values()))
    for leftover in target.parent.glob(f".{family}-*.partial"):
        if not _is_running(int(leftover.name.split(".")[-2])):
            shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write(files, sizes, partial, progress)
        _replace_folder(partial, target)
    except OSError as error:
        raise _write_error(target.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for stale in target.parent.glob(f"{family}-*"):
        if stale != target:
            logger.info("the dataset changed, removing its old frame cache %s", stale.name)
            shutil.rmtree(stale, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        pass
    return True


def _replace_folder(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        logger.info("another process finished the frame cache %s first, using it", target.name)


def _check_free_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes + SPARE_BYTES:
        raise CacheError(
            f"{folder}: {free / 1e6:.0f} MB free, the decoded frames need {num_bytes / 1e6:.0f} MB and "
            f"{SPARE_BYTES / 1e6:.0f} MB to spare; free some space, set cache_dir to another disk, "
            "or choose a smaller image_size"
        )


def _write_error(folder: Path, error: OSError) -> CacheError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CacheError(
            f"{folder}: the disk filled up while frames were decoded; nothing half-written was kept. "
            "Free some space or set cache_dir to another disk"
        )
    return CacheError(
        f"{folder}: writing decoded frames failed ({error}); check the disk and its permissions"
    )


def _write(
    files: DatasetFiles, sizes: Mapping[str, tuple[int, int]], folder: Path, progress: Progress
) -> None:
    columns = files.read_columns()
    for name, column in columns.items():
        np.save(folder / f"column.{name}.npy", column)
    _write_frames(files, sizes, columns["timestamp"], folder, progress)
    manifest = {
        "version": CACHE_VERSION,
        "source": str(files.root.resolve()),
        "fps": files.fps,
        "tasks": files.tasks,
        "cameras": sorted(sizes),
        "columns": sorted(columns),
        "episode_from": [int(row) for row in files.episodes["dataset_from_index"]],
        "episode_to": [int(row) for row in files.episodes["dataset_to_index"]],
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2))


def _write_frames(
    files: DatasetFiles,
    sizes: Mapping[str, tuple[int, int]],
    timestamps: NDArray[np.float32],
    folder: Path,
    progress: Progress,
) -> None:
    """Decodes video files in parallel: decoding holds no interpreter lock, so threads are enough."""
    writers = {
        name: FrameWriter(folder / f"frames.{name}.npy", files.num_frames, size)
        for name, size in sizes.items()
    }
    total, done, lock = files.num_frames * len(sizes), 0, Lock()

    def write_part(camera: str, part: VideoPart | None) -> None:
        nonlocal done
        source = files.stored_images(camera) if part is None else files.video_frames(part)
        for count in writers[camera].write_all(source):
            with lock:
                done += count
                progress(done, total)

    jobs: list[tuple[str, VideoPart | None]] = []
    for name in sizes:
        stored = name in files.meta.image_keys
        jobs += [(name, None)] if stored else [(name, part) for part in files.video_parts(name, timestamps)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        futures = [pool.submit(write_part, name, part) for name, part in jobs]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for writer in writers.values():
                writer.close()
    if done != total:
        raise DatasetError(f"{files.root}: decoded {done} of {total} frames; record or download it again")


class FrameWriter:
    """Rows of one (N, 3, H, W) uint8 .npy file, in any order, from several threads.

    Written with pwrite and not through a memory map: on a full disk a map ends the process with SIGBUS.
    """

    def __init__(self, path: Path, num_frames: int, size: tuple[int, int]) -> None:
        self.size = size
        self._frame_bytes = 3 * size[0] * size[1]
        self._path = path
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_frames, 3, *size)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            self._offset = file.tell()
            file.truncate(self._offset + num_frames * self._frame_bytes)
        self._descriptor = os.open(path, os.O_WRONLY)

    def write_all(self, source: Iterator[tuple[int, Frame]]) -> Iterator[int]:
        """Writes every (row, frame) of an iterator; yields the number of frames after each block."""
        rows: list[int] = []
        block: list[Frame] = []
        for row, frame in source:
            rows.append(row)
            block.append(frame)
            if len(rows) == RESIZE_BLOCK:
                yield self._write_block(rows, block)
                rows, block = [], []
        if rows:
            yield self._write_block(rows, block)

    def _write_block(self, rows: list[int], block: list[Frame]) -> int:
        for row, frame in zip(rows, resize_by_area(np.stack(block), self.size), strict=True):
            data = frame.tobytes()
            written = os.pwrite(self._descriptor, data, self._offset + row * self._frame_bytes)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        return len(rows)

    def close(self) -> None:
        os.close(self._descriptor)


def resize_by_area(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(n, 3, H, W) uint8 averaged over pixel areas to (n, 3, *size); unchanged where it fits."""
    if frames.shape[2:] == tuple(size):
        return frames
    resized = torch.nn.functional.interpolate(torch.from_numpy(frames).float(), size=size, mode="area")
    rounded: NDArray[np.uint8] = resized.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return rounded


def _read(folder: Path) -> FrameCache:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        # Copy-on-write: torch wants writable memory, the file must stay as it is.
        frames = {name: np.load(folder / f"frames.{name}.npy", mmap_mode="c") for name in manifest["cameras"]}
        columns = {name: np.load(folder / f"column.{name}.npy") for name in manifest["columns"]}
    except (OSError, ValueError, KeyError) as error:
        raise CacheError(
            f"{folder}: unreadable frame cache ({error}); delete this folder to rebuild it"
        ) from error
    return FrameCache(
        path=folder,
        source=Path(manifest["source"]),
        fps=manifest["fps"],
        tasks=manifest["tasks"],
        frames=frames,
        columns=columns,
        episode_from=np.array(manifest["episode_from"]),
        episode_to=np.array(manifest["episode_to"]),
    )
