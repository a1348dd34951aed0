"""Code of a user, read by type checkers and never run: an error is expected on each line that ends in `# wrong`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import candle_fetcher
from candle_fetcher import (
    Alignment,
    CandleFetcher,
    FetchManyError,
    FetchPlan,
    FileReport,
    GapPolicy,
    IncompleteData,
    IncompletePolicy,
    JoinPolicy,
    Progress,
    Quotes,
    SourceName,
    Vault,
    combine,
    export,
    fetch,
    fetch_many,
    find_gaps,
    fingerprint,
    gaps,
    manifest_of,
    plan,
    read_csv,
    read_file,
    resample,
    summary,
    symbols,
    verify_file,
)


def show(progress: Progress) -> None:
    print(progress.label, progress.done, progress.total)


def fetch_both(source: SourceName, on_gap: GapPolicy) -> pd.DataFrame:
    with CandleFetcher("binance", cache_dir=Path("cache"), performance_mode="high", progress=show) as fetcher:
        one: pd.DataFrame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", dt.date(2024, 2, 1), source=source)
        both: dict[str, pd.DataFrame] = fetcher.fetch_many(
            ["BTC/USDT", "ETH/USDT"], "1h", days=7, on_gap=on_gap, partial="warn"
        )
        pieces: Iterator[pd.DataFrame] = fetcher.iter_frames("BTC/USDT", "1m", "2020", rows=10_000, columns="all")
        path: Path = fetcher.export("BTC/USDT", "1d", limit=100, path="btc.csv", manifest=True)
        planned: FetchPlan = fetcher.plan("BTC/USDT", "1m", "2020-01-01", kind="mark", provider="binance-um")
        first: pd.Timestamp = fetcher.first_available("BTC/USDT")
        rates: pd.DataFrame = fetcher.fetch_funding("BTC/USDT", days=30, provider="binance-um", source="rest")
        cleared: int = fetcher.cache.clear("BTC/USDT")
        print(fetcher.monitor.report(), planned.requests, first, rates, cleared, path, *pieces)
    return combine({"BTC": one, **both}, "close")


def call_the_package() -> None:
    frame: pd.DataFrame = fetch("BTC/USDT", "1h", days=1, include_open=True)
    frames: dict[str, pd.DataFrame] = fetch_many(("BTC/USDT",), "1h", "2024-01-01", refresh=True)
    path: Path = export("BTC/USDT", "1h", "2024-01-01", "2024-01-02", format="csv")
    planned: FetchPlan = plan("BTC/USDT", "1h", limit=10)
    listed: pd.DataFrame = symbols(provider="kraken")
    missing: pd.DataFrame = gaps("BTC/USDT", "1h", "2024-01-01")
    print(read_csv(path), summary(frame), find_gaps(frame, "1h"), frames, planned, listed, missing)


def make_frames(fetcher: CandleFetcher, align: Alignment, how: JoinPolicy, incomplete: IncompletePolicy) -> None:
    hours = fetcher.fetch("BTC/USDT", "1h", days=7)
    days: pd.DataFrame = resample(hours, "1d", incomplete=incomplete)
    rates: pd.DataFrame = fetcher.fetch_funding("BTC/USDT", provider="binance-um", floor="1h")
    table: pd.DataFrame = combine([days, rates], "close", align=align, how=how)
    manifest = manifest_of(table)
    if manifest is not None:
        print(manifest["symbol"], manifest.get("changed"))
    text: str = fingerprint(hours, "1h")
    again: pd.DataFrame = read_file(Path("x.parquet"), columns={"ds": "timestamp"})
    report: FileReport = verify_file("x.parquet", fetcher=fetcher)
    print(text, again, report.is_good, report.missing, resample(again, "4h", base="1h"))


def grow_a_vault(fetcher: CandleFetcher) -> None:
    with Vault("vault", fetcher, format="csv", columns={"ds": "timestamp"}, separator=";", context=20) as vault:
        report: pd.DataFrame = vault.update(["BTC/USDT"], "1h", "2024-01-01", partial="warn")
        frame: pd.DataFrame = vault.read("BTC/USDT", "1h", "2024-01-01")
        path: Path = Path(vault.path("BTC/USDT", "1h"))
        print(report, frame, path, vault.series(), vault.verify())


def read_errors() -> None:
    try:
        candle_fetcher.fetch("BTC/USDT", "1h")
    except IncompleteData as error:
        if error.frame is not None:
            print(error.frame["close"].mean())
        print([(gap.first, gap.last, gap.count, gap.cause) for gap in error.missing], error.fix)
    except FetchManyError as error:
        frames: dict[str, pd.DataFrame] = error.frames
        reasons: dict[str, Exception] = error.errors
        print(frames, reasons)


def misspell(fetcher: CandleFetcher) -> None:
    fetcher.fetch("BTC/USDT", "1h", source="arhive")  # wrong
    fetcher.fetch("BTC/USDT", "1h", on_gaps="leave")  # wrong
    fetcher.fetch("BTC/USDT", "1h", on_gap="fill")  # wrong
    fetcher.fetch("BTC/USDT", "1h", columns="OHLCV")  # wrong
    fetcher.fetch_many(["BTC/USDT"], "1h", interval="1h")  # wrong
    fetcher.plan("BTC/USDT", "1h", kind="klines")  # wrong
    fetcher.export("BTC/USDT", "1h", format="parquett")  # wrong
    fetcher.fetch("BTC/USDT", "1h", partial="alow")  # wrong
    fetcher.export("BTC/USDT", "1h", partial=True)  # wrong
    fetcher.iter_frames("BTC/USDT", "1h", row=10)  # wrong
    CandleFetcher(performance_mode="fast")  # wrong
    CandleFetcher(cachedir="cache")  # wrong
    fetch("BTC/USDT", "1h", limits=10)  # wrong
    candle_fetcher.gaps("BTC/USDT", "1h", source="memory")  # wrong
    candle_fetcher.fetch_all("BTC/USDT", "1h")  # wrong
    print(fetch("BTC/USDT", "1h").clos_e())  # wrong
    fetcher.fetch("BTC/USDT", "1h", output="panda")  # wrong
    fetcher.fetch_funding("BTC/USDT", floors="1h")  # wrong
    fetcher.fetch_many(["BTC/USDT"], "1h", executer=None)  # wrong
    export("BTC/USDT", "1h", seperator=";")  # wrong
    export("BTC/USDT", "1h", decimals="2")  # wrong
    export("BTC/USDT", "1h", colums={"ds": "timestamp"})  # wrong


def misspell_frames(frame: pd.DataFrame, path: Path) -> None:
    resample(frame, "4h", incomplete="dropp")  # wrong
    resample(frame, timeframe="4h", bases="1h")  # wrong
    resample(frame, 4)  # wrong
    combine([frame], "close", align="days")  # wrong
    combine([frame], "close", how="outr")  # wrong
    combine([frame], colum="close")  # wrong
    read_csv(path, column={"ds": "timestamp"})  # wrong
    read_file(path, columns=["timestamp"])  # wrong
    fingerprint(frame)  # wrong
    print(manifest_of(frame)["symbol"])  # wrong
    verify_file(path, fetchr=None)  # wrong
    print(verify_file(path).hole)  # wrong
    summary(frame, timefrme="1h")  # wrong


def misspell_a_vault(vault: Vault, fetcher: CandleFetcher) -> None:
    Vault("vault", fetcher, format="parquett")  # wrong
    Vault("vault", fetcher, colums="all")  # wrong
    vault.update(["BTC/USDT"], "1h", partial="alow")  # wrong
    vault.update(["BTC/USDT"], "1h", begin="2024")  # wrong
    vault.read("BTC/USDT", "1h", output="panda")  # wrong
    vault.reed("BTC/USDT", "1h")  # wrong


def misspell_quotes(fetcher: CandleFetcher) -> None:
    quotes: Quotes = fetcher.quotes(["BTC/USDT"], timeout_s=2)
    print(quotes[0].last_price, quotes.to_frame())
    fetcher.quotes(["BTC/USDT"], timeout=2)  # wrong
    print(quotes[0].last_prize)  # wrong


def misread(error: IncompleteData, several: FetchManyError, planned: FetchPlan) -> None:
    print(error.frame.empty)  # wrong
    print(error.missing[0].start)  # wrong
    print(several.frame)  # wrong
    print(planned.request)  # wrong
