"""The command `serve`: candles over HTTP until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator

from candle_fetcher.cli.opening import open_fetcher
from candle_fetcher.cli.talk import Talk
from candle_fetcher.service.server import check_address
from candle_fetcher.service.server import serve as run_server

_TOKEN = "CANDLE_FETCHER_TOKEN"


def serve(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `serve`. Return 0 once a signal has ended it."""

    def said(url: str) -> None:
        print(url, flush=True)
        talk.say(f"Serving candles at {url} until Ctrl-C; {url}/docs lists the routes.")

    token = arguments.token if arguments.token is not None else os.environ.get(_TOKEN)
    check_address(arguments.host, arguments.port, token)
    with open_fetcher(arguments, talk) as fetcher, _logging_to_stderr(is_on=not arguments.quiet):
        run_server(
            fetcher,
            host=arguments.host,
            port=arguments.port,
            token=token,
            allow_origins=arguments.allow_origin or (),
            hosts=arguments.allow_host or (),
            on_listening=said,
        )
    talk.say("ended")
    return 0


@contextlib.contextmanager
def _logging_to_stderr(*, is_on: bool) -> Iterator[None]:
    """Log a line for each reply on stderr, and nowhere else, in a block."""
    log = logging.getLogger("candle_fetcher.service")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = log.level, log.propagate
    if is_on:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before
