"""The command `plot`: candles, several series or the cache as a picture in a file."""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd

from candle_fetcher import plot as pictures
from candle_fetcher.cli.documents import is_json, print_document
from candle_fetcher.cli.opening import names_several, open_fetcher, read_targets
from candle_fetcher.cli.symbols_file import Target
from candle_fetcher.cli.tables import print_path
from candle_fetcher.cli.talk import Talk, show_checks, show_missing
from candle_fetcher.core.errors import FetchManyError, InputError
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.memory import many_failed
from candle_fetcher.core.sizes import size_text
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.plot.saving import check_save


def plot(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `plot`: draw the candles of a symbol, compare several, or with --coverage draw what the cache has."""
    check_save(arguments.output, arguments.width, arguments.height)  # before anything is fetched
    targets = read_targets(arguments)
    names = {_name(target): target.label(mixed=len({one.provider for one in targets}) > 1) for target in targets}
    theme = "dark" if arguments.dark else "light"
    frames: dict[str, pd.DataFrame] = {}
    errors: dict[str, Exception] = {}
    with open_fetcher(arguments, talk) as fetcher:
        if arguments.coverage:
            figure = _draw_coverage(fetcher, arguments, list(names), theme)
        else:
            wanted = {key: getattr(arguments, key) for key in ("timeframe", "start", "end", "days", "limit", "kind")}
            try:
                frames = fetcher.fetch_many(names, **wanted, **_row_options(arguments))
            except FetchManyError as error:
                if not names_several(arguments):
                    raise next(iter(error.errors.values())) from None
                frames, errors = error.frames, error.errors
                if not frames:
                    raise
            frames = {names[name]: frame for name, frame in frames.items()}
            for frame in frames.values():
                show_checks(talk, frame, is_cached=not arguments.no_cache)
                show_missing(talk, frame.attrs[MANIFEST], arguments.source)
            if len(targets) > 1:
                figure = pictures.compare(frames, theme=theme)
            else:
                figure = pictures.candles(next(iter(frames.values())), volume=not arguments.no_volume, theme=theme)
    path = pictures.save(figure, arguments.output, width=arguments.width, height=arguments.height)
    talk.fact("written", f"{path.name}, {size_text(path.stat().st_size)}", "good")
    if is_json(arguments):
        print_document({"path": str(path), "bytes": path.stat().st_size}, arguments)
    else:
        print_path(path)
    if errors:
        raise many_failed(frames, errors)
    return 3 if any("missing" in frame.attrs[MANIFEST] for frame in frames.values()) else 0


def _name(target: Target) -> str:
    return target.symbol if target.provider is None else f"{target.provider}:{target.symbol}"


def _row_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "include_open": arguments.include_open,
        "on_gap": arguments.on_gap or "leave",
        "refresh": arguments.refresh,
        "partial": "allow" if arguments.partial else "raise",
    }


def _draw_coverage(fetcher: CandleFetcher, arguments: argparse.Namespace, names: list[str], theme: str) -> Any:
    if arguments.limit is not None:
        raise InputError(
            f"--limit {arguments.limit} counts candles, and --coverage shows a range; use --start or --days"
        )
    return pictures.coverage(
        fetcher,
        names,
        arguments.timeframe,
        arguments.start,
        arguments.end,
        days=arguments.days,
        kind=arguments.kind,
        theme=theme,
    )
