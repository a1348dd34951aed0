"""The page of the service in a real Chromium, which playwright drives: each control, errors, live candles, a lost
connection, the keyboard, three widths in both themes. Nothing leaves this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from candle_fetcher.practice import PracticeExchange, faults

pytest.importorskip("fastapi", reason="needs the extra service")
pytest.importorskip("uvicorn", reason="needs the extra service")
pytest.importorskip("plotly", reason="needs the extra service")

from served import Served

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
pytestmark = pytest.mark.slow
BROWSER = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Where the pictures are kept; by default in the folder of the test.
PICTURES = os.environ.get("PAGE_PICTURES")
DAYS = "symbol=BTC/USDT&timeframe=1h&range=own&start=2024-01-01&end=2024-01-31"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


class Page:
    """A page of the service, and what must not happen on it: errors, and requests to anywhere else."""

    def __init__(self, browser: Any, served: Served, query: str = DAYS, **options: Any) -> None:
        self.origin = f"http://127.0.0.1:{served.port}"
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.add_init_script(SHIFTS)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda one: self.said.append(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.page.goto(f"{self.origin}/?{query}")

    def wait_for_chart(self, before: str | None = None) -> None:
        self.page.wait_for_function(
            "before => (document.querySelector('#chart').dataset.drawn || null) !== before", arg=before
        )

    def drawn(self) -> str | None:
        found: str | None = self.page.get_attribute("#chart", "data-drawn")
        return found

    def show(self) -> None:
        before = self.drawn()
        self.page.click("#show")
        self.wait_for_chart(before)

    def text(self, place: str) -> str:
        found: str = self.page.inner_text(place)
        return found

    def wait_for_text(self, place: str, pattern: str) -> None:
        self.page.wait_for_function(
            "([place, pattern]) => new RegExp(pattern).test(document.querySelector(place).innerText)",
            arg=[place, pattern],
        )

    def close(self, *, may_fail: bool = False) -> None:
        """Close it. Fails where it reported an error, or asked another server."""
        self.context.close()
        assert [url for url in self.asked if not url.startswith((self.origin, "data:", "blob:"))] == []
        assert may_fail or self.said == []


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Page]:
    made = Page(browser, served)
    made.wait_for_chart()
    yield made
    made.close()


def test_the_chart_says_what_it_shows(page: Page, served: Served) -> None:
    frame = served.fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-31")
    last = f"{frame['close'].iloc[-1]:,.12g}"
    said = page.text("#status")
    assert said.startswith("BTC/USDT 1h on binance, 2024-01-01 00:00 to 2024-01-31 00:00 UTC: 720 candles")
    assert said.endswith(f"no gaps, last close {last}.")
    shown = page.page.evaluate("document.querySelector('#chart').data[0]")
    assert max(shown["high"]) == frame["high"].max()
    assert min(shown["low"]) == frame["low"].min()
    assert sum(page.page.evaluate("document.querySelector('#chart').data[1].y")) == pytest.approx(frame["volume"].sum())
    assert page.page.title() == "BTC/USDT 1h · candle_fetcher"
    assert "made up" in page.text("#practice")


def test_symbol_timeframe_and_range_are_chosen_and_stand_in_the_address(page: Page) -> None:
    page.page.fill("#symbol", "eth")
    page.page.wait_for_function("() => document.querySelector('#symbols').options.length > 0")
    offered = page.page.evaluate("[...document.querySelector('#symbols').options].map(one => one.value)")
    assert offered[0].startswith("ETH/")
    page.page.fill("#symbol", "ETH/USDT")
    page.page.select_option("#timeframe", "4h")
    page.page.select_option("#range", "7")
    page.show()
    assert re.match(r"ETH/USDT 4h on binance, .*: 42 candles", page.text("#status"))
    assert "symbol=ETH%2FUSDT&timeframe=4h&range=7" in page.page.url
    page.page.reload()
    page.wait_for_chart()
    assert page.text("#status").startswith("ETH/USDT 4h")


def test_another_provider_has_its_own_timeframes(page: Page) -> None:
    page.page.select_option("#provider", "coingecko")
    assert page.page.evaluate("[...document.querySelector('#timeframe').options].map(one => one.value)") == [
        "30m",
        "4h",
        "4d",
    ]
    page.page.select_option("#provider", "kraken")
    page.page.fill("#symbol", "BTC/USD")
    page.page.select_option("#timeframe", "1d")
    page.page.select_option("#range", "30")
    page.show()
    assert re.match(r"BTC/USD 1d on kraken, .*: (29|30) candles", page.text("#status"))


def test_a_second_provider_is_drawn_over_the_first(page: Page, served: Served) -> None:
    page.page.select_option("#other", "binance-us")
    page.page.wait_for_function("() => document.querySelector('#chart').data.some(one => one.name === 'binance-us')")
    line = page.page.evaluate("document.querySelector('#chart').data.find(one => one.name === 'binance-us').y")
    frame = served.fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-31", provider="binance-us")
    assert line[-1] == frame["close"].iloc[-1]


def test_the_keyboard_moves_zooms_and_shows_all(page: Page) -> None:
    def look(key: str) -> tuple[float, float]:
        before = page.page.get_attribute("#chart", "data-steps")
        page.page.keyboard.press(key)
        page.page.wait_for_function("old => document.querySelector('#chart').dataset.steps !== old", arg=before)
        found = page.page.evaluate("state.series.view")
        return found[0], found[1]

    page.page.focus("#chart")
    zoomed = look("+")
    moved = look("ArrowLeft")
    assert zoomed[1] - zoomed[0] == pytest.approx(15 * 86_400_000)
    assert zoomed[0] - moved[0] == pytest.approx(3 * 86_400_000)
    page.page.wait_for_function(
        "() => document.querySelector('#chart').data[0].x.length > 300"
    )  # finer candles have come
    everything = look("Home")
    assert everything[1] - everything[0] == pytest.approx(30 * 86_400_000)


def test_all_controls_are_reached_by_the_keyboard_and_have_names(page: Page) -> None:
    names = []
    for _ in range(40):
        page.page.keyboard.press("Tab")
        names.append(
            page.page.evaluate(
                "(() => { const one = document.activeElement; return one.getAttribute('aria-label')"
                " || (one.labels && one.labels.length ? one.labels[0].innerText : one.innerText) || one.id; })()"
            )
        )
    wanted = ["Skip to the chart", "Dark", "Provider", "Symbol", "Timeframe", "Range"]
    wanted += ["From (UTC)", "To (excluded)", "Compare with", "Show", "Live"]
    assert [name.split("\n")[0].strip() for name in names[:11]] == wanted
    assert any(name.startswith("Chart: BTC/USDT") for name in names)
    assert {"CSV", "Parquet", "Copy the Python line"} <= set(names)


def test_files_and_the_python_line_are_of_what_is_shown(page: Page, served: Served) -> None:
    for kind in ("csv", "parquet"):
        with page.page.expect_download() as waiting:
            page.page.click(f"#{kind}")
        data = Path(waiting.value.path()).read_bytes()
        answer = served.get(
            "/api/candles?symbol=BTC/USDT&timeframe=1h&provider=binance"
            f"&start=2024-01-01T00:00:00Z&end=2024-01-31T00:00:00Z&format={kind}"
        )
        assert data == answer.body
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.click("#copy")
    page.wait_for_text("#copy", "Copied")
    line = page.page.evaluate("navigator.clipboard.readText()")
    assert line == page.page.input_value("#python")
    call = line.partition("frame = ")[2]
    names = {"fetch": served.fetcher.fetch}
    assert len(eval(call, names)) == 720


def test_an_unknown_symbol_is_an_error_in_words_and_the_next_symbol_works(page: Page) -> None:
    page.page.fill("#symbol", "NOPE/USDT")
    page.page.click("#show")
    page.page.wait_for_selector("#error:not([hidden])")
    assert "NOPE/USDT" in page.text("#error")
    assert page.page.get_attribute("#error", "role") == "alert"
    page.page.fill("#symbol", "ETH/USDT")
    page.show()
    assert page.page.is_hidden("#error")
    page.said = [one for one in page.said if "404" not in one]  # the browser reports the reply itself


def test_markup_in_a_symbol_is_text(browser: Any, served: Served) -> None:
    hostile = "%3Cimg%20src=x%20onerror=alert(1)%3E"
    one = Page(browser, served, f"symbol={hostile}&timeframe=1h&range=7")
    one.page.wait_for_selector("#error:not([hidden])")
    assert one.page.query_selector("#error img") is None
    assert "img src=x" in one.text("#error")
    one.close(may_fail=True)


def test_gaps_are_shaded_and_named(browser: Any, served: Served) -> None:
    one = Page(browser, served, "symbol=BTC/USDT&timeframe=1h&range=own&start=2017-08-15&end=2017-08-25")
    one.wait_for_chart()
    gaps = served.fetcher.gaps("BTC/USDT", "1h", "2017-08-15", "2017-08-25")
    assert len(gaps) > 0
    assert f"{len(gaps)} gap" in one.text("#status")
    assert one.page.evaluate("document.querySelector('#chart').layout.shapes.length") >= 1
    texts = one.page.evaluate("document.querySelector('#chart').data.find(one => one.name === 'gap').text")
    assert "not listed yet" in texts[0]
    one.page.click("#gap-view summary")
    assert "not listed yet" in one.text("#gaps")
    one.close()


def test_a_long_fetch_is_asked_for_first_and_can_be_cancelled(browser: Any, tmp_path: Path) -> None:
    with PracticeExchange(weight_limit=60) as exchange:
        served = Served(tmp_path, exchange=exchange)
        try:
            one = Page(
                browser,
                served,
                "provider=binance-us&symbol=BTC/USDT&timeframe=1m&range=own&start=2024-01-01&end=2024-04-01",
            )
            one.page.wait_for_selector("#plan:not([hidden])")
            assert re.match(r"131,040 candles: \d+ requests to binance-us, about .* and ", one.text("#plan-text"))
            one.page.click("#cancel")
            assert one.text("#status") == "Not fetched."
            assert not [one for one in exchange.requests if "klines" in one.path]
            one.close()
        finally:
            served.close()


def test_settled_candles_and_prices_come_live_and_a_lost_connection_is_said(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        one = Page(browser, served, "symbol=BTC/USDT&timeframe=1s&range=own&start=1h&live=1")
        one.wait_for_chart()
        before = one.page.evaluate("state.series.full[1]")
        one.page.wait_for_function("before => state.series.full[1] > before + 2000", arg=before)
        one.page.wait_for_function(
            "before => state.series.shown.t[state.series.shown.t.length - 1] >= before", arg=before
        )
        one.page.wait_for_function("() => state.series.price !== null")
        assert one.text("#stream").startswith("live")
    finally:
        served.close()
    one.wait_for_text("#stream", "connection lost")
    one.page.click("#show")
    one.page.wait_for_selector("#error:not([hidden])")
    assert "does not answer" in one.text("#error")
    assert "Try again" in one.text("#error")
    one.close(may_fail=True)


def test_quotes_of_several_providers_stand_in_a_table(page: Page) -> None:
    page.page.fill("#quote-symbols", "BTC/USDT, kraken:BTC/USD, NOPE/USDT")
    page.page.click("#quote-form button")
    page.wait_for_text("#quotes", r"BTC/USDT[\s\S]*kraken[\s\S]*NOPE")
    rows = page.page.evaluate(
        "[...document.querySelectorAll('#quotes tbody tr')].map(one => one.innerText.split('\\t'))"
    )
    assert [row[1] for row in rows[:2]] == ["binance", "kraken"]
    assert re.fullmatch(r"[\d,.]+", rows[0][2])
    assert "NOPE" in rows[2][-1]


def hold(one: Page, pattern: str, take: str = "") -> list[Any]:
    """Hold the answers to requests of which the URL has `pattern` and `take`; return them, to be let go."""
    held: list[Any] = []

    def handle(route: Any) -> None:
        if take in route.request.url and not held:
            held.append(route)
        else:
            route.continue_()

    one.page.route(re.compile(pattern), handle)
    return held


def let_go(one: Page, held: list[Any]) -> None:
    """Let the answers through, if the page still waits for them, and the page take them."""
    for route in held:
        with suppress(playwright.Error):
            route.continue_()
    one.page.wait_for_timeout(400)


def test_an_answer_that_comes_late_is_not_drawn_as_another_series(page: Page) -> None:
    held = hold(page, "/api/chart", "points")
    page.page.focus("#chart")
    page.page.keyboard.press("+")  # asks for finer candles
    page.page.wait_for_timeout(300)
    assert len(held) == 1
    page.page.fill("#symbol", "ETH/USDT")
    page.show()
    let_go(page, held)
    assert page.text("#status").startswith("ETH/USDT")
    highest = page.page.evaluate("Math.max(...document.querySelector('#chart').data[0].high)")
    assert highest < 20_000  # a Bitcoin costs more


def test_a_comparison_that_comes_late_is_not_drawn(page: Page) -> None:
    held = hold(page, "/api/chart", "provider=binance-us")
    page.page.select_option("#other", "binance-us")
    page.page.wait_for_timeout(300)
    assert len(held) == 1
    page.page.select_option("#other", "")
    let_go(page, held)
    assert page.page.evaluate("document.querySelector('#chart').data.every(one => one.name !== 'binance-us')")


def test_a_series_that_does_not_come_leaves_the_one_before_and_says_so(page: Page) -> None:
    page.page.fill("#symbol", "NOPE/USDT")
    page.page.click("#show")
    page.page.wait_for_selector("#error:not([hidden])")
    assert page.text("#status") == "Nothing to show. The chart is still of BTC/USDT 1h on binance."
    page.said.clear()


def test_an_answer_that_breaks_off_is_an_error_in_words(page: Page) -> None:
    page.page.route(re.compile("/api/chart"), lambda route: route.fulfill(status=200, body='{"t": [1, 2'))
    page.page.click("#show")
    page.page.wait_for_selector("#error:not([hidden])")
    assert "broke off" in page.text("#error")


def test_a_symbol_may_name_its_provider(page: Page) -> None:
    page.page.fill("#symbol", "kraken:BTC/USD")
    page.page.select_option("#range", "7")
    page.show()
    assert page.text("#status").startswith("BTC/USD 1h on kraken")
    assert (page.page.input_value("#provider"), page.page.input_value("#symbol")) == ("kraken", "BTC/USD")


def test_small_prices_have_all_their_digits(page: Page) -> None:
    start_ms, count = 1_704_067_200_000, 30
    t = [start_ms + at * 3_600_000 for at in range(count)]
    o = [1.23e-6 + at * 1e-9 for at in range(count)]
    facts = {"provider": "binance", "symbol": "PEPE/BTC", "timeframe": "1h", "origin": "", "rows": count}
    facts |= {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T06:00:00Z", "gap_count": 0, "gaps": [], "cell": None}
    body = json.dumps({**facts, "t": t, "o": o, "h": [one * 1.001 for one in o], "l": o, "c": o, "v": t})
    page.page.route(re.compile("/api/chart"), lambda route: route.fulfill(status=200, body=body))
    page.show()
    assert page.text("#status").endswith("last close 0.000001259.")
    ticks = page.page.evaluate("[...document.querySelectorAll('.ytick text')].map(one => one.textContent)")
    assert len(set(ticks)) == len(ticks) > 2
    assert all(one.startswith("0.00000") for one in ticks)


def test_what_one_points_at_is_not_rounded(page: Page) -> None:
    box = page.page.locator("#chart").bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.page.wait_for_function("() => /close/.test(document.querySelector('.hoverlayer').textContent)")
    said = page.page.evaluate("document.querySelector('.hoverlayer').textContent")
    closes = page.page.evaluate("document.querySelector('#chart').data[0].close")
    assert any(f"close: {one:,.10g}" in said.replace("\xa0", " ") for one in closes), said


def test_a_live_chart_of_a_range_that_has_ended_stays_as_it_is(page: Page) -> None:
    page.page.check("#live")
    assert "has ended" in page.text("#stream")
    page.page.wait_for_timeout(300)
    assert not [url for url in page.asked if "/api/ws" in url]
    page.page.uncheck("#live")
    assert page.text("#stream") == ""


def test_the_theme_changes_where_nothing_can_be_kept(browser: Any, served: Served) -> None:
    one = Page(browser, served)
    one.wait_for_chart()
    one.page.evaluate(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'Security'); }})"
    )
    for wanted in ("dark", "light"):
        one.page.click("#theme")
        assert one.page.evaluate("document.documentElement.dataset.theme") == wanted
    one.close()


def test_quotes_that_are_asked_for_twice_leave_one_connection(page: Page) -> None:
    page.page.wait_for_selector("#quotes tbody tr")
    count = [0]

    def add(socket: Any) -> None:
        count[0] += 1
        socket.on("close", lambda *_: count.__setitem__(0, count[0] - 1))

    page.page.on("websocket", add)
    for symbols in ("ETH/USDT", "BTC/USDT", "kraken:BTC/USD"):
        page.page.fill("#quote-symbols", symbols)
        page.page.click("#quote-form button", no_wait_after=True)
    page.wait_for_text("#quotes", "kraken")
    page.page.wait_for_timeout(700)
    assert "USDT" not in page.text("#quotes")
    assert count[0] == 1
    # Chromium says so where the page closes a connection that is still being made, as it is to do here.
    page.said = [line for line in page.said if "closed before the connection is established" not in line]


def test_several_live_pages_in_one_browser_are_all_answered(browser: Any, served: Served) -> None:
    """A browser opens six connections to a host over HTTP/1.1, streams among them."""
    one = Page(browser, served, "symbol=BTC/USDT&timeframe=1m&range=1&live=1")
    one.wait_for_chart()
    url = one.page.url
    for _ in range(3):
        other = one.context.new_page()
        other.set_default_timeout(15_000)
        other.goto(url)
        other.wait_for_selector("#chart[data-drawn]")
        other.wait_for_selector("#quotes tbody tr")
    one.close()


def test_without_websockets_events_come_over_http(browser: Any, served: Served) -> None:
    fails = "window.WebSocket = class { constructor() { setTimeout(() => this.onclose(), 10); } close() {} }; null"
    one = Page(browser, served, "symbol=BTC/USDT&timeframe=1m&range=1")
    one.wait_for_chart()
    one.page.evaluate(fails)
    one.page.check("#live")
    one.page.wait_for_function("() => state.series.price !== null")
    one.wait_for_text("#stream", "^live(?!.*lost)")
    assert [url for url in one.asked if "/api/stream?" in url]
    one.close()


def test_with_a_token_the_page_and_its_live_prices_work(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, token="SENTINEL-4711")
    try:
        known = {"username": "me", "password": "SENTINEL-4711"}
        one = Page(browser, served, "symbol=BTC/USDT&timeframe=1m&range=1&live=1", http_credentials=known)
        one.wait_for_chart()
        one.page.wait_for_function("() => state.series.price !== null")
        one.wait_for_text("#quotes", "ok")
        one.close(may_fail=True)  # a browser may report the first 401
    finally:
        served.close()


def test_candles_that_do_not_come_are_said_to_be_late(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        one = Page(browser, served, "symbol=BTC/USDT&timeframe=1s&range=own&start=1h&live=1")
        one.wait_for_chart()
        one.wait_for_text("#stream", "closed at")
        served.exchange.fail(faults.status(503), times=None)
        one.wait_for_text("#stream", r"no candle since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d: none is traded, or")
        one.close(may_fail=True)
    finally:
        served.close()


def test_a_range_that_is_too_long_is_refused_before_it_is_fetched(page: Page, served: Served) -> None:
    served.exchange.clear_log()
    page.page.select_option("#timeframe", "1s")
    page.page.select_option("#range", "365")
    page.page.click("#show")
    page.page.wait_for_selector("#error:not([hidden])")
    assert re.search(r"chart at most 1,000,000.*\s+Choose a shorter range", page.text("#error"))
    page.said.clear()
    assert not [one for one in served.exchange.requests if one.params.get("interval") == "1s"]


def test_prices_of_a_lost_connection_are_stale(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        one = Page(browser, served, "symbol=BTC/USDT&timeframe=1m&range=1&live=1")
        one.wait_for_chart()
        one.page.wait_for_function("() => state.series.price !== null")
        one.wait_for_text("#quotes", "ok")
    finally:
        served.close()
    one.wait_for_text("#quotes", "stale")
    one.page.wait_for_function("() => document.querySelector('#chart').layout.shapes.length === 0")
    one.close(may_fail=True)


def test_the_cache_view_lists_what_is_stored_and_opens_it(page: Page) -> None:
    page.wait_for_text("#cache", "BTC/USDT")
    assert re.match(r"\d.* on disk, .* in memory, \d+ series", page.text("#cache-size"))
    page.page.wait_for_selector("#coverage svg rect")
    assert "stored" in page.text("#coverage")
    before = page.drawn()
    page.page.click("#cache .cell >> nth=0")
    page.wait_for_chart(before)
    assert page.page.input_value("#range") == "own"


def test_a_provider_that_fails_is_said_with_what_is_missing(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        served.exchange.fail(faults.status(500), times=None, match="klines")
        one = Page(browser, served, "symbol=SOL/USDT&timeframe=1h&range=own&start=2024-01-01&end=2024-01-05")
        one.page.wait_for_selector("#error:not([hidden])")
        assert re.search(r"Missing: 2024-01-01T00:00:00Z to ", one.text("#error"))
        one.close(may_fail=True)
    finally:
        served.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_and_no_theme_breaks_the_page(
    browser: Any, served: Served, tmp_path: Path, width: int, scheme: str
) -> None:
    one = Page(browser, served, viewport={"width": width, "height": 900}, color_scheme=scheme)
    one.wait_for_chart()
    one.page.wait_for_selector("#coverage svg rect")
    one.page.wait_for_selector("#quotes tbody tr")
    wide = one.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width  # nothing scrolls sideways
    assert one.page.evaluate("window.shifted") < 0.1, one.page.evaluate("window.shifts")  # "good", browsers say
    contrast = one.page.evaluate(CONTRAST)
    assert min(contrast.values()) >= 4.5, contrast
    target = Path(PICTURES or tmp_path) / f"page_{width}_{scheme}.png"
    one.page.screenshot(path=target, full_page=True)
    assert target.stat().st_size > 20_000
    one.page.click("#theme")
    assert one.page.evaluate("document.documentElement.dataset.theme") == ("light" if scheme == "dark" else "dark")
    one.close()


# How far what one sees was moved by what came later, as browsers count it, and what was moved.
SHIFTS = """window.shifted = 0; window.shifts = [];
new PerformanceObserver(list => {
  for (const one of list.getEntries()) {
    if (one.hadRecentInput) continue;
    window.shifted += one.value;
    window.shifts.push([one.value, ...one.sources.map(part => part.node && (part.node.id || part.node.nodeName))]);
  }
}).observe({type: "layout-shift", buffered: true})"""
# The contrast of texts on what is behind them, as WCAG counts it.
CONTRAST = """(() => {
  const light = text => {
    const parts = text.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const paint = one => getComputedStyle(one).backgroundColor;
  const behind = one => {
    while (one && paint(one) === "rgba(0, 0, 0, 0)") one = one.parentElement;
    return paint(one || document.body);
  };
  const found = {};
  const places = "#status|#keys|#show|#csv|label|#cache-size|#practice|#theme|footer a|#cache .cell";
  for (const place of places.split("|")) {
    const one = document.querySelector(place);
    if (!one) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    found[place] = (a + 0.05) / (b + 0.05);
  }
  return found;
})()"""
