"""Reports on files: a line for each on stdout, and the values that differ below it; or a document of JSON."""

from __future__ import annotations

from typing import Any

from candle_fetcher.cli.tables import print_lines
from candle_fetcher.core.gap import iso
from candle_fetcher.files.layout import TIME
from candle_fetcher.files.report import FileReport

_SHOWN = 10


def print_report(report: FileReport) -> None:
    """Print the line of a report and the first values that differ."""
    print_lines(report)
    differences = report.differences
    if differences is None or isinstance(differences, str):
        return
    for one in differences[:_SHOWN]:
        time = f"{one.timestamp:%Y-%m-%d %H:%M:%S}"
        if one.column == TIME:
            print(f"  {time}  {'only in the cache' if one.file is None else 'only in the file'}")
        else:
            print(f"  {time}  {one.column}: {_text(one.file)} in the file, {_text(one.cache)} in the cache")
    if len(differences) > _SHOWN:
        print(f"  and {len(differences) - _SHOWN:,} more; --json lists them")


def report_document(report: FileReport) -> dict[str, Any]:
    """Return a report as JSON shows it."""
    differences: Any = report.differences
    if isinstance(differences, tuple):
        differences = [
            {
                "timestamp": iso(one.timestamp.value // 1_000_000),
                "column": one.column,
                "file": one.file,
                "cache": one.cache,
            }
            for one in differences
        ]
    return {
        "path": str(report.path),
        "whole": report.whole,
        "rows": report.rows,
        "missing": report.missing,
        "fingerprint": report.fingerprint,
        "differences": differences,
    }


def _text(value: float | int | None) -> str:
    return "nothing" if value is None else repr(value)
