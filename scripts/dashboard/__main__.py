"""Writes deploy/grafana/verbatim.json: `python -m scripts.dashboard`."""

from scripts.dashboard.file import FILE, text

FILE.write_text(text(), encoding="utf-8")
