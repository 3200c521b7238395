"""What a run leaves behind: `report.json` for machines and one self-contained `report.html` for people.

schema.py      the keys of a report, and `write_report_json`
checking.py    a dict against those keys
bars.py        promises about single numbers, `judge_bars`
media.py       `EpisodeClip` and `FutureStrip`, and their encoding into the page
metrics.py     the learning curves, from the trainer's metrics.jsonl
charts.py      inline SVG: dots with intervals, bars, lines
wording.py     numbers as people read them
html.py        `write_report_html`; its templates, style and script are in assets/
"""
