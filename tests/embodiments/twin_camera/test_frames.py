"""Frames through a mapped file: newest wins, none torn, each with the time it shows."""

import subprocess
import sys
import time

import numpy as np
import pytest

from embodiments.twin_camera.frames import SLOTS, FrameFileError, FrameReader, FrameWriter


@pytest.fixture
def pair(tmp_path):
    writer = FrameWriter(tmp_path / "front.frames", 6, 8, 30.0)
    reader = FrameReader(tmp_path / "front.frames")
    yield writer, reader
    reader.close()


def picture(value):
    return np.full((6, 8, 3), value, np.uint8)


def test_the_reader_knows_size_and_rate_before_the_first_frame(pair):
    _, reader = pair
    assert (reader.height, reader.width, reader.fps) == (6, 8, 30.0)
    assert reader.newest == 0
    assert reader.latest() is None


def test_the_newest_wins(pair):
    writer, reader = pair
    for number in range(1, 3 * SLOTS):
        writer.publish(picture(number), number * 1000)
        frame = reader.latest()
        assert (frame.number, frame.source_ns) == (number, number * 1000)
        assert (frame.pixels == number).all()


def test_a_frame_in_hand_does_not_change(pair):
    writer, reader = pair
    writer.publish(picture(1), 1)
    frame = reader.latest()
    for number in range(2, 10):
        writer.publish(picture(number), number)
    assert (frame.pixels == 1).all()


def test_a_frame_of_another_size_is_refused(pair):
    writer, _ = pair
    with pytest.raises(ValueError, match=r"a frame is \(6, 8, 3\) uint8, got \(8, 6, 3\)"):
        writer.publish(np.zeros((8, 6, 3), np.uint8), 0)


def test_no_frame_is_ever_torn(tmp_path):
    """A writer in another process, as fast as it can, against a reader that checks every pixel."""
    path = tmp_path / "front.frames"
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from embodiments.twin_camera.frames import FrameWriter\n"
        "w = FrameWriter(Path(sys.argv[1]), 96, 96, 30.0)\n"
        "n = 0\n"
        "print('ready', flush=True)\n"
        "import select\n"
        "while not select.select([sys.stdin], [], [], 0)[0]:\n"
        "    n += 1; w.publish(np.full((96, 96, 3), n % 251, np.uint8), n)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        process.stdout.readline()
        reader, seen = FrameReader(path), set()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            frame = reader.latest()
            if frame is not None:
                assert (frame.pixels == frame.source_ns % 251).all(), f"frame {frame.number} is torn"
                assert frame.number == frame.source_ns
                seen.add(frame.number)
        assert len(seen) > 100
    finally:
        process.stdin.close()
        process.wait(timeout=20)


@pytest.mark.parametrize("content", [None, b"", b"x" * 500])
def test_what_is_no_frame_file(tmp_path, content):
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FrameFileError, match=r"other: .*give the path it prints"):
        FrameReader(path)


def test_a_closed_writer_takes_its_file_along(pair):
    writer, reader = pair
    writer.publish(picture(5), 5)
    writer.close()
    assert not writer.path.exists()
    assert (reader.latest().pixels == 5).all(), "and leaves the last frame to who has it open"
