"""The routes of the HTTP service: candles in four formats, page by page, with an ETag; tables; health; OpenAPI."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from candle_fetcher import MissingExtra
from candle_fetcher.practice import faults

pytest.importorskip("fastapi", reason="needs the extra service")
pytest.importorskip("uvicorn", reason="needs the extra service")

from served import Served

DAY = "symbol=BTC/USDT&timeframe=1h&start=2024-01-01&end=2024-01-02"
RANGE = ("BTC/USDT", "1h", "2024-01-01", "2024-01-02")
MINUTES = "symbol=ETH/USDT&timeframe=1m&start=2024-01-01&end=2024-01-03"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


def test_json_has_the_candles_of_a_fetch(served: Served) -> None:
    answer = served.get(f"/api/candles?{DAY}")
    truth = served.fetcher.fetch(*RANGE)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    document = answer.document
    rows = document["candles"]
    assert [row["timestamp"] for row in rows] == [f"2024-01-01T{hour:02}:00:00Z" for hour in range(24)]
    for name in truth:
        assert [row[name] for row in rows] == truth[name].tolist()
    manifest = dict(truth.attrs["candle_fetcher"])
    assert document["manifest"] == {key: manifest[key] for key in manifest if key not in ("sources", "retries")}
    assert document["manifest"] == json.loads(answer.headers["x-candle-fetcher-manifest"])
    assert (document["symbol"], document["rows"], document["next"]) == ("BTC/USDT", 24, None)


def test_csv_is_what_export_writes(served: Served, tmp_path: Path) -> None:
    path = served.fetcher.export(*RANGE, path=tmp_path / "day.csv")
    answer = served.get(f"/api/candles?{DAY}&format=csv")
    assert answer.body == path.read_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="binance_BTC_USDT_1h.csv"'


@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_binary_formats_hold_the_frame_and_its_manifest(served: Served, kind: str, columns: str) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    answer = served.get(f"/api/candles?{DAY}&format={kind}&columns={columns}")
    data = io.BytesIO(answer.body)
    table: Any = ipc.open_file(data).read_all() if kind == "arrow" else parquet.read_table(data)
    truth = served.fetcher.fetch(*RANGE, columns=columns)
    frame = table.to_pandas().reset_index()
    assert frame["timestamp"].dt.tz_convert("UTC").tolist() == truth.index.tolist()
    for name in truth:
        assert frame[name].tolist() == truth[name].tolist()
    manifest = json.loads(table.schema.metadata[b"candle_fetcher"])
    assert manifest["fingerprint"] == truth.attrs["candle_fetcher"]["fingerprint"]


def test_a_settled_range_is_known_by_its_fingerprint(served: Served) -> None:
    first = served.get(f"/api/candles?{DAY}&format=csv")
    fingerprint = served.fetcher.fetch(*RANGE).attrs["candle_fetcher"]["fingerprint"]
    assert first.headers["etag"] == f'"{fingerprint}-csv-ohlcv"'
    assert first.headers["cache-control"] == "public, max-age=86400, immutable"
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = served.get(f"/api/candles?{DAY}&format=csv", f"If-None-Match: {given}")
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert served.get(f"/api/candles?{DAY}", f"If-None-Match: {tag}").status == 200


def test_equal_answers_have_equal_bytes_wherever_the_rows_came_from(served: Served) -> None:
    cold = served.get("/api/candles?symbol=BNB/USDT&timeframe=1h&start=2024-02-01&end=2024-02-03")
    warm = served.get("/api/candles?symbol=BNB/USDT&timeframe=1h&start=2024-02-01&end=2024-02-03")
    assert cold.body == warm.body


def test_what_may_grow_is_asked_for_again(served: Served) -> None:
    for range_ in ("limit=5", "days=2", "start=2024-01-01&end=2100-01-01&limit=5000", "start=7d"):
        answer = served.get(f"/api/candles?symbol=BTC/USDT&timeframe=1d&{range_}")
        assert answer.headers["cache-control"] == "no-cache", range_
        assert answer.headers["etag"].startswith('W/"'), range_
        assert (
            served.get(
                f"/api/candles?symbol=BTC/USDT&timeframe=1d&{range_}", f"If-None-Match: {answer.headers['etag']}"
            ).status
            == 304
        )


@pytest.mark.parametrize(
    "range_", ["start=2024-01-01&limit=5", "end=2024-01-10&limit=5", "start=1704067200000&end=2024"]
)
def test_a_range_before_now_is_settled_however_it_is_written(served: Served, range_: str) -> None:
    if range_.endswith("end=2024"):
        range_ = "start=1704067200000&end=20240103"
    answer = served.get(f"/api/candles?symbol=BTC/USDT&timeframe=1h&{range_}")
    assert answer.headers["cache-control"].endswith("immutable")


def test_a_range_that_ended_just_now_is_not_kept_for_good(served: Served) -> None:
    """Its last candle may be corrected, and a young gap filled: it has a strong ETag, and is asked for again."""
    end = pd.Timestamp.now("UTC").floor("min") - pd.Timedelta("10min")
    answer = served.get(f"/api/candles?symbol=BTC/USDT&timeframe=1m&end={end:%Y-%m-%dT%H:%M:%SZ}&limit=5")
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["cache-control"] == "no-cache"
    gap = served.get("/api/candles?symbol=BTC/USDT&timeframe=1h&start=2023-03-24&end=2023-03-25")
    assert gap.document["manifest"]["gap_count"] == 1
    assert gap.headers["cache-control"].endswith("immutable")


def test_pages_join_to_the_whole(served: Served) -> None:
    frames, url = [], f"/api/candles?{MINUTES}&limit=1000&format=csv"
    while url:
        answer = served.get(url)
        frames.append(pd.read_csv(io.BytesIO(answer.body)))
        link = answer.headers.get("link")
        url = link.partition(">")[0][1:] if link else ""
    assert [len(frame) for frame in frames] == [1000, 1000, 880]
    truth = served.fetcher.fetch("ETH/USDT", "1m", "2024-01-01", "2024-01-03")
    assert pd.concat(frames)["close"].tolist() == truth["close"].tolist()


def test_too_many_rows_are_refused_with_the_first_page(served: Served) -> None:
    before = served.asked()
    answer = served.get("/api/candles?symbol=BTC/USDT&timeframe=1m&start=2018-01-01&end=2024-01-01")
    document = answer.document
    assert (answer.status, document["error"], document["most"]) == (413, "TooManyRows", 100_000)
    assert document["next"] == "2018-03-11T10:40:00Z"
    assert "limit=100000" in document["next_url"]
    assert "start=2018-01-01T00%3A00%3A00Z" in document["next_url"]
    assert served.asked() == before


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("symbol=NOSUCH/USDT&timeframe=1h&start=2024-01-01&end=2024-01-02", 404, "does not know the symbol"),
        ("symbol=BTC/USDT&timeframe=7x", 400, "unknown timeframe"),
        ("symbol=BTC/USDT&timeframe=1h&strat=2024-01-01", 400, "use 'start'"),
        ("symbol=BTC/USDT&timeframe=1h&start=2024-01-02&end=2024-01-01", 400, "start"),
        ("symbol=BTC/USDT&timeframe=1h&days=-1", 400, "days"),
        ("symbol=BTC/USDT&timeframe=1h&limit=0", 400, "limit"),
        ("symbol=BTC/USDT&timeframe=1h&format=xml", 400, "format"),
        ("symbol=BTC/USDT&symbol=ETH/USDT&timeframe=1h", 400, "given twice"),
        ("timeframe=1h", 400, "symbol: field required"),
        ("symbol=BTC/USDT&timeframe=1h&provider=biannce", 400, "unknown provider"),
        ("symbol=BTC/USDT&timeframe=1h&source=rest", 400, "no argument 'source'"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(served: Served, query: str, status: int, said: str) -> None:
    answer = served.get(f"/api/candles?{query}")
    assert answer.status == status
    assert said in answer.document["message"]
    assert set(answer.document) >= {"error", "message"}


def test_a_part_is_never_an_answer(tmp_path: Path) -> None:
    """What could not be fetched is named in a 409, and what was stored is not passed off as the whole."""
    served = Served(tmp_path)  # of its own: a host that has failed is left alone for a while
    try:
        served.get("/api/candles?symbol=XRP/USDT&timeframe=1h&start=2024-01-01&end=2024-01-03")
        served.exchange.fail(faults.status(500), times=None)
        answer = served.get("/api/candles?symbol=XRP/USDT&timeframe=1h&start=2023-01-01&end=2024-01-03")
    finally:
        served.close()
    document = answer.document
    assert (answer.status, document["error"]) == (409, "IncompleteData")
    assert document["missing"][0]["cause"] == "fetch_failed"
    assert answer.headers.get("etag") is None
    assert answer.headers["cache-control"] == "no-store"


def test_tables_are_those_of_the_calls(served: Served) -> None:
    names = served.get("/api/symbols?query=btc/us").document
    assert [row["symbol"] for row in names] == ["BTC/USDT"]
    assert {row["provider"] for row in served.get("/api/providers").document} >= {"binance", "kraken"}
    assert served.get(f"/api/gaps?{DAY}").document == []
    plan = served.get(f"/api/plan?{DAY}").document
    assert (plan["candles"], plan["requests"], plan["start"]) == (24, 0, "2024-01-01T00:00:00Z")
    rates = served.get("/api/funding?symbol=BTC/USDT&provider=binance-um&start=2024-01-01&end=2024-01-03").document
    truth = served.fetcher.fetch_funding("BTC/USDT", "2024-01-01", "2024-01-03", provider="binance-um")
    assert [row["funding_rate"] for row in rates["funding"]] == truth["funding_rate"].tolist()


def test_clients_at_once_share_a_download(served: Served) -> None:
    served.exchange.clear_log()
    path = "/api/candles?symbol=ADA/USDT&timeframe=1h&start=2023-02-01&end=2023-02-11"
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: served.get(path), range(12)))
    assert len({answer.body for answer in answers}) == 1
    asked = [request.params["startTime"] for request in served.exchange.requests if "klines" in request.path]
    assert len(asked) == len(set(asked))


def test_health_and_ready_and_metrics(served: Served) -> None:
    assert served.get("/health").document["status"] == "ok"
    assert served.get("/ready").document["status"] == "ready"
    answer = served.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    kinds = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        if not line.startswith("#"):
            name = line.partition("{")[0].partition(" ")[0]
            assert any(name in (kind, f"{kind}_sum", f"{kind}_count") for kind in kinds), line
            float(line.rpartition(" ")[2])
    assert 'candle_fetcher_http_requests_total{route="/health",status="200"}' in answer.body.decode()


def test_ready_says_when_the_cache_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from candle_fetcher.service import health

    def fails(**words: Any) -> Any:
        raise OSError(28, "No space left on device", str(tmp_path))

    served = Served(tmp_path / "cache")
    try:
        monkeypatch.setattr(health.tempfile, "TemporaryFile", fails)
        answer = served.get("/ready")
        assert (answer.status, answer.document["status"]) == (503, "not ready")
        assert str(tmp_path) not in answer.body.decode()
        assert served.get("/health").status == 200
    finally:
        served.close()


def test_openapi_describes_every_route(served: Served) -> None:
    document = served.get("/openapi.json").document
    assert set(document["paths"]) >= {
        "/api/candles",
        "/api/symbols",
        "/health",
        "/udf/history",
        "/binance/api/v3/klines",
    }
    names = [one["get"]["operationId"] for one in document["paths"].values()]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() for name in names)
    assert "422" not in json.dumps(document)
    page = served.get("/docs").body.decode()
    assert all(path in page for path in document["paths"])
    assert "<script" not in page
    assert "://" not in page.replace("http://json-schema", "")


@pytest.mark.slow
def test_a_generator_of_clients_takes_openapi_whole(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openapi_python_client")
    described = tmp_path / "openapi.json"
    described.write_bytes(served.get("/openapi.json").body)
    words = ["generate", "--path", str(described), "--output-path", str(tmp_path / "client"), "--fail-on-warning"]
    command = [sys.executable, "-m", "openapi_python_client", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(str(tmp_path / "client"))
    made: Any = importlib.import_module("candle_fetcher_client")
    routes: Any = importlib.import_module("candle_fetcher_client.api.default")
    importlib.import_module("candle_fetcher_client.api.default.candles")
    day = {"symbol": "BTC/USDT", "timeframe": "1h", "start": "2024-01-01", "end": "2024-01-02"}
    with made.Client(base_url=f"http://127.0.0.1:{served.port}") as client:
        found = routes.candles.sync(client=client, **day)
    assert (found.rows, found.candles[0].open_) == (24, served.fetcher.fetch(*RANGE)["open"].iloc[0])


def test_unknown_routes_and_methods(served: Served) -> None:
    answer = served.get("/api/candle")
    assert (answer.status, answer.document["error"]) == (404, "NotFound")
    assert "did you mean /api/candles?" in answer.document["message"]
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = served.get(f"/api/candles?{DAY}", method=method, body="{}")
        assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_head_is_get_without_the_body(served: Served) -> None:
    for path in (f"/api/candles?{DAY}", "/health", "/nix"):
        whole, head = served.get(path), served.get(path, method="HEAD")
        assert (head.status, head.body) == (whole.status, b"")
        assert head.headers.get("etag") == whole.headers.get("etag")
    assert served.get("/api/stream?symbols=BTC/USDT", method="HEAD").status == 405


def test_charts_get_bars_and_what_they_need_to_know(served: Served) -> None:
    """UDF: known symbols, bars oldest first in seconds, and where to look further where there are none."""
    known = served.get("/udf/symbols?symbol=BTCUSDT").document
    assert (known["name"], known["type"], known["session"], known["pricescale"]) == ("BTC/USDT", "crypto", "24x7", 100)
    assert served.get("/udf/symbols?symbol=NOSUCH").document == {"s": "error", "errmsg": "unknown_symbol"}
    assert served.get("/udf/symbols?symbol=binance-um:ethusdt").document["ticker"] == "binance-um:ETH/USDT"
    path = "/udf/history?symbol=BTC/USDT&resolution=60"
    truth = served.fetcher.fetch(*RANGE)
    bars = served.get(f"{path}&from=1704067200&to=1704153600").document
    assert bars["s"] == "ok"
    assert bars["t"] == [int(time.timestamp()) for time in truth.index]
    assert (bars["o"], bars["c"], bars["v"]) == tuple(truth[name].tolist() for name in ("open", "close", "volume"))
    assert served.get(f"{path}&from=1&to=1704153600&countback=5").document["t"] == bars["t"][-5:]
    daily = served.get("/udf/history?symbol=BTC/USDT&resolution=D&from=1704067200&to=1704240000").document
    assert daily["t"] == [1704067200, 1704153600]
    assert served.get(f"{path}&from=1104067200&to=1104153600").document == {"s": "no_data"}
    later = served.get(f"{path}&from=4104067200&to=4104153600").document
    assert later["s"] == "no_data"
    assert later["nextTime"] > 1704067200
    assert served.get("/udf/history?symbol=BTC/USDT&resolution=7&from=1&to=2").document["s"] == "error"
    assert served.get("/udf/search?query=btc&limit=1").document[0]["symbol"] == "BTC/USDT"
    assert served.get("/udf/quotes?symbols=BTC/USDT,NOSUCH/USDT").document["d"][1]["s"] == "error"
    assert int(served.get("/udf/time").body) > 1704067200


def test_what_has_not_settled_is_asked_for_once_a_second(served: Served) -> None:
    """Binance's dialect: the forming candle comes from the exchange, and many clients cost one request a second."""
    path = "/binance/api/v3/klines?symbol=ETHUSDT&interval=1h&limit=3"
    served.get(path)
    served.exchange.clear_log()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: served.get(path), range(24)))
    asked = [one for one in served.exchange.requests if "klines" in one.path]
    assert {answer.status for answer in answers} == {200}
    assert len(asked) <= 4
    rows = answers[-1].document
    assert len(rows) == 3
    assert rows[-1][6] > rows[-1][0]
    assert all(isinstance(text, str) and len(text.partition(".")[2]) == 8 for text in rows[0][1:6])


def test_without_fastapi_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    import sys

    from candle_fetcher.service import create_app

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match="service"):
        create_app(served.fetcher)
