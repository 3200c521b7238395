"""Reading a LeRobotDataset v3 once, front to back: its tables as arrays, its videos as frames in order.

N frames of the dataset, H and W pixels. Frames are (3, H, W) uint8, RGB.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.utils import CompatibilityError
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hybridpolicy.errors import DatasetError

Frame = NDArray[np.uint8]
MAX_FRAME_OFFSET = 0.1  # of a frame period, between where a frame should be in a video and where it is
_NUMERIC_DTYPES = {"float32": np.float32, "float64": np.float32, "bool": np.bool_}


@dataclass(frozen=True)
class VideoPart:
    """The frames of one camera inside one mp4: dataset rows (n,) at times (n,) seconds, ascending in time."""

    camera: str
    path: Path
    rows: NDArray[np.int64]
    times_s: NDArray[np.float64]


def resolve_root(root: str, repo_id: str | None) -> Path:
    """Folder of a dataset on this disk, downloaded first when only `repo_id` names it.

    Raises:
        DatasetError: there is no dataset in `root` and no `repo_id` to download, or the download fails.
    """
    if root and (Path(root) / "meta" / "info.json").is_file():
        return Path(root)
    if repo_id is None:
        raise DatasetError(
            f"{root}: no LeRobotDataset v3 here (meta/info.json is missing); give the folder that holds "
            "meta/, record one with lerobot-record, or name one of the hub (repo_id of a recipe's source)"
        )
    try:
        return Path(LeRobotDataset(repo_id, root=root or None, video_backend="pyav").root)
    except (OSError, ValueError, CompatibilityError) as error:
        raise DatasetError(
            f"{repo_id}: not readable from the hub ({error}); check the name and the connection, or download "
            "it first and give its folder as root"
        ) from error


def height_width(feature: dict[str, Any]) -> tuple[int, int]:
    """(H, W) in pixels of a camera's column; however its axes are called, only channels may come first."""
    shape, names = tuple(feature["shape"]), list(feature.get("names") or [])
    height, width = shape[1:] if names[:1] in (["channels"], ["channel"]) else shape[:2]
    return int(height), int(width)


class DatasetFiles:
    """The files of one dataset folder. Raises DatasetError where they are missing or unreadable."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self.meta = LeRobotDatasetMetadata(root.name, root=root)
        except (OSError, ValueError, KeyError, TypeError, CompatibilityError) as error:
            raise self._unreadable(root / "meta", error) from error
        self.fps: int = self.meta.fps
        self.num_frames: int = self.meta.total_frames
        if self.num_frames == 0:
            raise DatasetError(f"{root}: the dataset has no frames; record an episode first")

    def _unreadable(self, path: Path, error: Exception) -> DatasetError:
        return DatasetError(
            f"{path}: unreadable ({type(error).__name__}: {error}); the recording may have been cut off "
            "before finalize(), record or download this dataset again"
        )

    @property
    def cameras(self) -> list[str]:
        """Observation keys of all colour cameras."""
        return [key for key in self.meta.camera_keys if key not in self.meta.depth_keys]

    def frame_size(self, camera: str) -> tuple[int, int]:
        """(H, W) in pixels as recorded. Raises DatasetError naming the cameras there are."""
        if camera not in self.cameras:
            present = ", ".join(self.cameras) or "none"
            raise DatasetError(f"{self.root}: no colour camera {camera!r}; present are: {present}")
        return height_width(self.meta.features[camera])

    def relevant_files(self) -> list[Path]:
        """Every file frames and columns come from, sorted."""
        found = [path for part in ("meta", "data", "videos") for path in (self.root / part).rglob("*.*")]
        return sorted(path for path in found if path.is_file())

    @cached_property
    def episodes(self) -> dict[str, list[Any]]:
        """Episode table without statistics, as one list per column."""
        paths = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        tables = []
        for path in paths:
            names = [name for name in self._schema(path).names if not name.startswith("stats/")]
            tables.append(self._read_table(path, names))
        merged: dict[str, list[Any]] = pa.concat_tables(tables, promote_options="default").to_pydict()
        return merged

    @property
    def tasks(self) -> list[str]:
        """Task texts by task_index."""
        return [] if self.meta.tasks is None else [str(text) for text in self.meta.tasks.index]

    def _schema(self, path: Path) -> pa.Schema:
        try:
            return pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(path, error) from error

    def _read_table(self, path: Path, columns: list[str]) -> pa.Table:
        try:
            return pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(path, error) from error

    def _data_files(self) -> list[Path]:
        paths = sorted((self.root / "data").glob("*/*.parquet"))
        if not paths:
            raise DatasetError(f"{self.root}: no data/*/*.parquet; the download or recording is incomplete")
        return paths

    def read_columns(self) -> dict[str, NDArray[Any]]:
        """Every numeric column, (N,) or (N, ...); floats as float32.

        Raises:
            DatasetError: rows are missing or out of order.
        """
        names = [key for key, feature in self.meta.features.items() if _is_numeric(feature["dtype"])]
        tables = [self._read_table(path, names) for path in self._data_files()]
        table = pa.concat_tables(tables)
        columns = {name: self._to_array(name, table.column(name)) for name in names}
        if not np.array_equal(columns["index"], np.arange(self.num_frames)):
            raise DatasetError(
                f"{self.root}: info.json counts {self.num_frames} frames, data/ holds "
                f"{len(columns['index'])} rows whose index is not 0 … n - 1; record or download it again"
            )
        return columns

    def _to_array(self, name: str, column: pa.ChunkedArray) -> NDArray[Any]:
        feature = self.meta.features[name]
        dtype = _NUMERIC_DTYPES.get(feature["dtype"], np.int64)
        flat = column.combine_chunks()
        if isinstance(flat, pa.ExtensionArray):
            flat = flat.storage
        while pa.types.is_nested(flat.type):
            flat = flat.flatten()
        array = flat.to_numpy(zero_copy_only=False).astype(dtype)
        is_vector = name == "action" or name.startswith("observation.") or tuple(feature["shape"]) != (1,)
        return array.reshape(len(column), *feature["shape"]) if is_vector else array

    def video_parts(self, camera: str, timestamps: NDArray[np.float32]) -> list[VideoPart]:
        """One entry per mp4 of `camera`. `timestamps` (N,) seconds since the start of each episode."""
        grouped: dict[Path, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
        table = self.episodes
        for i in range(len(table["episode_index"])):
            place = {key: table[f"videos/{camera}/{key}"][i] for key in ("chunk_index", "file_index")}
            path = self.root / self.meta.video_path.format(video_key=camera, **place)
            rows = np.arange(table["dataset_from_index"][i], table["dataset_to_index"][i])
            times = table[f"videos/{camera}/from_timestamp"][i] + timestamps[rows].astype(np.float64)
            grouped.setdefault(path, []).append((rows, times))
        parts = []
        for path, pieces in grouped.items():
            rows = np.concatenate([rows for rows, _ in pieces])
            times = np.concatenate([times for _, times in pieces])
            order = np.argsort(times, kind="stable")
            parts.append(VideoPart(camera, path, rows[order], times[order]))
        return parts

    def video_frames(self, part: VideoPart) -> Iterator[tuple[int, Frame]]:
        """(dataset row, frame) for every row of `part`, each the decoded frame nearest to its time.

        Raises:
            DatasetError: the file is missing or corrupt, or has no frame close enough to a row's time.
        """
        wanted = list(zip(part.rows.tolist(), part.times_s.tolist(), strict=True))
        position, previous, previous_s = 0, None, -float("inf")
        try:
            with av.open(str(part.path)) as container:
                stream = container.streams.video[0]
                for picture in container.decode(stream):
                    if picture.pts is None:
                        continue
                    now_s = float(picture.pts * stream.time_base)
                    while position < len(wanted) and wanted[position][1] <= now_s:
                        row, time_s = wanted[position]
                        nearest = previous if time_s - previous_s <= now_s - time_s else picture
                        distance_s = min(time_s - previous_s, now_s - time_s)
                        self._check_distance(part, row, distance_s)
                        yield row, _to_frame(nearest)
                        position += 1
                    previous, previous_s = picture, now_s
        except (OSError, av.FFmpegError, IndexError) as error:
            raise self._unreadable(part.path, error) from error
        for row, time_s in wanted[position:]:
            self._check_distance(part, row, abs(time_s - previous_s))
            yield row, _to_frame(previous)

    def _check_distance(self, part: VideoPart, row: int, distance_s: float) -> None:
        limit_s = MAX_FRAME_OFFSET / self.fps
        if distance_s > limit_s:
            raise DatasetError(
                f"{part.path}: the frame nearest to dataset row {row} is {distance_s:.4f} s away; allowed is "
                f"{limit_s:.4f} s at {self.fps} frames per second. The video is cut off or drops frames, "
                "record or download this dataset again"
            )

    def stored_images(self, camera: str) -> Iterator[tuple[int, Frame]]:
        """(dataset row, frame) of a camera stored as images inside the parquet files."""
        row = 0
        for path in self._data_files():
            for cell in self._read_table(path, [camera]).column(camera):
                value = cell.as_py()
                try:
                    picture = Image.open(io.BytesIO(value["bytes"])).convert("RGB")
                except (TypeError, OSError, UnidentifiedImageError) as error:
                    raise self._unreadable(path, error) from error
                yield row, np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
                row += 1

    def describe_features(self) -> str:
        """info.json's features as JSON, part of the fingerprint."""
        return json.dumps(self.meta.features, sort_keys=True, default=str)


def _is_numeric(dtype: str) -> bool:
    return dtype in _NUMERIC_DTYPES or dtype.startswith(("int", "uint"))


def _to_frame(picture: Any) -> Frame:
    return np.ascontiguousarray(picture.to_ndarray(format="rgb24").transpose(2, 0, 1))
