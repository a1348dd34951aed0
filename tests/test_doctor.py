"""doctor(): each check finds what it looks for, says what to do, and leaves everything as it was."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import pandas as pd
import pytest
from test_transport import EXPIRED_PEM, GOOD_PEM, KEY_PEM
from world import World

from candle_fetcher import CacheWarning, CandleFetcher, InputError
from candle_fetcher.cli import main
from candle_fetcher.core.call import Limit
from candle_fetcher.core.defects import DEFECTS, find_defect
from candle_fetcher.diagnosis import Check, as_frame, list_servers
from candle_fetcher.diagnosis.machine import judge_access, judge_content, judge_space, judge_version
from candle_fetcher.diagnosis.verdicts import (
    Certificate,
    Probe,
    ProviderFacts,
    Server,
    judge_limits,
    judge_proxies,
    judge_tls,
    masked,
)
from candle_fetcher.practice import faults
from candle_fetcher.providers import all_providers
from candle_fetcher.store import DiskTier
from candle_fetcher.store.inspection import Content, FolderAccess, find_orphans

ROOT = Path(__file__).resolve().parents[1]
SPAN = ("BTC/USDT", "1h", "2024-01-01", "2024-01-20")
NETWORK = ["proxy", "name resolution", "TLS", "access", "access", "clock skew", "limits left"]
MACHINE = ["disk space", "permissions", "cache entries", "cache orphans", "memory", "cores"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes or terminals on Windows")


@pytest.fixture(autouse=True)
def sound_sqlite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever SQLite runs the tests; and no exports of whoever runs them."""
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.51.3")
    monkeypatch.chdir(tmp_path)


def rows(frame: pd.DataFrame, check: str) -> list[tuple[Any, str, str]]:
    """Whether it passed, what was found and what to do, of every row of that check."""
    found = frame[frame["check"] == check]
    passed = [None if pd.isna(value) else bool(value) for value in found["passed"]]
    return list(zip(passed, found["found"], found["what_to_do"], strict=True))


def row(frame: pd.DataFrame, check: str) -> tuple[Any, str, str]:
    (only,) = rows(frame, check)
    return only


def failing(frame: pd.DataFrame) -> list[str]:
    return list(frame.loc[frame["passed"].eq(False).fillna(False), "check"])


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of the database, its log and all else that lies beside them."""
    found = {path.name: path for path in folder.iterdir() if path.is_file()}
    return {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in found.items()}


# -- as a whole --------------------------------------------------------------------------------------------------------


def test_where_all_is_well_nothing_fails(world: World) -> None:
    with world.fetcher() as fetcher:
        fetcher.fetch(*SPAN)
        entries = fetcher.cache.stats().disk_entries
    world.asked("")
    frame = world.fetcher().doctor()
    assert list(frame) == ["check", "subject", "passed", "found", "what_to_do"]
    assert str(frame["passed"].dtype) == "boolean"
    assert list(frame["check"])[:13] == [*NETWORK, *MACHINE]
    assert failing(frame) == []
    assert set(frame["what_to_do"]) == {""}
    assert [passed for passed, _, _ in rows(frame, "access")] == [True, True]
    assert row(frame, "TLS")[0] is None  # http
    assert row(frame, "cache entries")[1] == f"{entries} of {entries} entries read, all whole"
    assert re.fullmatch(r"5,9\d\d of 6,000 weight left in this minute", row(frame, "limits left")[1])
    assert len(world.asked("")) <= 4  # clock and limits, and each host once


@pytest.mark.parametrize("provider", ["binance", "binance-us", "binance-um", "binance-cm"])
def test_every_provider_can_be_looked_at(world: World, provider: str) -> None:
    frame = world.fetcher().doctor(provider=provider)
    assert failing(frame) == []
    assert len(rows(frame, "access")) == (1 if provider == "binance-us" else 2)
    assert set(frame.loc[frame["check"] == "clock skew", "subject"]) == {provider}


def test_keys_that_are_there_are_not_said_to_be_valid(world: World) -> None:
    keys = {"alpaca": {"key_id": "PKWRONG", "secret_key": "wrong"}}
    with world.fetcher(source="cache", api_keys=keys) as fetcher:
        passed, found, _ = row(fetcher.doctor(provider="alpaca"), "keys")
    assert passed
    assert "only a fetch shows whether they are valid" in found


def test_an_unknown_provider_is_wrong_input(world: World) -> None:
    with pytest.raises(InputError, match="Did you mean 'binance'"):
        world.fetcher().doctor(provider="binanse")


def test_the_alternate_host_and_the_archive_are_looked_at() -> None:
    provider = all_providers()["binance"]
    places = list_servers(provider, provider.hosts, "https://data.binance.vision")
    assert [place.host for place in places] == ["api.binance.com", "data-api.binance.vision", "data.binance.vision"]


def test_nothing_in_the_cache_is_changed(world: World) -> None:
    with world.fetcher() as fetcher:
        fetcher.fetch(*SPAN)
    tier = DiskTier(world.folder, 10**8)
    tier.save("junk", b"nothing of ours")
    entries = tier.stats().entries
    tier.close()
    before = files_of(world.folder)
    for _ in range(2):
        passed, found, fix = row(world.fetcher().doctor(), "cache entries")
        assert (passed, found) == (False, f"{entries} of {entries} entries read, 1 damaged: junk")
        assert "cache verify" in fix
    after = files_of(world.folder)
    assert {name: after[name] for name in before} == before


def test_a_cache_in_use_is_read_with_what_waits_in_its_log(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.fetch(*SPAN)
    assert (world.folder / "cache.db-wal").stat().st_size > 0
    entries = fetcher.cache.stats().disk_entries
    assert row(fetcher.doctor(), "cache entries")[1] == f"{entries} of {entries} entries read, all whole"
    assert len(fetcher.fetch(*SPAN, source="cache")) == 456


def test_with_the_cache_as_source_nobody_is_asked(world: World) -> None:
    frame = world.fetcher(source="cache").doctor()
    assert world.asked("") == []
    assert [passed for passed in frame["passed"][:6] if not pd.isna(passed)] == []


def test_without_a_cache_there_is_nothing_to_look_at(world: World) -> None:
    for settings in ({"use_cache": False}, {"disk_cache_size": 0}):
        frame = world.fetcher(**settings).doctor()
        assert [row(frame, name)[0] for name in MACHINE[:3]] == [None, None, None]


# -- the provider ------------------------------------------------------------------------------------------------------


def test_a_region_block_is_named_and_what_helps(world: World) -> None:
    world.exchange.fail(faults.restricted(), times=None, match="/api/")
    passed, found, fix = rows(world.fetcher().doctor(), "access")[0]
    assert passed is False
    assert found.startswith("region block: Binance does not serve this region (status 451")
    assert "another provider" in fix


def test_a_firewall_is_told_from_a_region_block(world: World) -> None:
    world.exchange.fail(faults.forbidden(), times=None, match="/api/")
    passed, found, fix = rows(world.fetcher().doctor(), "access")[0]
    assert (passed, found) == (False, "refused: Binance's firewall refused the request (status 403)")
    assert "Wait some minutes" in fix


def test_a_page_in_place_of_the_provider_is_noticed(world: World) -> None:
    world.exchange.fail(faults.html_200(), times=None)
    frame = world.fetcher(max_retries=0).doctor()
    assert [passed for passed, _, _ in rows(frame, "access")] == [False, False]
    assert all("log in" in fix for _, _, fix in rows(frame, "access"))
    assert row(frame, "clock skew")[0] is None


def test_a_server_in_trouble_is_no_fault_of_the_network(world: World) -> None:
    world.exchange.fail(faults.status(503), times=None)
    assert "Try again later" in rows(world.fetcher(max_retries=0).doctor(), "access")[0][2]


def test_a_ban_is_told_and_nothing_is_sent_while_it_lasts(world: World) -> None:
    until_ms = int(world.now_s * 1000) + 120_000
    world.exchange.fail(faults.banned(until_ms), match="/api/")
    fetcher = world.fetcher()
    first = row(fetcher.doctor(), "limits left")
    assert first[:2] == (False, "banned until 2024-06-15 12:02:30 UTC")
    assert "Wait until then" in first[2]
    world.asked("")
    frame = fetcher.doctor()
    assert row(frame, "limits left") == first
    assert {passed for passed, _, _ in rows(frame, "access")} == {None}
    assert world.asked("") == []


def test_a_pause_that_the_provider_asks_for_is_kept(world: World) -> None:
    world.exchange.fail(faults.rate_limited(600), match="/api/")
    frame = world.fetcher().doctor()
    assert row(frame, "limits left")[:2] == (False, "asks for a pause of 600 s")
    assert len(world.asked("")) == 1


@pytest.mark.slow
def test_a_short_pause_is_not_waited_for_beyond_the_deadline(world: World) -> None:
    world.exchange.fail(faults.rate_limited(60), match="/api/")
    began = time.monotonic()
    frame = world.fetcher(waits=True, timeout_s=1.5).doctor()
    assert time.monotonic() - began < 30
    assert row(frame, "limits left")[:2] == (False, "asks for a pause")
    assert len(world.asked("")) == 1


def test_a_limit_that_is_used_up_fails() -> None:
    limit = Limit(6000, 60)
    assert judge_limits("binance", ProviderFacts(limit=limit), [Probe(used=5000)]).verdict == "pass"
    spent = judge_limits("binance", ProviderFacts(limit=limit), [Probe(used=5990)])
    assert (spent.verdict, spent.found) == ("fail", "10 of 6,000 weight left in this minute")
    assert judge_limits("binance", ProviderFacts(limit=limit)).verdict == "skipped"


@pytest.mark.parametrize(("skew_s", "said"), [(60, "60.0 s ahead of"), (-60, "60.0 s behind")])
def test_a_wrong_clock_fails_with_its_size(world: World, skew_s: float, said: str) -> None:
    passed, found, fix = row(world.fetcher(clock=lambda: world.now_s + skew_s).doctor(), "clock skew")
    assert passed is False
    assert said in found
    assert "network time" in fix


# -- the way there -----------------------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.slow
def test_a_port_where_nobody_listens_fails_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    urls = {"binance": f"http://127.0.0.1:{closed_port()}"}
    with CandleFetcher(base_urls=urls, cache_dir=tmp_path / "cache", progress=False) as fetcher:
        frame = fetcher.doctor()
    passed, found, fix = row(frame, "access")
    assert (passed, found) == (False, f"cannot connect ({os.strerror(111)})" if sys.platform == "linux" else found)
    assert "--practice" in fix
    assert failing(frame) == ["access"]
    assert row(frame, "clock skew")[0] is None
    assert row(frame, "limits left")[0] is None


def test_without_a_network_the_names_fail_and_practice_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with CandleFetcher(cache_dir=tmp_path / "cache", progress=False) as fetcher:
        frame = fetcher.doctor()
    assert failing(frame) == ["name resolution"] * 3
    assert {found for _, found, _ in rows(frame, "name resolution")} == {"not resolved (Name or service not known)"}
    assert all("--practice" in fix for _, _, fix in rows(frame, "name resolution"))
    assert {passed for passed, _, _ in [*rows(frame, "access"), *rows(frame, "TLS")]} == {None}


@pytest.mark.slow
def test_a_name_lookup_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        enough.wait(20)
        raise socket.gaierror(-3, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    with CandleFetcher(cache_dir=tmp_path / "cache", timeout_s=0.6, progress=False) as fetcher:
        frame = fetcher.doctor()
    took_s = time.monotonic() - began
    enough.set()
    assert took_s < 15
    assert {found for _, found, _ in rows(frame, "name resolution")} == {"not resolved (no answer in time)"}


@pytest.mark.slow
def test_a_host_that_never_answers_ends_with_the_deadline(world: World) -> None:
    world.exchange.fail(faults.hang(30), times=None)
    began = time.monotonic()
    frame = world.fetcher(timeout_s=1.2).doctor()
    assert time.monotonic() - began < 20
    assert [passed for passed, _, _ in rows(frame, "access")] == [False, False]


@pytest.mark.slow
def test_a_proxy_is_shown_without_its_password_and_knocked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://joe:hunter2@127.0.0.1:{port}")
    with CandleFetcher(cache_dir=tmp_path / "cache", progress=False, max_retries=0) as fetcher:
        frame = fetcher.doctor()
    passed, found, fix = row(frame, "proxy")
    assert passed is False
    assert found.startswith(f"http://***@127.0.0.1:{port} does not answer")
    assert "NO_PROXY" in fix
    assert {passed for passed, _, _ in rows(frame, "name resolution")} == {None}
    assert not re.search("joe|hunter2", frame.to_string())


def test_a_proxy_that_is_there_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = list_servers(all_providers()["binance-us"], ("https://api.binance.us",), None)
    proxied = [place._replace(proxy="http://joe:hunter2@proxy:3128") for place in places]
    check = judge_proxies(proxied, {"http://joe:hunter2@proxy:3128": True})
    assert (check.verdict, check.found) == ("pass", "http://***@proxy:3128, for api.binance.us")
    assert judge_proxies(places, {}).verdict == "pass"


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("proxy:3128", "http://proxy:3128"),
        ("joe:hunter2@proxy", "http://***@proxy:80"),
        ("socks5h://joe:hunter2@proxy", "socks5h://***@proxy:1080"),
        ("http://joe:hunter2@proxy:port", "a proxy with an unreadable URL"),
        ("http://", "a proxy with an unreadable URL"),
    ],
)
def test_a_password_is_never_shown(proxy: str, shown: str) -> None:
    assert masked(proxy) == shown


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def serve_tls(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Starts an https server with the certificate that answers every call with the time; its root URL."""
    opened: list[socket.socket] = []

    def start(certificate: str) -> str:
        (tmp_path / "server.pem").write_text(KEY_PEM + certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        listening = socket.create_server(("127.0.0.1", 0))
        opened.append(listening)
        threading.Thread(target=_accept, args=(listening, context), daemon=True).start()
        return f"https://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for listening in opened:
        listening.close()


def _accept(listening: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, context), daemon=True).start()


def _answer(connection: socket.socket, context: ssl.SSLContext) -> None:
    body = json.dumps({"serverTime": int(time.time() * 1000), "rateLimits": [], "symbols": []}).encode()
    try:
        with context.wrap_socket(connection, server_side=True) as secure:
            while secure.recv(65_536):
                secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    except OSError:
        connection.close()


def looked_at(url: str, folder: Path) -> pd.DataFrame:
    with CandleFetcher(base_urls={"binance": url}, cache_dir=folder / "cache", progress=False, max_retries=0) as one:
        return one.doctor()


def test_a_good_certificate_passes_with_its_last_day_and_issuer(
    serve_tls: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text(GOOD_PEM)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    frame = looked_at(serve_tls(GOOD_PEM), tmp_path)
    passed, found, _ = row(frame, "TLS")
    assert passed is True
    assert re.fullmatch(r"good until 2119-12-31 \([\d,]+ days\), issued by candle_fetcher tests", found)
    assert row(frame, "access")[0] is True


@pytest.mark.parametrize(
    ("certificate", "trusted", "said", "to_do"),
    [
        (GOOD_PEM, EXPIRED_PEM, "self.signed certificate", "REQUESTS_CA_BUNDLE"),
        (EXPIRED_PEM, EXPIRED_PEM, "certificate has expired", "clock"),
    ],
)
def test_a_bad_certificate_fails_with_its_reason(
    serve_tls: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: str,
    trusted: str,
    said: str,
    to_do: str,
) -> None:
    (tmp_path / "ca.pem").write_text(trusted)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    frame = looked_at(serve_tls(certificate), tmp_path)
    passed, found, fix = row(frame, "TLS")
    assert passed is False
    assert re.search(said, found)
    assert to_do in fix
    assert row(frame, "access")[:2] == (None, "not asked: TLS failed")


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    frame = looked_at("https://127.0.0.1:1", tmp_path)
    assert "nowhere.pem" in row(frame, "access")[1]
    assert row(frame, "TLS")[0] is None


def test_without_a_certificate_at_hand_a_reply_is_proof_enough() -> None:
    (place,) = list_servers(all_providers()["binance-us"], ("https://api.binance.us",), None)
    assert isinstance(place, Server)
    assert judge_tls(place, Probe(), None, 0.0).verdict == "pass"
    assert judge_tls(place, Probe(), Certificate(86_400 * 3, "me"), 0.0).found == (
        "good until 1970-01-04 (3 days), issued by me"
    )


# -- disk and cache ----------------------------------------------------------------------------------------------------


def test_a_disk_without_room_for_the_bound_fails_and_names_a_size_that_fits() -> None:
    assert judge_space(Path("c"), 10**10, 0, 10**10).verdict == "pass"
    assert judge_space(Path("c"), 10**9, 9 * 10**9, 10**10).verdict == "pass"
    short = judge_space(Path("c"), 10**9, 10**9, 10**10)
    assert (short.verdict, short.found) == ("fail", "1.0 GB free; the cache has 1.0 GB of 10.0 GB")
    assert "disk_cache_size to 1800MB" in short.fix
    assert judge_space(Path("c"), None, 0, 1).verdict == "skipped"


@posix
def test_a_folder_that_others_may_write_to_fails(world: World) -> None:
    with world.fetcher() as fetcher:
        fetcher.fetch(*SPAN)
    world.folder.chmod(0o777)
    assert row(world.fetcher().doctor(), "permissions")[::2] == (False, f"chmod 700 {world.folder}")


@pytest.mark.fault("D31")
def test_a_folder_that_cannot_be_reached_is_looked_at_and_done_without(world: World) -> None:
    # As a folder below one that is closed to us, which nothing is to root.
    folder = world.folder / ("x" * 300) / "cache"
    fetcher = world.fetcher(cache_dir=folder)
    assert str(world.folder.parent) in row(fetcher.doctor(), "permissions")[1]
    with pytest.warns(CacheWarning, match="cannot be used"):
        assert len(fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")) == 24


def test_a_file_in_the_place_of_the_folder_fails(world: World) -> None:
    world.folder.write_text("a file where a folder belongs")
    passed, found, fix = row(world.fetcher().doctor(), "permissions")
    assert passed is False
    assert str(world.folder) in found
    assert "CANDLE_FETCHER_CACHE_DIR" in fix


def test_permissions_are_judged_by_their_facts() -> None:
    folder = Path("c")

    def judged(**facts: Any) -> Check:
        return judge_access(folder, FolderAccess(folder, is_there=True)._replace(**facts))

    assert judged().verdict == "pass"
    assert judged(is_there=False).found == "not there yet, can be made in c"
    for facts in ({"refusal": "Read-only file system"}, {"owner": False}, {"open_to_all": True}, {"foreign": True}):
        check = judged(**facts)
        assert check.verdict == "fail"
        assert check.fix


def test_another_programs_database_is_left_alone(world: World) -> None:
    world.folder.mkdir()
    (world.folder / "cache.db").write_bytes(b"theirs")
    frame = world.fetcher(source="cache").doctor()
    assert row(frame, "permissions")[1] == "cache.db in it is another program's"
    assert row(frame, "cache entries")[0] is False
    assert (world.folder / "cache.db").read_bytes() == b"theirs"


def test_a_database_that_cannot_be_read_fails_and_stays(world: World) -> None:
    with world.fetcher() as fetcher:
        fetcher.fetch(*SPAN)
    (world.folder / "cache.db").write_bytes(b"garbage" * 1000)
    before = files_of(world.folder)
    passed, found, fix = row(world.fetcher(source="cache").doctor(), "cache entries")
    assert passed is False
    assert "not a database" in found
    assert "moves a damaged database aside" in fix
    assert files_of(world.folder) == before


def test_of_a_large_cache_a_sample_is_read(tmp_path: Path) -> None:
    from candle_fetcher.store.inspection import read_content

    tier = DiskTier(tmp_path / "cache", 10**8)
    tier.save_many({f"key {number}": b"x" for number in range(100)})
    tier.close()
    content = read_content(tmp_path / "cache", lambda key, data: key != "key 0", most=10)
    assert content == Content(100, 10, ("key 0",))
    assert read_content(tmp_path / "cache", lambda key, data: True, patience_s=0.0) == Content(100, 1)
    assert read_content(tmp_path / "nowhere", lambda key, data: True) is None


def test_entries_are_judged_by_their_facts() -> None:
    assert judge_content(Path("c"), None).found == "none yet"
    named = judge_content(Path("c"), Content(9, 9, ("a", "b", "c", "d"))).found
    assert named == "9 of 9 entries read, 4 damaged: a, b, c, ..."


def test_what_was_left_behind_is_found(world: World, tmp_path: Path) -> None:
    world.folder.mkdir()
    (world.folder / "cache.db.bad-20240101T000000").write_bytes(b"")
    exports = tmp_path / "historical_data"
    exports.mkdir()
    old, young = exports / ".a.csv.x1.part", exports / ".b.csv.x2.part"
    for path in (old, young):
        path.write_bytes(b"")
    now_s = old.stat().st_mtime
    os.utime(old, (now_s - 7200, now_s - 7200))
    assert find_orphans(exports, pattern=".*.part", older_s=3600, now_s=now_s) == [old]
    passed, found, fix = row(world.fetcher(clock=lambda: now_s + 1, source="cache").doctor(), "cache orphans")
    assert passed is False
    assert "1 of a damaged database, such as" in found
    assert "1 of exports cut short, such as" in found
    assert fix.startswith("Remove them")
    assert old.exists()


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "is_sound"),
    [
        ("3.40.1", False),
        ("3.44.5", False),
        ("3.44.6", True),
        ("3.45.0", False),
        ("3.50.6", False),
        ("3.50.7", True),
        ("3.51.2", False),
        ("3.51.3", True),
        ("3.52.0", True),
        ("4.0", True),
    ],
)
def test_the_wal_reset_bug_of_sqlite_is_known_with_its_backports(version: str, is_sound: bool) -> None:
    assert (find_defect("sqlite", version) is None) is is_sound


def test_the_sqlite_in_use_is_the_one_that_is_judged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.40.1")
    frame = world.fetcher(source="cache").doctor()
    assert failing(frame) == []  # there is nothing that a user would have to do
    (found,) = frame.loc[frame["subject"] == "sqlite", "found"]
    assert found.startswith("3.40.1: ")
    assert "WAL-reset" in found


def test_versions_are_judged_by_their_numbers() -> None:
    assert judge_version("urllib3", "2.6.3").verdict == "fail"
    assert judge_version("urllib3", "2.10.0").verdict == "pass"
    assert judge_version("requests", "2.32.3").fix == 'pip install --upgrade "requests>=2.32.4"'
    assert judge_version("diskcache", "5.6.3").verdict == "pass"
    assert "CVE-2025-69872" in judge_version("diskcache", "5.6.3").found
    assert judge_version("pandas", "").found == "not installed"


def test_what_is_installed_with_us_is_never_older_than_what_is_sound() -> None:
    needs = dict(re.findall(r'"(\w+)>=([\d.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8")))
    for defect in DEFECTS:
        if defect.package in needs:
            assert tuple(map(int, needs[defect.package].split("."))) >= defect.fixed


# -- the command -------------------------------------------------------------------------------------------------------


def command(world: World, *words: str) -> int:
    hosts = [word for name, url in world.exchange.base_urls.items() for word in ("--base-url", f"{name}={url}")]
    return main(["doctor", *hosts, "--cache-dir", str(world.folder), *words])


@pytest.fixture
def today(tmp_path: Path) -> Iterator[World]:
    """A world whose clock is that of the command line."""
    with World(tmp_path / "cache") as made:
        made.now_s = time.time()
        yield made


def test_the_command_exits_with_0_where_nothing_fails(today: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(today) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert {line[0] for line in out.splitlines()} == {"✓", "–"}
    assert re.search(r"^✓ access +127.0.0.1 \(binance\): answers in \d+ ms, no region block$", out, re.M)
    assert err == f"nothing wrong in {len(out.splitlines())} checks\n"


def test_the_command_exits_with_1_and_says_what_to_do(today: World, capsys: pytest.CaptureFixture[str]) -> None:
    today.exchange.fail(faults.restricted(), times=None, match="/api/")
    assert command(today) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^✗ access .*region block.*\n +→ Use data from another provider", out, re.M)
    assert re.fullmatch(r"1 of \d+ checks failed\n", err)


def test_the_command_prints_json(today: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(today, "--json") == 0
    checks = json.loads(capsys.readouterr().out)
    assert [check["check"] for check in checks][:13] == [*NETWORK, *MACHINE]
    assert {check["passed"] for check in checks} == {True, None}
    assert set(checks[0]) == {"check", "subject", "passed", "found", "what_to_do"}


def test_no_check_is_a_frame_too() -> None:
    assert as_frame([]).empty


@pytest.mark.slow
@posix
@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_lines_fit_it_and_marks_are_coloured_unless_that_is_not_wanted(
    tmp_path: Path, no_color: str
) -> None:
    words = ["doctor", "--base-url", f"binance=http://127.0.0.1:{closed_port()}", "--cache-dir", str(tmp_path / "c")]
    code, text = forks.run_on_terminal(lambda: main(words), TERM="xterm", COLUMNS="80", NO_COLOR=no_color)
    assert code == 1
    assert ("\x1b[31m✗" in text) is not bool(no_color)
    plain = re.sub(r"\x1b\[\d+m", "", text).replace("\r", "")
    assert max(map(len, plain.splitlines())) <= 80
    assert "✗ access" in plain
