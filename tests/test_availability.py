"""Which bases are traded on spot, um and cm alike, since when: the listing of the bucket, the method, the command, and
the file that --symbols-file reads."""

from __future__ import annotations

import csv
import http.server
import io
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World, ms

from candle_fetcher import (
    AccessDenied,
    CandleFetcherError,
    IncompleteData,
    NotOffered,
    ProviderRefused,
    ReplyError,
    TransportError,
)
from candle_fetcher.cli import main
from candle_fetcher.cli.symbols_file import read_symbols_file
from candle_fetcher.practice import faults
from candle_fetcher.practice.damage import missing
from candle_fetcher.providers import Listed, Listing
from candle_fetcher.providers.binance_bucket import (
    CM,
    SPOT,
    UM,
    Trio,
    find_first_ms,
    find_intervals,
    find_trios,
    parse_listing,
)

COLUMNS = ["market", "symbol", "earliest_date", "available_intervals", "um", "cm"]
DAILY = "1s,1m,3m,5m,15m,30m,1h,2h,4h,6h,8h,12h,1d"
BTC = ["spot", "BTCUSDT", "2017-08-17", DAILY, "BTCUSDT", "BTCUSD_PERP"]
ETH = ["spot", "ETHUSDT", "2017-08-17", DAILY, "ETHUSDT", "ETHUSD_PERP"]
TEXT = f"""\
market,symbol,earliest_date,available_intervals,um,cm
spot,BTCUSDT,2017-08-17,"{DAILY}",BTCUSDT,BTCUSD_PERP
spot,ETHUSDT,2017-08-17,"{DAILY}",ETHUSDT,ETHUSD_PERP
"""
FOLDER = "data/spot/daily/klines/BTCUSDT/"


def listing(*parts: str, cut: str = "false", prefix: str = FOLDER, head: str = "") -> bytes:
    """A listing with these keys, and folders, which end in a slash."""
    entries = "".join(
        f"<CommonPrefixes><Prefix>{part}</Prefix></CommonPrefixes>"
        if part.endswith("/")
        else f"<Contents><Key>{part}</Key><Size>1</Size></Contents>"
        for part in parts
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{head}'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>data.binance.vision</Name>'
        f"<Prefix>{prefix}</Prefix><Marker></Marker><IsTruncated>{cut}</IsTruncated>{entries}</ListBucketResult>"
    ).encode()


# -- the listing -------------------------------------------------------------------------------------------------------


def test_the_prefix_of_the_root_is_no_folder() -> None:
    page = parse_listing(listing(f"{FOLDER}1d/", f"{FOLDER}README", f"{FOLDER}1m/"), FOLDER)
    assert page == ((f"{FOLDER}README",), (f"{FOLDER}1d/", f"{FOLDER}1m/"), None)


def test_a_cut_listing_goes_on_after_its_last_entry_or_where_it_says() -> None:
    unnamed = listing(f"{FOLDER}1h/", f"{FOLDER}A&amp;B", f"{FOLDER}15m/", cut="true")
    assert parse_listing(unnamed, FOLDER).next_marker == f"{FOLDER}A&B"
    named = unnamed.replace(b"<Marker>", b"<NextMarker>data/spot/daily/klines/BTCUSDT/9</NextMarker><Marker>")
    assert parse_listing(named, FOLDER).next_marker == f"{FOLDER}9"


def test_the_recorded_listing_is_read(shared: Path) -> None:
    body = (shared / "recorded" / "binance_vision" / "s3_listing_um_daily_trades_2026-09.xml").read_bytes()
    page = parse_listing(body, "data/futures/um/daily/trades/BTCUSDT/BTCUSDT-trades-2026-09")
    assert (len(page.keys), page.folders, page.next_marker) == (3, (), None)
    assert find_first_ms(page.keys) == ms("2026-09-01")


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "expected an XML listing of data/spot/daily/klines/BTCUSDT/, got 0 bytes"),
        (b"<html><body>a page</body></html>", "expected an XML listing"),
        (listing(f"{FOLDER}1d/", cut=""), "with the element IsTruncated"),
        (listing("data/spot/daily/klines/ETHUSDT/1d/"), "got 'data/spot/daily/klines/ETHUSDT/1d/'"),
        (listing(cut="true"), "to begin after '', got the marker ''"),
        (listing(f"{FOLDER}1d/", head=LAUGHS), "without a DTD"),
        (listing(f"{FOLDER}1d/", head=LAUGHS).decode().replace("UTF-8", "UTF-16").encode("utf-16"), "without a DTD"),
        (b"<a>" * 100_000 + b"</a>" * 100_000, "at most 8 nested elements"),
        (listing(f"{FOLDER}1d/") + b" " * 2**22, "at most"),
    ],
)
def test_what_is_no_listing_is_a_reply_error(body: bytes, said: str) -> None:
    with pytest.raises(ReplyError, match=said):
        parse_listing(body, FOLDER)


def test_a_page_that_leads_back_is_a_reply_error() -> None:
    with pytest.raises(ReplyError, match=f"to begin after '{FOLDER}1d/', got the marker '{FOLDER}1d/'"):
        parse_listing(listing(f"{FOLDER}1d/", cut="true"), FOLDER, f"{FOLDER}1d/")


def test_intervals_are_in_the_order_of_their_length_and_nothing_else_is_one() -> None:
    names = ("12h", "15m", "1d", "1h", "1m", "1mo", "1s", "1w", "3d", "trades", "0m", "4h")
    assert find_intervals(f"{FOLDER}{name}/" for name in names) == (
        *("1s", "1m", "15m", "1h", "4h", "12h", "1d", "3d", "1w", "1mo"),
    )


def test_the_first_day_is_that_of_a_zip() -> None:
    def key(end: str) -> str:
        return f"{FOLDER}1d/BTCUSDT-1d-{end}"

    keys = [key("2017-08-16.zip.CHECKSUM"), key("2017-13-01.zip"), key("2017-08-18.zip"), key("2017-08-17.zip")]
    assert find_first_ms(keys) == ms("2017-08-17")
    assert find_first_ms(keys[:2]) is None


# -- the bases ---------------------------------------------------------------------------------------------------------


def listed(base: str, quote: str, id_: str = "", status: str = "TRADING", symbol: str = "") -> Listed:
    return Listed(symbol or f"{base}/{quote}", id_ or base + quote, base, quote, status, True)


def trios(spot: list[Listed], um: list[Listed], cm: list[Listed]) -> list[Trio]:
    return find_trios(
        {market: Listing((), tuple(some)) for market, some in zip((SPOT, UM, CM), (spot, um, cm), strict=True)}
    )


def test_a_base_counts_where_it_is_traded_on_all_three() -> None:
    names = ("BTC", "ETH", "HALTED", "PENDING", "NO_CM", "DELIVERED")
    spot = [listed(name, "USDT", status="BREAK" if name == "HALTED" else "TRADING") for name in names]
    spot += [listed("BTC", "USDC"), listed("ETH", "BTC"), listed("EURONLY", "EUR")]
    um = [listed(name, "USDT", status="PENDING_TRADING" if name == "PENDING" else "TRADING") for name in names]
    um += [
        listed("BTC", "USDC"),
        listed("BTC", "USDT", "BTCUSDT_260925", symbol="BTCUSDT_260925"),
        listed("EURONLY", "USDT"),
    ]
    cm = [listed(name, "USD", f"{name}USD_PERP") for name in (*names[:4], "EURONLY")]
    cm += [listed("DELIVERED", "USD", "DELIVEREDUSD_260925", symbol="DELIVEREDUSD_260925")]
    assert trios(spot, um, cm) == [("BTCUSDT", "BTCUSDT", "BTCUSD_PERP"), ("ETHUSDT", "ETHUSDT", "ETHUSD_PERP")]


@pytest.mark.parametrize("wrong", ["=1+1", "../x", "A,B", 'A"B', "+A", "@A", "-A", "A\nB", "x" * 41])
def test_an_id_that_could_be_a_formula_or_a_path_is_refused(wrong: str) -> None:
    spot, um, cm = [listed("BTC", "USDT", wrong)], [listed("BTC", "USDT")], [listed("BTC", "USD")]
    with pytest.raises(ReplyError, match="which cannot be a symbol"):
        trios(spot, um, cm)


# -- the method --------------------------------------------------------------------------------------------------------


def test_each_base_has_a_row_with_what_the_archive_has(world: World) -> None:
    frame = world.fetcher().availability()
    assert list(frame.columns) == COLUMNS
    assert frame.to_numpy().tolist() == [BTC, ETH]


def test_it_costs_a_listing_a_market_and_two_a_base_and_the_former_serve_for_a_day(world: World) -> None:
    world.fetcher().availability()
    paths = [request.path for request in world.exchange.requests]
    assert sorted(path for path in paths if path != "/") == [
        "/api/v3/exchangeInfo",
        "/dapi/v1/exchangeInfo",
        "/fapi/v1/exchangeInfo",
    ]
    assert paths.count("/") == 4
    world.exchange.clear_log()
    world.fetcher().availability()
    assert [request.path for request in world.exchange.requests] == ["/"] * 4


def test_a_listing_of_many_pages_is_read_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from candle_fetcher.practice import bucket

    monkeypatch.setattr(bucket, "_MOST", 3)
    for names_marker in (True, False):
        world.exchange.archive.next_marker = names_marker
        assert world.fetcher().availability().to_numpy().tolist() == [BTC, ETH]


def test_zips_that_are_gone_do_not_hide_the_first_that_is_there(world: World) -> None:
    world.exchange.archive.spoil(lambda key: "BTCUSDT/1d/BTCUSDT-1d-2017" in key, missing())
    frame = world.fetcher().availability()
    assert dict(zip(frame["symbol"], frame["earliest_date"], strict=True))["BTCUSDT"] == "2018-01-01"
    assert frame["symbol"].tolist() == ["ETHUSDT", "BTCUSDT"]  # the oldest first


@pytest.mark.slow
def test_where_the_bucket_has_no_day_the_first_candle_by_rest_counts(tmp_path: Path) -> None:
    with World(tmp_path, now="2020-09-01T12:00:30") as world:  # all are listed, and there are few days to go through
        world.exchange.archive.spoil(lambda key: "/ETHUSDT/" in key, missing())
        frame = world.fetcher().availability()
        assert frame.iloc[1].tolist() == [*ETH[:2], "2017-08-17", "", *ETH[4:]]
        assert any(request.path == "/api/v3/klines" for request in world.exchange.requests)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    ("action", "error"),
    [
        (faults.status(500), TransportError),
        (faults.status(404), ProviderRefused),
        (faults.status(451), AccessDenied),
        (faults.body(b"<html>no listing</html>"), ReplyError),
        (faults.cut(0.5), TransportError),
    ],
)
def test_a_listing_that_cannot_be_had_is_an_error_and_no_shorter_table(world: World, action: Any, error: type) -> None:
    world.exchange.fail(action, times=None, match=lambda path, params: "ETHUSDT" in params.get("prefix", ""))
    with pytest.raises(error):
        world.fetcher(max_retries=0).availability()


@pytest.mark.parametrize("path", ["/api/v3/exchangeInfo", "/fapi/v1/exchangeInfo", "/dapi/v1/exchangeInfo"])
def test_an_exchange_info_that_cannot_be_had_is_an_error(world: World, path: str) -> None:
    world.exchange.fail(faults.status(500), times=None, match=path)
    with pytest.raises(TransportError):
        world.fetcher(max_retries=0).availability()


def test_a_listing_is_asked_for_again_after_a_fault(world: World) -> None:
    world.exchange.fail(faults.cut(0.5), match=lambda path, params: "prefix" in params)
    assert len(world.fetcher().availability()) == 2


def test_without_anybody_to_ask_there_is_no_answer(world: World) -> None:
    with pytest.raises(IncompleteData, match="source='cache' allows no other source"):
        world.fetcher(source="cache").availability()
    urls = {name: url for name, url in world.exchange.base_urls.items() if name != "binance-archive"}
    with pytest.raises(NotOffered, match="binance-archive"):
        world.fetcher(base_urls=urls).availability()


@pytest.mark.slow
def test_closing_the_fetcher_ends_the_call(world: World) -> None:
    fault = world.exchange.fail(faults.hang(60), times=None, match=lambda path, params: "prefix" in params)
    fetcher = world.fetcher()
    closer = threading.Timer(0.2, fetcher.close)
    closer.start()
    with pytest.raises(CandleFetcherError, match="closed"):
        fetcher.availability()
    closer.join()
    fault.stop()
    with pytest.raises(CandleFetcherError, match="closed"):
        fetcher.availability()


@contextmanager
def bucket_server(answer: Callable[[dict[str, str]], bytes]) -> Iterator[str]:
    """The root of an archive below a path, which answers listings and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = urllib.parse.urlsplit(self.path)
            assert target.path == "/mirror/"
            body = answer(dict(urllib.parse.parse_qsl(target.query, keep_blank_values=True)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/mirror"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_only_the_root_that_was_given_is_asked_for_the_listing(world: World) -> None:
    asked = []

    def answer(params: dict[str, str]) -> bytes:
        asked.append(params)
        prefix = params["prefix"]
        if prefix.endswith("/1d/"):
            name = prefix.split("/")[4]
            return listing(f"{prefix}{name}-1d-2020-02-03.zip", prefix=prefix)
        names = [name for name in ("15m", "1d", "1h") if f"{prefix}{name}/" > params.get("marker", "")]
        return listing(f"{prefix}{names[0]}/", prefix=prefix, cut=str(len(names) > 1).lower())

    with bucket_server(answer) as root:
        frame = world.fetcher(base_urls={**world.exchange.base_urls, "binance-archive": root}).availability()
    assert frame["available_intervals"].tolist() == ["15m,1h,1d"] * 2
    assert frame["earliest_date"].tolist() == ["2020-02-03"] * 2
    assert len(asked) == 8
    assert all(params["delimiter"] == "/" for params in asked)
    assert not any("prefix" in request.params for request in world.exchange.requests)


# -- the command -------------------------------------------------------------------------------------------------------


class Line:
    """The command line against one exchange."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.world = world
        self.capsys = capsys
        self.folder = folder
        self.hosts = [w for name, url in world.exchange.base_urls.items() for w in ("--base-url", f"{name}={url}")]

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main([*map(str, words), *self.hosts, "--cache-dir", str(self.folder / "cache")])
        return (code, *self.capsys.readouterr())

    def file(self, text: str | bytes, name: str = "symbols.csv") -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path


@pytest.fixture
def line(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(world, capsys, tmp_path)


def test_the_command_writes_the_table_and_prints_where(line: Line, tmp_path: Path) -> None:
    target = tmp_path / "lists" / "avail.csv"
    code, out, err = line("symbols", "--availability", "--out", target)
    assert (code, out) == (0, f"{target}\n")
    assert "avail.csv, 2 symbols" in err
    assert target.read_bytes() == TEXT.encode()
    assert pd.read_csv(target).to_numpy().tolist() == [BTC, ETH]
    assert list(target.parent.iterdir()) == [target]
    assert line("symbols", "--availability")[1] == TEXT


def test_a_failure_leaves_the_file_that_was_there(line: Line) -> None:
    old = line.file("old\n", "avail.csv")
    line.world.exchange.fail(faults.status(404), times=None, match=lambda path, params: "prefix" in params)
    code, out, err = line("symbols", "--availability", "--out", old)
    assert (code, out) == (1, "")
    assert "no listing" in err
    assert old.read_bytes() == b"old\n"


def test_symbols_of_a_provider_go_into_a_file_too(line: Line, tmp_path: Path) -> None:
    code, _, _ = line("symbols", "--provider", "binance-cm", "--out", tmp_path / "cm.csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "cm.csv").read_text())))
    assert "BTCUSD_PERP" in [row["provider_symbol"] for row in rows]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("symbols", "--availability", "--provider", "binance-um"), "leave it out"),
        (("symbols", "--availability", "--out", "x.csv", "--json"), "leave one of them out"),
        (("export", "--symbols", "A/B,C/D", "1h", "--output", "x.csv"), "give a folder"),
        (("export", "--symbols-file", "x.csv", "1h", "--output", "y.csv"), "--symbols-file may be several"),
        (("fetch", "--symbols-file", "x.csv", "--symbols", "BTC/USDT", "1h"), "not allowed with"),
        (("fetch", "--symbols-file", "x.csv", "BTC/USDT", "1h"), "unexpected: 1h"),
    ],
)
def test_what_does_not_go_together_is_said(line: Line, words: tuple[str, ...], said: str) -> None:
    code, out, err = line(*words)
    assert (code, out) == (2, "")
    assert said in err


# -- a file of symbols -------------------------------------------------------------------------------------------------

DAYS = ("1d", "--start", "2024-03-01", "--end", "2024-03-03")
SEMICOLONS = TEXT.replace(f'"{DAILY}"', DAILY.replace(",", "|")).replace(",", ";").replace("|", ",")


@pytest.mark.slow(every=4)
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        TEXT.rstrip(),
        TEXT.replace("spot,ETH", "\n,,,,,\n  \nspot,ETH") + "\n\n",
        TEXT + "spot,btcusdt,2017-08-17,,,\n",
        SEMICOLONS,
        SEMICOLONS.replace(";", "\t"),
        ";;;;;\n" + SEMICOLONS,
        "symbol\nBTCUSDT\nETHUSDT\n",
        "note,Symbol\nmine,BTC/USDT\n,ETH-USDT\n",
        '"market","symbol"\n"","BTCUSDT"\n"SPOT"," ETHUSDT "\n',
    ],
)
def test_a_file_that_was_shortened_or_saved_again_names_its_symbols(line: Line, text: str) -> None:
    code, out, _ = line("fetch", "--symbols-file", line.file(text), *DAYS)
    assert code == 0
    assert [row.split(",")[0:2] for row in out.splitlines()[1:]] == [
        [symbol, f"2024-03-0{day} 00:00:00"] for symbol in ("BTC/USDT", "ETH/USDT") for day in (1, 2)
    ]
    assert out.startswith("symbol,timestamp,")


def test_what_is_fetched_by_file_is_what_is_fetched_by_name(line: Line) -> None:
    by_file = line("fetch", "--symbols-file", line.file(TEXT), *DAYS, "--columns", "all")
    by_name = line("fetch", "--symbols", "BTC/USDT,ETH/USDT", *DAYS, "--columns", "all")
    assert by_file[:2] == by_name[:2]


@pytest.mark.slow
def test_the_market_of_a_row_chooses_the_provider(line: Line, tmp_path: Path) -> None:
    file = line.file("market,symbol\nspot,BTCUSDT\num,BTCUSDT\ncm,BTCUSD_PERP\n")
    code, out, err = line("fetch", "--symbols-file", file, "1d", "--start", "2024-03-01", "--end", "2024-03-02")
    assert code == 0
    assert [row.split(",")[0] for row in out.splitlines()[1:]] == [
        "binance:BTC/USDT",
        "binance-um:BTC/USDT",
        "binance-cm:BTC/USD",
    ]
    assert "binance, binance-um, binance-cm" in err
    assert line("fetch", "--symbols-file", file, *DAYS, "--columns", "all")[0] == 2
    folder = tmp_path / "out"
    code, out, _ = line("export", "--symbols-file", file, *DAYS, "--output", folder)
    assert code == 0
    assert [Path(name).name for name in out.splitlines()] == [
        "BTC_USDT_1d_20240301_20240303.csv",
        "binance-um_BTC_USDT_1d_20240301_20240303.csv",
        "binance-cm_BTC_USD_1d_20240301_20240303.csv",
    ]


def test_a_provider_that_was_asked_for_is_that_of_rows_without_a_market(line: Line) -> None:
    words = ("--provider", "binance-um", *DAYS)
    out = line("fetch", "--symbols-file", line.file("symbol\nBTCUSDT\n"), *words)[1]
    assert out == line("fetch", "--symbols", "BTCUSDT", *words)[1]
    code, _, err = line("fetch", "--symbols-file", line.file(TEXT), *words)
    assert code == 2
    assert "line 2 of " in err
    assert "leave one of them out" in err


def first_row(path: str) -> str:
    return Path(path).read_text().splitlines()[1].split(",")[0]


@pytest.mark.slow
def test_an_export_without_a_range_begins_with_the_earliest_date(line: Line, tmp_path: Path) -> None:
    file = line.file("symbol,earliest_date\nBTCUSDT,2024-06-01\nETHUSDT,2024-05-01\n")
    code, out, err = line("export", "--symbols-file", file, "1d", "--output", tmp_path / "all", "--source", "rest")
    assert code == 0
    assert [first_row(path) for path in out.splitlines()] == ["2024-06-01 00:00:00", "2024-05-01 00:00:00"]
    assert "each from its earliest_date to now" in err
    words = ("export", "--symbols-file", file, "1d", "--output", tmp_path / "part")
    begins = [first_row(path) for path in line(*words, "--start", "2024-06-10")[1].splitlines()]
    assert begins == ["2024-06-10 00:00:00"] * 2
    until = line(*words, "--end", "2024-06-03")[1].splitlines()
    assert [Path(path).name for path in until] == [
        "BTC_USDT_1d_20240601_20240603.csv",
        "ETH_USDT_1d_20240501_20240603.csv",
    ]
    assert len(Path(line(*words, "--limit", "3")[1].splitlines()[0]).read_text().splitlines()) == 4


def test_a_date_that_cannot_be_read_matters_only_where_it_is_needed(line: Line, tmp_path: Path) -> None:
    file = line.file("symbol,earliest_date\nBTCUSDT,17.8.2017\n")
    code, _, err = line("export", "--symbols-file", file, "1d", "--output", tmp_path)
    assert code == 2
    assert "line 2 of " in err
    assert "'17.8.2017'" in err
    assert line("export", "--symbols-file", file, *DAYS, "--output", tmp_path)[0] == 0


def test_several_symbols_are_exported_into_a_file_each(line: Line, tmp_path: Path) -> None:
    code, out, _ = line("export", "--symbols", "BTC/USDT,ETH/USDT,BTC/USDT", *DAYS, "--output", tmp_path)
    assert code == 0
    by_name = [Path(path).read_bytes() for path in out.splitlines()]
    again = line("export", "--symbols-file", line.file(TEXT), *DAYS, "--output", tmp_path / "again")[1].splitlines()
    assert [Path(path).read_bytes() for path in again] == by_name
    assert len(by_name) == 2


def test_a_whole_archive_by_symbol_and_date_is_read(shared: Path) -> None:
    path = shared / "market_data" / "vision_meta" / "all_markets_earliest_dates.csv"
    targets = read_symbols_file(str(path), None, "binance")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(target.symbol, target.start()) for target in targets] == [
        (row["symbol"], row["earliest_date"]) for row in rows
    ]
    assert {target.provider for target in targets} == {"binance", "binance-um", "binance-cm"}


@pytest.mark.slow
def test_one_symbol_that_fails_loses_no_other(line: Line, tmp_path: Path) -> None:
    file = line.file("market,symbol\nspot,BTCUSDT\nspot,XRQUSDT\num,XRQUSDT\ncm,ETHUSD_PERP\n")
    code, out, err = line("export", "--symbols-file", file, *DAYS, "--output", tmp_path)
    assert (code, len(out.splitlines())) == (3, 2)
    assert "2 of 4 symbols failed" in err
    assert "binance:XRQUSDT: " in err
    assert "binance-um:XRQUSDT: " in err
    code, out, err = line("fetch", "--symbols-file", file, *DAYS)
    assert (code, len(out.splitlines())) == (3, 5)
    assert "2 of 4 symbols failed" in err


@pytest.mark.slow(every=3)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column `symbol`"),
        ("BTCUSDT\nETHUSDT\n", "has no column `symbol`"),
        ("market,symbol\n,,\n", "names no symbol"),
        ("market,symbol\nspot,BTCUSDT\nspot,\n", "line 3 of "),
        ("market,symbol\noption,BTCUSDT\n", "has the market 'option'; expected one of spot, um, cm"),
        ("symbol\nBTCUSDT\n=1+cmd|'A1'\n", "line 3 of "),
        ("symbol\nBTCUSDT\n\n@SUM(A1)\n", "line 4 of "),
        ("symbol\n+BTCUSDT\n", "is not valid for"),
        ("symbol\n-BTCUSDT\n", "is not valid for"),
        (TEXT.replace('"', ""), "line 2 of "),
        ('symbol\n"BTCUSDT\nETHUSDT\n', "is not CSV"),
        ("symbol\nBTC\0USDT\n", "line 2 of "),
        (b"symbol\nBTCUSDT\xff\n", "is not text in UTF-8"),
        (TEXT.encode("utf-16"), "is not text in UTF-8"),
    ],
)
def test_a_file_that_is_wrong_is_said_in_a_sentence(line: Line, text: str | bytes, said: str) -> None:
    code, out, err = line("fetch", "--symbols-file", line.file(text), *DAYS)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not line.world.exchange.requests


def test_a_file_that_is_not_there_is_wrong_input(line: Line, tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        code, _, err = line("fetch", "--symbols-file", path, *DAYS)
        assert code == 2
        assert f"{path} cannot be read" in err


def test_the_written_file_is_read_as_it_is(line: Line, tmp_path: Path) -> None:
    target = tmp_path / "avail.csv"
    line("symbols", "--availability", "--out", target)
    target.write_text("".join(target.read_text().splitlines(keepends=True)[:2]))
    code, out, _ = line("export", "--symbols-file", target, "1w", "--output", tmp_path / "candles")
    assert code == 0
    (path,) = out.splitlines()
    assert first_row(path) == "2017-08-21 00:00:00"  # the first week that opens on or after that day
