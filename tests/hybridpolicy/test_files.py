"""JSON files: whole or untouched."""

import json
from pathlib import Path

import pytest

from hybridpolicy.files import write_json


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "a" / "b.json"
    write_json(file, {"rate": 0.5})
    write_json(file, {"rate": 0.75})
    assert json.loads(file.read_text()) == {"rate": 0.75}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("fails", ["content", "disk"])
def test_what_was_there_stays_if_the_new_cannot_be_written(tmp_path, monkeypatch, fails):
    file = tmp_path / "b.json"
    write_json(file, [1])
    if fails == "disk":
        written = Path.write_text

        def full(path, text, **rest):
            written(path, text[:1], **rest)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(TypeError if fails == "content" else OSError):
        write_json(file, {1, 2} if fails == "content" else [2])
    assert json.loads(file.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [file]
