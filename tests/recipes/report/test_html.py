"""The page: self-contained, escaped, and made of the report's numbers only."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import pytest

from recipes.report import html as html_module
from recipes.report.bars import judge_bars
from recipes.report.checking import ReportError
from recipes.report.html import SECTIONS, by_turns, write_report_html
from recipes.report.media import EpisodeClip, FutureStrip
from recipes.report.schema import Language, Latency, Stage1, World

VOID = {"meta", "img", "input", "br", "link", "hr"}
METRICS = [
    {
        "stage": stage,
        "step": step,
        "samples": first + 100 * step,
        "loss": 2.0 / step,
        "samples_per_s": 500.0 + step,
    }
    for stage, first in (("stage1", 0), ("stage2", 1000))
    for step in range(1, 11)
]


class Page(HTMLParser):
    """Start tags with attributes, visible text, and a check that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.json = ""
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self._open == [], "tags left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, name = self._open[-1] if self._open else ("", None)
        if name == "report-json":
            self.json += data
        elif tag not in ("style", "script"):
            self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def write(tmp_path: Path, *args: Any, **options: Any) -> str:
    return write_report_html(tmp_path / "report.html", *args, **options).read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path: Path, report: dict[str, Any], clips: list[EpisodeClip], strips: list[FutureStrip]) -> Page:
    return Page(write(tmp_path, report, clips, strips, METRICS))


def test_the_page_loads_nothing_from_outside(page: Page) -> None:
    policy = next(
        tag["content"] for tag in page.named("meta") if tag.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    resources = [
        value
        for _, tag in page.tags
        for name, value in tag.items()
        if name in ("src", "href", "poster", "srcset")
    ]
    assert len(resources) > 10
    for resource in resources:
        assert resource is not None
        assert resource.startswith(("data:image/", "data:video/mp4;base64,", "#")), resource[:60]
    assert not page.named("link")
    for name in ("style.css", "page.js"):
        source = (Path(html_module.__file__).parent / "assets" / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//\w|@import|url\(", source.replace("// ", "")), name


def test_the_numbers_travel_with_the_page(page: Page, report: dict[str, Any]) -> None:
    assert json.loads(page.json) == report


READ_BY_PEOPLE = (
    "43 of 48 held-out episodes",
    "11 min 02 s",
    "touch red",
    "push blue",
    "two-stage instruction",
    "imagine = always",
    "1.31 M",
    "1 844 MiB",
    "Privileged loss: object positions",
    "hybridpolicy train --recipe so101_twin",
    "All 6 bars are met.",
    "stage1",
    "+0.4 s",
)


@pytest.mark.parametrize("text", READ_BY_PEOPLE)
def test_people_read_the_main_numbers(text: str, page: Page) -> None:
    assert text in page.text.replace("\u202f", " ")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


def changed(report: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """The report with one value a little different, its bars judged again."""
    root = copy.deepcopy(report)
    target: Any = root
    for key in path[:-1]:
        target = target[key]
    value = target[path[-1]]
    if isinstance(value, str):
        target[path[-1]] = value + " more"
    elif isinstance(value, int):
        target[path[-1]] = value * 2 if value > 1000 else value + 1
    else:
        target[path[-1]] = value * 1.02 if value < 1 else value * 1.5
    if path[0] != "bars":
        root["bars"] = judge_bars(root, root["bars"])
    return root


def test_every_value_of_the_report_changes_what_is_shown(
    tmp_path: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The check of totals would refuse a single changed count.
    monkeypatch.setattr("recipes.report.schema._rate_problems", lambda _: [])
    # Where the page has a better source: minutes give way to wall_s, and the title names the recipe's page.
    hidden = {("train_minutes",)}
    judged = {("bars", index, name) for index in range(6) for name in ("value", "passed", "key")}
    before = Page(write(tmp_path, report))
    paths = [path for path in leaves(report) if path not in hidden | judged]
    unchanged = []
    for path in paths:
        after = Page(write(tmp_path, changed(report, path)))
        if (after.text, after.tags) == (before.text, before.tags):
            unchanged.append(".".join(map(str, path)))
    assert len(paths) > 70
    assert unchanged == []


def test_text_from_the_report_is_escaped(
    tmp_path: Path, report: dict[str, Any], clips: list[EpisodeClip]
) -> None:
    attack = '</pre><script>alert(1)</script><img src="http://example.com/x" onerror=alert(1)>"\''
    report["options"] = [attack]
    report["success"]["by_task"]["touch_red"]["label"] = attack
    clip = EpisodeClip(attack, attack, True, 3, clips[0].cameras, 10.0, outcome=attack)
    metrics = [{**row, "stage": attack} for row in METRICS]
    page = Page(write(tmp_path, report, [clip], metrics=metrics))
    assert len(page.named("script")) == 1
    assert not [tag for tag in page.named("img") if "onerror" in tag]
    assert page.text.count(attack) >= 4
    assert json.loads(page.json)["options"] == [attack]
    assert [tag["data-task"] for tag in page.named("figure") if tag.get("class") == "clip"] == [attack]


def test_videos_decode_to_every_frame_and_play_everywhere(page: Page, clips: list[EpisodeClip]) -> None:
    videos = page.named("video")
    assert len(videos) == len(clips)
    shown = by_turns(clips)
    for tag, clip in zip(videos, shown, strict=True):
        source = tag["src"]
        assert source is not None
        with av.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert "Baseline" in (stream.codec_context.profile or "")
            assert float(stream.average_rate or 0) == 10.0
        assert len(frames) == len(clip.cameras["front"])
        label = tag["aria-label"]
        assert label is not None
        assert clip.instruction in label
        assert ("succeeded" if clip.success else "failed") in label


def test_each_clip_says_its_task_and_outcome(page: Page) -> None:
    cards = [tag for tag in page.named("figure") if tag.get("class") == "clip"]
    assert [(tag["data-task"], tag["data-outcome"]) for tag in cards] == [
        ("touch the red", "success"),
        ("push the blue", "success"),
        ("touch the red", "failure"),
    ]
    assert "Failed 1" in page.text
    assert "time limit · 41 steps" in page.text
    assert "All 3 filmed episodes" in page.text


def test_too_many_episodes_are_thinned_evenly_and_said_so(
    tmp_path: Path, report: dict[str, Any], clips: list[EpisodeClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = len(write(tmp_path, report, clips * 6).encode())
    bare = len(write(tmp_path, report).encode())
    limit = bare + (full - bare) // 2
    monkeypatch.setattr(html_module, "MAX_HTML_BYTES", limit)
    text = write(tmp_path, report, clips * 6)
    page = Page(text)
    kept = len(page.named("video"))
    assert len(text.encode()) <= limit
    assert 2 <= kept < 18
    assert f"{kept} of 18 filmed episodes, chosen evenly" in page.text
    assert "failures are not left out" in page.text


def test_a_page_too_large_without_episodes_is_refused(
    tmp_path: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_module, "MAX_HTML_BYTES", 5_000)
    with pytest.raises(ReportError, match=r"MB without any episode; allowed are 0 MB"):
        write(tmp_path, report)


def test_strips_show_now_and_every_row(page: Page) -> None:
    pictures = [tag["alt"] for tag in page.named("img")]
    assert pictures[0] == "The frame now"
    assert len(pictures) == 1 + 3 * 2
    assert "Imagined, +0.8\u202fs" in pictures


def test_what_is_absent_is_named_and_never_shown_as_a_number(tmp_path: Path, report: dict[str, Any]) -> None:
    page = Page(write(tmp_path, {"success": report["success"]}))
    for meaning in (
        *SECTIONS.values(),
        "learning curves",
        "videos of episodes",
        "pictures of imagined futures",
    ):
        assert meaning in page.text
    assert "Not in this report" in page.text
    headings = {tag["id"] for tag in page.named("h2")}
    assert headings == {"success", "run", "json"}
    for word in ("None", "nan", "undefined", "Undefined"):
        assert word not in page.text.split()


def test_optional_keys_of_present_sections_may_be_absent(tmp_path: Path, report: dict[str, Any]) -> None:
    for section, kind in (
        ("language", Language),
        ("world", World),
        ("stage1", Stage1),
        ("latency_ms", Latency),
    ):
        optional = kind.__optional_keys__ & report[section].keys()
        assert optional
        for key in optional:
            del report[section][key]
    del report["loader"]["lerobot_samples_per_s"]
    text = Page(write(tmp_path, report)).text
    assert "+4 frames" in text
    assert "at most" in text


def test_a_missed_bar_is_said_first_and_never_rounded_away(tmp_path: Path, report: dict[str, Any]) -> None:
    report["world"]["skill"] = 0.29996
    report["bars"] = judge_bars(report)
    text = Page(write(tmp_path, report)).text
    assert "5 of 6 bars are met. Missed: world skill over copying the last latent" in text
    assert "✕ missed" in text
    assert text.count("0.29996") == 2


def test_numbers_below_zero_stay_on_the_chart(tmp_path: Path, report: dict[str, Any]) -> None:
    report["world"] |= {"skill": -0.4, "probe_r2_imagined": -7.5}
    report["bars"] = judge_bars(report)
    page = Page(write(tmp_path, report))
    assert "−7.5" in page.text
    places = [float(tag["cx"].rstrip("%")) for tag in page.named("circle") if tag["cx"]]
    assert len(places) > 10
    assert all(0 <= place <= 100 for place in places)


def test_a_report_without_success_is_refused(tmp_path: Path, report: dict[str, Any]) -> None:
    del report["success"]
    with pytest.raises(ReportError, match=r"5 of 5 .* missing: success\.rate"):
        write(tmp_path, report)
    assert not (tmp_path / "report.html").exists()


def test_labels_have_their_fields(page: Page) -> None:
    assert page.named("html") == [{"lang": "en"}]
    assert all(
        tag.get("aria-label") or tag.get("aria-hidden") for tag in page.named("svg") if tag.get("y") is None
    )
    assert all(tag.get("alt") for tag in page.named("img"))
    assert len(page.named("h1")) == 1
    identifiers = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(identifiers) == len(set(identifiers)) > 10
