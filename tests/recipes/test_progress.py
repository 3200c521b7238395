"""Progress: rate and time left, as a bar on a terminal and as lines elsewhere."""

import io
import math
from types import SimpleNamespace

import pytest

from recipes.commands.progress import follow_training, format_duration, format_rate, progress


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_carry_rate_and_time_left():
    stream, clock = io.StringIO(), Clock()
    with progress("training", total=1000, unit="samples", stream=stream, clock=clock) as bar:
        for _ in range(100):
            clock.now_s += 0.5
            bar.advance(10, note="loss 0.5")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training: 40/1000 samples, 20 samples/s, 48 s left, loss 0.5"
    assert lines[1] == "training: 240/1000 samples, 20 samples/s, 38 s left, loss 0.5"
    assert lines[-1] == "training: 1000/1000 samples in 50 s, 20 samples/s, loss 0.5"
    assert len(lines) == 6  # at 2, 12, 22, 32, 42 s and the end: a log stays short


def test_what_is_quick_says_nothing():
    stream, clock = io.StringIO(), Clock()
    with progress("decoding", total=3, stream=stream, clock=clock) as bar:
        clock.now_s += 1.9
        bar.advance(3)
    assert stream.getvalue() == ""


def test_update_is_a_callback_of_done_and_total():
    stream, clock = io.StringIO(), Clock()
    with progress("decoding", total=1, unit="frames", stream=stream, clock=clock) as bar:
        clock.now_s += 4
        bar.update(8, 32)
    assert stream.getvalue().splitlines()[0] == "decoding: 8/32 frames, 2 frames/s, 12 s left"


def test_an_error_keeps_how_far_it_came():
    stream, clock = io.StringIO(), Clock()

    def record():
        with progress("recording", total=9, unit="episodes", stream=stream, clock=clock) as bar:
            bar.advance()
            clock.now_s += 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record()
    assert stream.getvalue() == "recording: 1/9 episodes in 4 s, 15 episodes/min\n"


def test_nothing_done_yet_has_no_time_left():
    stream, clock = io.StringIO(), Clock()
    with progress("recording", total=9, unit="episodes", stream=stream, clock=clock) as bar:
        clock.now_s += 3
        bar.update(0)
    assert stream.getvalue() == "recording: 0/9 episodes, 0 episodes/s, time left unknown\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with progress("training", total=4, unit="samples", stream=stream) as bar:
        bar.advance(3, note="loss 0.25")
        bar.update(4, note="loss 0.25")
    drawn = stream.getvalue()
    assert "4/4" in drawn
    assert "samples/" in drawn
    assert "loss 0.25" in drawn


def test_a_resumed_run_counts_only_its_own_work():
    stream, clock = io.StringIO(), Clock()
    with progress("training", total=1000, unit="samples", start=900, stream=stream, clock=clock) as bar:
        clock.now_s += 5
        bar.update(950)
    assert stream.getvalue().splitlines()[0] == "training: 950/1000 samples, 10 samples/s, 5 s left"


def test_training_gets_a_bar_for_each_activity(monkeypatch):
    monkeypatch.setattr("recipes.commands.progress.QUIET_S", 0.0)
    monkeypatch.setattr("recipes.commands.progress.LINE_EVERY_S", 0.0)
    stream = io.StringIO()
    with follow_training(stream) as show:
        show(SimpleNamespace(activity="decoding frames", done=5, total=10, loss=math.nan))
        show(SimpleNamespace(activity="stage 1", done=64, total=256, loss=0.5))
        show(SimpleNamespace(activity="stage 1", done=128, total=256, loss=0.25))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4  # each event, and the end of the bar that moved
    assert lines[0].startswith("decoding frames: 5/10 frames")
    assert lines[1].startswith("stage 1: 64/256 samples")
    assert lines[2].endswith("loss 0.2500")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("per_s", "text"), [(12.345, "12.3 it/s"), (0.5, "30 it/min"), (0, "0 it/s")])
def test_rates(per_s, text):
    assert format_rate(per_s, "it") == text
