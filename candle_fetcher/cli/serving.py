"""The command `serve`: candles over HTTP until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os

from candle_fetcher.cli.opening import open_fetcher
from candle_fetcher.cli.talk import Talk
from candle_fetcher.service.server import serve as run_server

_TOKEN = "CANDLE_FETCHER_TOKEN"


def serve(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `serve`. Return 0 once a signal has ended it."""
    log = logging.getLogger("candle_fetcher.service")
    if not arguments.quiet:
        _log_to_stderr(log)

    def said(url: str) -> None:
        print(url, flush=True)
        talk.say(f"Serving candles at {url} until Ctrl-C; {url}/docs lists the routes.")

    with open_fetcher(arguments, talk) as fetcher:
        run_server(
            fetcher,
            host=arguments.host,
            port=arguments.port,
            token=arguments.token if arguments.token is not None else os.environ.get(_TOKEN),
            allow_origins=arguments.allow_origin or (),
            hosts=arguments.allow_host or (),
            on_listening=said,
        )
    talk.say("ended")
    return 0


def _log_to_stderr(log: logging.Logger) -> None:
    """Log a line for each reply on stderr, and nowhere else."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
