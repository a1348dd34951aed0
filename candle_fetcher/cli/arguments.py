"""The words of a command as a Namespace: commands, flags, help. The library checks the values."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from candle_fetcher.cli.aligned import room, wrap
from candle_fetcher.console import is_on_terminal, printable
from candle_fetcher.core.errors import nearest
from candle_fetcher.core.types import FILE_FORMATS
from candle_fetcher.core.version import __version__

PORT = 8700
_TOP = """\
Candles (OHLCV) that are complete, correct and quick to get again.

Without a command, the flags are those of fetch. Data goes to stdout, messages
to stderr.
Exit codes: 0 ok, 1 error, 2 wrong input, 3 incomplete or partly failed,
130 interrupted."""
_TOP_EXAMPLES = """\
examples:
  candle-fetcher fetch BTC/USDT 1h --start 2024-03-01 --end 2024-03-02
  candle-fetcher -s BTC/USDT -i 1h -d 7
  candle-fetcher fetch BTC/USDT 1h --days 30 --practice    (no network needed)
  candle-fetcher COMMAND --help"""
_FETCH_EXAMPLES = """\
examples:
  candle-fetcher fetch BTC/USDT 1h --start 2024-03-01 --end 2024-03-02
  candle-fetcher fetch BTC/USDT 1d --days 365 > btc.csv
  candle-fetcher fetch --symbols BTC/USDT,ETH/USDT 4h --days 90 --export csv
  candle-fetcher fetch BTC/USDT 1m --limit 100 --json

On a terminal the first and last candles are shown. A pipe or file gets CSV,
with a column `symbol` in front when --symbols or --symbols-file is given."""
_EXPORT_EXAMPLES = """\
examples:
  candle-fetcher export BTC/USDT 1m --start 2020-01-01 --end 2024-01-01
  candle-fetcher export BTC/USDT 1h --days 30 --output btc.csv
  candle-fetcher export --symbols-file avail.csv 1d

With --partial the file of a symbol of which a part is missing ends in _partial,
and its manifest lies beside it.
With --symbols-file each symbol begins at its earliest_date, unless --start,
--days or --limit is given."""
_PLOT_EXAMPLES = """\
examples:
  candle-fetcher plot BTC/USDT 1h --days 30 --out chart.html
  candle-fetcher plot BTC/USDT 1m --start 2024 --out chart.png --dark
  candle-fetcher plot --symbols BTC/USDT,ETH/USDT 1d --days 365 --out both.html
  candle-fetcher plot BTC/USDT 1h --coverage --out stored.html

Several symbols are compared: how far each close has moved, in percent.
A file in .html works offline. A .png is drawn by Chromium, Chrome or Edge on
this machine, or by the browser that BROWSER_PATH names."""
_PLAN_EXAMPLES = """\
example:
  candle-fetcher plan BTC/USDT 1m --start 2020-01-01 --end 2024-01-01"""
_GAPS_EXAMPLES = """\
examples:
  candle-fetcher gaps BTC/USDT 1m --start 2023-03-24 --end 2023-03-25
  candle-fetcher gaps BTC/USDT 1h --days 30 --json"""
_AUDIT_EXAMPLES = """\
examples:
  candle-fetcher audit BTC/USDT 1d --start 2019-01-01 --end 2020-01-01
  candle-fetcher audit BTC/USDT 1d --days 30 --against 1h --json

Prints a line for each value that differs, and for each outlier: a value far
from those of its neighbours, which may be true. Exits with 1 where a value
differs."""
_FUNDING_EXAMPLES = """\
examples:
  candle-fetcher funding BTC/USDT --start 2024-01-01 --end 2024-02-01
  candle-fetcher funding BTC/USD --days 30 --provider binance-cm > funding.csv
  candle-fetcher funding ETH/USDT --source archive > funding.csv

A funding time is a few milliseconds after the hour, and is printed as sent;
--floor 1h moves it to the hour.
The files of the archive have no mark prices."""
_SYMBOLS_EXAMPLES = """\
examples:
  candle-fetcher symbols
  candle-fetcher symbols --provider binance-um | grep USDT
  candle-fetcher symbols --availability --out avail.csv

--availability lists the bases that Binance spot (in USDT), USD-M and COIN-M all
trade, with the first date of candles in the archive. Delete the rows that you
do not need: fetch and export take the file as --symbols-file."""
_QUOTES_EXAMPLES = """\
examples:
  candle-fetcher quotes BTC/USDT ETH/USDT
  candle-fetcher quotes BTC/USDT kraken:BTC/USD coingecko:bitcoin --json
  candle-fetcher quotes alpaca:AAPL --max-age 900
  candle-fetcher quotes BTC/USDT kraken:BTC/USD --practice   (no network needed)

Providers are asked side by side. Volumes are of 24 hours in the base asset; of
stocks, of the day. An age with a ! is stale. Exits with 3 where some symbols
have no quote, 1 where none has."""
_WATCH_EXAMPLES = """\
examples:
  candle-fetcher watch BTC/USDT ETH/USDT
  candle-fetcher watch BTC/USDT kraken:BTC/USD --every 5
  candle-fetcher watch BTC/USDT | jq .last_price
  candle-fetcher watch BTC/USDT kraken:BTC/USD --practice   (no network needed)

A table on a terminal, a line of JSON for each quote in a pipe, until Ctrl-C. By
WebSocket where the provider has streams, else by requests within its budget."""
_FOLLOW_EXAMPLES = """\
examples:
  candle-fetcher follow BTC/USDT 1m
  candle-fetcher follow BTC/USDT ETH/USDT 1m --start 2024-01-01 > candles.csv
  candle-fetcher follow BTC/USDT 1m --start 7d --vault vault
  candle-fetcher follow BTC/USDT 1s --practice              (no network needed)

Each settled candle once and in order, from the start on and then as they close,
until Ctrl-C. In a pipe as CSV, with --jsonl as JSON."""
_CACHE_EXAMPLES = """\
examples:
  candle-fetcher cache stats
  candle-fetcher cache list
  candle-fetcher cache clear BTC/USDT 1m
  candle-fetcher cache clear --yes
  candle-fetcher cache import XBTUSD_60.csv BTCUSDT-1m-2024-01.zip
  candle-fetcher cache import prices.csv --symbol BTC/USDT --timeframe 1h
  candle-fetcher cache backup candles.tar
  candle-fetcher cache restore candles.tar

import takes CSVs that export wrote, files of Binance's archive (zip or CSV) and
Kraken's downloadable OHLCVT CSVs. Flags give what the names do not say. Stored
candles stay: a file adds what is missing.

backup writes every series into one file while other programs go on; restore
checks the file to its end, and then adds what the cache lacks. Exits with 3
where something damaged was left out."""
_VAULT_EXAMPLES = """\
examples:
  candle-fetcher vault update vault BTC/USDT ETH/USDT 1m --start 2024-01-01
  candle-fetcher vault update vault        (all series; for cron: add -q)
  candle-fetcher vault list vault
  candle-fetcher vault verify vault
  candle-fetcher vault read vault BTC/USDT 1m --start 2024-03-01 > march.csv
  candle-fetcher vault remove vault ETH/USDT 1m
  candle-fetcher vault update sqlite:///candles.db BTC/USDT 1m --start 2024

Prints a line for each series. Exits with 3 where one is incomplete or failed;
what failed is as it was before."""
_PROVIDERS_EXAMPLES = """\
examples:
  candle-fetcher providers
  candle-fetcher fetch BTC/USD 1h --days 7 --provider kraken
  candle-fetcher fetch alpaca:AAPL 1d --days 30 --set alpaca.feed=iex

Keys are read from the environment, or from a file .env in the working folder:
ALPACA_API_KEY_ID=..."""

_VERIFY_EXAMPLES = """\
examples:
  candle-fetcher verify btc.parquet
  candle-fetcher verify historical_data/*.csv --json

Works the fingerprint out again, and compares it with the manifest in the file
or beside it; then each value with the cache, where that has it. Sends no
request. Exits with 0 where all files are whole and differ nowhere, 1 where none
is, and 3 where some are."""
_DOCTOR_EXAMPLES = """\
examples:
  candle-fetcher doctor
  candle-fetcher doctor --provider binance-um --json
  candle-fetcher doctor --practice    (no network needed)

Checks proxy, names, TLS, region block, clock, limits, keys, disk space,
permissions, cache and versions, and prints remedies; changes nothing.
Exits with 1 where a check fails."""
_SERVE_EXAMPLES = """\
examples:
  candle-fetcher serve
  candle-fetcher serve --practice    (no network needed)
  CANDLE_FETCHER_TOKEN=secret candle-fetcher serve --host 0.0.0.0 --port 8080
  curl 'http://127.0.0.1:8000/api/candles?symbol=BTC/USDT&timeframe=1h&days=7'

The URL goes to stdout, a line for each reply to stderr. candle-fetcher help
service shows the routes."""
_PRACTICE_EXAMPLES = """\
examples:
  candle-fetcher practice
  candle-fetcher practice --port 0 --delay 0.2 --weight-limit 100

A command that has --practice starts one for itself."""
_HELP_EXAMPLES = """\
examples:
  candle-fetcher help
  candle-fetcher help gaps
  candle-fetcher help kraken

The name of a command that has no page prints the help of that command."""
_SHELL_EXAMPLES = """\
examples:
  source <(candle-fetcher completion bash)    (in ~/.bashrc)
  source <(candle-fetcher completion zsh)     (in ~/.zshrc, after compinit)
  candle-fetcher completion fish | source     (in ~/.config/fish/config.fish)"""


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the command and its arguments: `symbol` or `symbols`, and `timeframe`, as words or as flags.

    Raises SystemExit: 2 for wrong usage, after a message on stderr, 0 for --help and --version.
    """
    parser, commands = make_parsers()
    words = list(argv)
    if not words:
        parser.print_help(sys.stderr)
        parser.exit(2)
    is_implied = words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")
    if not is_implied and words[0] not in commands and not words[0].startswith("-"):
        hint = _hint(words[0], commands) or _action_hint(words[0], commands)
        parser.error(f"unknown command {words[0]!r}; expected one of {', '.join(commands)}{hint}")
    arguments, left = parser.parse_known_args(["fetch", *words] if is_implied else words)
    chosen = commands[arguments.command]
    if is_implied and arguments.word in commands:
        chosen.error(f"the command comes before the flags: candle-fetcher {arguments.word} ...")
    if any(word.startswith("-") for word in left):
        wrong = [word for word in left if word.startswith("-")]
        known = [flag for action in chosen._actions for flag in action.option_strings]
        chosen.error(f"unknown flags: {' '.join(wrong)}{_hint(wrong[0].partition('=')[0], known)}")
    if hasattr(arguments, "word"):
        _name_series(arguments, left, chosen)
    elif hasattr(arguments, "files"):
        arguments.files += left  # argparse takes those before the first flag
    elif left:
        chosen.error(f"unexpected: {' '.join(left)}")
    return arguments


def _hint(word: str, known: Iterable[str]) -> str:
    meant = nearest(word, known)
    return f"; did you mean {meant}?" if meant else ""


def _action_hint(word: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return a hint to the commands that have an action of this name."""
    having = [name for name, made in commands.items() for one in made._actions if word in (one.choices or ())]
    return f"; did you mean {' or '.join(f'{name} {word}' for name in having)}?" if having else ""


def _name_series(arguments: argparse.Namespace, left: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Set symbols and timeframe from the bare words: argparse takes those before the first flag and leaves the
    others."""
    words = [word for word in (arguments.word, arguments.second, *left) if word is not None]
    several = getattr(arguments, "symbols", None)
    if several is not None:
        arguments.symbols = [name.strip() for name in several.split(",") if name.strip()]
        if not arguments.symbols:
            parser.error("--symbols names none; expected some, such as BTC/USDT,ETH/USDT")
    elif arguments.symbol is None and getattr(arguments, "symbols_file", None) is None:
        if not words:
            parser.error("a symbol is missing, such as BTC/USDT")
        arguments.symbol = words.pop(0)
    if arguments.timeframe is None:
        arguments.timeframe = words.pop(0) if words else "1h"
    if words:
        hint = "; several symbols go into one flag: --symbols A,B" if hasattr(arguments, "symbols") else ""
        parser.error(f"unexpected: {' '.join(words)}{hint}")


class _Parser(argparse.ArgumentParser):
    """A parser that prints help texts as they are written, and takes no abbreviated flags."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **facts)

    def error(self, message: str) -> NoReturn:
        said = printable(f"{self.prog}: error: {message}")
        lines = wrap(said, room(), "", "  ") if is_on_terminal(sys.stderr) else [said]
        self.exit(2, "\n".join([*lines, f"see {self.prog} --help\n"]))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            hint = _hint(str(value), names)
            raise argparse.ArgumentError(action, f"unknown {value!r}; expected one of {', '.join(names)}{hint}")


@functools.cache
def make_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of all words, and the parser of each command by its name."""
    parser = _Parser(prog="candle-fetcher", description=_TOP, epilog=_TOP_EXAMPLES)
    _add_version(parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")

    def command(name: str, line: str, examples: str) -> argparse.ArgumentParser:
        made = subparsers.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.", epilog=examples)
        commands[name] = made
        return made

    commands: dict[str, argparse.ArgumentParser] = {}
    _add_fetch(command("fetch", "get candles: show them, pipe them or save them", _FETCH_EXAMPLES))
    export = command("export", "write candles to a file, in constant memory", _EXPORT_EXAMPLES)
    _add_series(export, several=True)
    _add_range(export)
    _add_rows(export)
    output = export.add_argument_group("output")
    output.add_argument("--format", choices=FILE_FORMATS, help="default: by the ending of --output, else csv")
    _add_output(output)
    _add_plot(command("plot", "draw candles, with their gaps, into an HTML or PNG file", _PLOT_EXAMPLES))
    plan = command("plan", "show what a fetch would request and its cost; sends no request", _PLAN_EXAMPLES)
    _add_series(plan)
    _add_range(plan)
    gaps = command("gaps", "list the missing candles of a range, with their causes", _GAPS_EXAMPLES)
    _add_series(gaps)
    _add_range(gaps, counts=False)
    gaps.add_argument(
        "--coverage",
        action="store_true",
        help="show what the cache knows of the series, with evidence; sends no request",
    )
    audit = command("audit", "compare candles with finer ones, the archive and the cache", _AUDIT_EXAMPLES)
    _add_series(audit)
    _add_range(audit, counts=False)
    audit.add_argument(
        "--against", metavar="WHAT", help="finer, archive, cache, neighbours or a timeframe; default: all"
    )
    _add_funding(command("funding", "get the funding rates of a perpetual future", _FUNDING_EXAMPLES))
    _add_symbols(command("symbols", "list the symbols of a provider", _SYMBOLS_EXAMPLES))
    _add_quotes(command("quotes", "show what providers say of symbols now", _QUOTES_EXAMPLES))
    _add_watch(command("watch", "show quotes as they change, until Ctrl-C", _WATCH_EXAMPLES))
    _add_follow(command("follow", "get candles as they close, from history on, until Ctrl-C", _FOLLOW_EXAMPLES))
    vault = command("vault", "keep series in a folder: update, list, verify, read, remove", _VAULT_EXAMPLES)
    _add_vault(vault)
    for made in (commands["fetch"], export, commands["plot"], plan, gaps, audit, vault):
        _add_settings(made)
    command("providers", "show what each provider offers and needs; sends no request", _PROVIDERS_EXAMPLES)
    _add_cache(command("cache", "show, check or clear the cache; import files; back up and restore", _CACHE_EXAMPLES))
    _add_verify(command("verify", "check files that export wrote: whole, and equal to the cache", _VERIFY_EXAMPLES))
    _add_settings(command("doctor", "check network, provider, disk, cache and versions", _DOCTOR_EXAMPLES))
    _add_serve(command("serve", "serve candles over HTTP on this machine until Ctrl-C", _SERVE_EXAMPLES))
    _add_practice(command("practice", "serve a practice exchange on this machine until Ctrl-C", _PRACTICE_EXAMPLES))
    pages = command("help", "print a page of the documentation; without a name, list the pages", _HELP_EXAMPLES)
    pages.add_argument("page", nargs="?", metavar="PAGE", help="such as gaps, cache or kraken")
    completion = command("completion", "print a script by which a shell completes commands and flags", _SHELL_EXAMPLES)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    pages.set_defaults(commands=tuple(commands))
    for name, made in commands.items():
        _add_others(name, made.add_argument_group("other"))
    return parser, commands


def _add_version(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--version", action="version", version=f"candle-fetcher {__version__}")


def _add_others(name: str, other: argparse._ActionsContainer) -> None:
    """Add the flags that every command has, or every one that prints rows."""
    if name not in ("serve", "practice", "help", "completion"):
        _add_shape(other, "a summary with the candles under `rows`" if name == "fetch" else "one document")
    other.add_argument("-q", "--quiet", action="store_true", help="say only what is wrong; what is asked for comes")
    other.add_argument("--log-level", metavar="LEVEL", help="log on stderr: debug, info, warning, error")
    other.add_argument("--debug", action="store_true", help="print tracebacks, and the durations of all operations")
    _add_version(other)


def _add_shape(parser: argparse._ActionsContainer, document: str) -> None:
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help=f"print JSON: {document}")
    shape.add_argument("--jsonl", action="store_true", help="print JSON lines: a row on each, as it comes")


def _add_fetch(fetch: argparse.ArgumentParser) -> None:
    _add_series(fetch, several=True)
    _add_range(fetch)
    _add_rows(fetch)
    output = fetch.add_argument_group("output")
    output.add_argument("--export", choices=FILE_FORMATS, help="write a file for each symbol and print its path")
    _add_output(output)


def _add_plot(plot: argparse.ArgumentParser) -> None:
    _add_series(plot, several=True)
    _add_range(plot)
    _add_rows(plot)
    output = plot.add_argument_group("picture")
    output.add_argument(
        "--out", "--output", dest="output", metavar="FILE", required=True, help="a name that ends in .html or .png"
    )
    output.add_argument("--coverage", action="store_true", help="draw what the cache has; sends no request")
    output.add_argument("--dark", action="store_true", help="light text on a dark ground")
    output.add_argument("--no-volume", action="store_true", help="leave out the volumes")
    output.add_argument("--width", type=int, default=1400, metavar="N", help="pixels of a PNG; default: 1400")
    output.add_argument("--height", type=int, default=800, metavar="N", help="default: 800")


def _add_rows(parser: argparse.ArgumentParser) -> None:
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--on-gap",
        metavar="HOW",
        help="leave (default), raise or refetch; ffill and interpolate invent rows and mark them",
    )
    rows.add_argument(
        "--include-open", action="store_true", help="add candles that may still change, with a column is_closed"
    )
    rows.add_argument("--refresh", action="store_true", help="fetch everything in the range again")
    rows.add_argument(
        "--partial",
        action="store_true",
        help="give what there is where a part cannot be fetched; name the rest; exit 3",
    )


def _add_funding(funding: argparse.ArgumentParser) -> None:
    funding.add_argument("symbol", metavar="SYMBOL", help="such as BTC/USDT")
    _add_range(funding, counts=False, what="funding times in UTC; default: all")
    rows = funding.add_argument_group("rows")
    rows.add_argument("--refresh", action="store_true", help="fetch everything in the range again")
    rows.add_argument(
        "--floor", metavar="TIMEFRAME", help="move times that are a few ms late to its borders, such as 1h"
    )
    _add_settings(funding, providers="binance-um (default) or binance-cm")


def _add_symbols(symbols: argparse.ArgumentParser) -> None:
    symbols.add_argument(
        "--availability", action="store_true", help="symbols that Binance spot, um and cm all have, with first dates"
    )
    symbols.add_argument("--out", "--output", metavar="FILE", help="write a CSV file and print its path")
    _add_settings(symbols)


def _add_quotes(quotes: argparse.ArgumentParser) -> None:
    quotes.add_argument("files", nargs="+", metavar="SYMBOL", help="such as BTC/USDT or kraken:BTC/USD")
    group = quotes.add_argument_group("time")
    group.add_argument("--timeout", type=float, default=5.0, metavar="S", help="wait S seconds at most; default: 5")
    group.add_argument("--max-age", type=float, metavar="S", help="mark quotes older than S seconds as stale")
    _add_settings(quotes)


def _add_watch(watch: argparse.ArgumentParser) -> None:
    watch.add_argument("files", nargs="+", metavar="SYMBOL", help="such as BTC/USDT or kraken:BTC/USD")
    group = watch.add_argument_group("time")
    group.add_argument("--every", type=float, metavar="S", help="show a symbol once in S seconds at most")
    group.add_argument(
        "--max-age",
        type=float,
        default=10.0,
        metavar="S",
        help="mark quotes older than S seconds as stale; default: 10",
    )
    _add_settings(watch)


def _add_follow(follow: argparse.ArgumentParser) -> None:
    follow.add_argument("files", nargs="+", metavar="WORD", help="SYMBOL... TIMEFRAME, such as BTC/USDT 1m")
    group = follow.add_argument_group("series")
    group.add_argument("-i", "--timeframe", help="the timeframe, as a flag; default: 1h")
    group.add_argument("--kind", default="candles", help="candles (default); mark, index, premium on Binance futures")
    group.add_argument(
        "--start", metavar="TIME", help="2024-03-01, 7d, yesterday, first; default: the next candle that closes"
    )
    rows = follow.add_argument_group("rows")
    rows.add_argument("--include-open", action="store_true", help="show the forming candle, too, as it changes")
    rows.add_argument("--revisions", action="store_true", help="show a candle again that its provider has changed")
    rows.add_argument("--max-delay", type=float, metavar="S", help="end with an error if a candle is S seconds late")
    rows.add_argument("--vault", metavar="WHERE", help="let the series of this vault grow along")
    _add_settings(follow)


def _add_vault(vault: argparse.ArgumentParser) -> None:
    vault.add_argument("action", choices=("update", "list", "verify", "read", "remove"), help="what to do")
    vault.add_argument("where", metavar="WHERE", help="the folder of the vault, or a URL: of a database, s3://…")
    vault.add_argument(
        "files", nargs="*", metavar="WORD", help="update: SYMBOL... TIMEFRAME; read, remove: one of each"
    )
    group = vault.add_argument_group("series")
    group.add_argument("--symbols", metavar="A,B,C", help="several symbols, as a flag")
    group.add_argument("-i", "--timeframe", help="the timeframe, as a flag")
    group.add_argument("--kind", default="candles", help="candles (default); mark, index, premium on Binance futures")
    group.add_argument("--start", metavar="TIME", help="where a new series begins, or first; read: the first row")
    group.add_argument("--end", metavar="TIME", help="excluded; default: the last settled candle")
    group.add_argument(
        "--partial", action="store_true", help="write what there is where a part cannot be fetched; exit 3"
    )
    files = vault.add_argument_group("files", "of a new vault; one that is there keeps its own")
    files.add_argument("--format", help="csv (default), parquet or arrow, which need the extra arrow")
    files.add_argument("--columns", metavar="SET", help="ohlcv (default), all, or HEADER=COLUMN,...")
    files.add_argument("--separator", metavar="C", help="between two fields; default: ,")
    files.add_argument("--decimal", metavar="C", help="the decimal sign: . (default) or ,")
    files.add_argument("--decimals", type=int, metavar="N", help="decimals of each number; default: as many as it has")


def _add_serve(serve: argparse.ArgumentParser) -> None:
    group = serve.add_argument_group("address")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1; others need a token")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0 takes a free port")
    group.add_argument("--token", metavar="TEXT", help="asked of every request; also CANDLE_FETCHER_TOKEN")
    group.add_argument("--allow-origin", action="append", metavar="URL", help="another site that may read; repeatable")
    group.add_argument("--allow-host", action="append", metavar="NAME", help="another name of this server; repeatable")
    _add_settings(serve)


def _add_practice(practice: argparse.ArgumentParser) -> None:
    practice.add_argument("--port", type=int, default=PORT, metavar="N", help=f"default: {PORT}; 0 takes a free port")
    practice.add_argument("--delay", type=float, default=0.0, metavar="S", help="seconds before every reply")
    practice.add_argument("--weight-limit", type=int, metavar="N", help="weight per minute; default: Binance's")
    practice.add_argument("--seed", type=int, default=1, metavar="N", help="each number is another market")


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("files", nargs="+", metavar="FILE", help="such as btc.parquet")
    verify.add_argument("--cache-dir", metavar="DIR", help="default: the user's cache folder")
    verify.add_argument("--practice", action="store_true", help="the cache of --practice")
    verify.add_argument(
        "--base-url", action="append", metavar="ID=URL", help="the host of the candles, if not the provider's own"
    )


def _add_cache(cache: argparse.ArgumentParser) -> None:
    actions = ("stats", "list", "clear", "verify", "compact", "revisions", "import", "backup", "restore")
    cache.add_argument("action", choices=actions, metavar="ACTION", help=", ".join(actions))
    cache.add_argument(
        "files",
        nargs="*",
        metavar="WORD",
        help="import: files; clear: SYMBOL and TIMEFRAME; backup and restore: a file that ends in .tar",
    )
    cache.add_argument("--yes", action="store_true", help="clear without asking")
    cache.add_argument("--cache-dir", metavar="DIR", help="default: the user's cache folder")
    cache.add_argument("--practice", action="store_true", help="the cache of --practice")
    group = cache.add_argument_group(
        "series", "import: what the files hold, where names do not say it; clear: what goes"
    )
    group.add_argument("-s", "--symbol", help="such as BTC/USDT")
    group.add_argument("-i", "--timeframe", help="such as 1h")
    group.add_argument("--kind", help="candles; mark, index, premium on Binance futures")
    group.add_argument("--provider", metavar="ID", help="default: binance")
    group.add_argument(
        "--base-url",
        action="append",
        metavar="ID=URL",
        help="import: the host of the candles, if not the provider's own; repeatable",
    )


def _add_series(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    parser.add_argument("word", nargs="?", metavar="SYMBOL", help="such as BTC/USDT")
    parser.add_argument(
        "second", nargs="?", metavar="TIMEFRAME", help="1h (default), 1m, 1d, 1w, 1M ...; also 45m, 10h or 4hours"
    )
    group = parser.add_argument_group("series")
    names = group.add_mutually_exclusive_group()
    names.add_argument("-s", "--symbol", help="the symbol, as a flag")
    if several:
        names.add_argument("--symbols", metavar="A,B,C", help="several symbols")
        names.add_argument(
            "--symbols-file",
            metavar="FILE",
            help="symbols of a CSV with a column `symbol`, as symbols --availability has",
        )
    group.add_argument("-i", "--timeframe", help="the timeframe, as a flag")
    group.add_argument("--kind", default="candles", help="candles (default); mark, index, premium on Binance futures")


def _add_range(parser: argparse.ArgumentParser, *, counts: bool = True, what: str = "opening times in UTC") -> None:
    newest = "; default: the newest 500" if counts else ""
    group = parser.add_argument_group("range", f"[start, end) of {what}{newest}")
    group.add_argument("--start", metavar="TIME", help="2024-03-01, 2024-03-01T12:00Z, Unix ms, 7d, yesterday, first")
    group.add_argument("--end", metavar="TIME", help="excluded; default: now")
    group.add_argument("-d", "--days", type=float, metavar="N", help="N days before the end")
    if counts:
        group.add_argument("--limit", type=int, metavar="N", help="N candles: the first from start, else the newest")


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        metavar="PATH",
        help="a folder (default: historical_data), or a name in .csv, .csv.gz, .parquet, .arrow, .feather, .xlsx or "
        ".jsonl",
    )
    group.add_argument("--name", help="the name of the file in the folder, without its ending; {symbol} is replaced")
    group.add_argument(
        "--columns",
        default="ohlcv",
        metavar="SET",
        help="ohlcv (default), all, or of a file HEADER=COLUMN,... such as ds=timestamp,y=close",
    )
    group.add_argument("--separator", default=",", metavar="CHAR", help="of a CSV file: ';', '|', 'tab'; default: ,")
    group.add_argument("--decimal", default=".", metavar="CHAR", help="decimal sign of a CSV file: . (default) or ,")
    group.add_argument("--decimals", type=int, metavar="N", help="round each number of a CSV file to N decimals")
    group.add_argument("--manifest", action="store_true", help="write the manifest beside the file, as JSON")


def _add_settings(
    parser: argparse.ArgumentParser, *, providers: str = "default: binance; the command providers lists them"
) -> None:
    group = parser.add_argument_group(
        "settings", "what is not given is read from CANDLE_FETCHER_*: candle-fetcher help settings"
    )
    group.add_argument("--provider", metavar="ID", help=providers)
    group.add_argument("--source", help="auto (default), rest, archive, cache (sends no request)")
    group.add_argument(
        "--set", action="append", metavar="ID.NAME=VALUE", help="a setting of a provider (see providers); repeatable"
    )
    hosts = group.add_mutually_exclusive_group()
    hosts.add_argument("--base-url", action="append", metavar="ID=URL", help="another host for a provider; repeatable")
    hosts.add_argument(
        "--practice", action="store_true", help="use a practice exchange in this process; needs no network"
    )
    group.add_argument("--performance-mode", metavar="MODE", help="low, standard (default) or high")
    group.add_argument("--no-cache", action="store_true", help="neither read nor write the cache")
    group.add_argument("--cache-dir", metavar="DIR", help="default: the user's cache folder")
    group.add_argument("--cache-size", type=float, metavar="MB", help="megabytes in memory; default: 256")
    group.add_argument("--cache-ttl", type=float, metavar="S", help="use cached newest candles for S seconds at most")
