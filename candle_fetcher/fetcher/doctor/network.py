"""Whom to ask about the network, and how: side by side, once each, and for a few seconds at most.

A provider that has asked for a pause or banned this address is not asked. A thread that hangs in a name lookup is left.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import InputError, RateLimited, SourceError, TransportError
from candle_fetcher.core.keys import NO_KEYS, Keys
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher.doctor.check import FAIL, PASS, SKIPPED, Check
from candle_fetcher.fetcher.doctor.verdicts import (
    Certificate,
    Place,
    Told,
    Visit,
    has_answered,
    judge_access,
    judge_clock,
    judge_limits,
    judge_name,
    judge_proxies,
    judge_tls,
    split_proxy,
)
from candle_fetcher.monitor import PerformanceMonitor
from candle_fetcher.net.transport import Transport
from candle_fetcher.providers import Archive, Provider
from candle_fetcher.sources import Errand, Source

_ON_NETWORK = ("proxy", "name resolution", "TLS", "access", "clock skew", "limits left")
# Whichever: what is asked about it is the provider's limits, and whether the archive answers.
_ANY_SYMBOL = "BTC/USDT"


def check_network(
    places: Sequence[Place],
    source: Source,
    transport: Transport,
    errand: Errand,
    *,
    monitor: PerformanceMonitor,
    patience_s: float,
    now_s: float,
) -> list[Check]:
    """Proxies, names, TLS, access, clock and limits, within three times `patience_s`; where that is 0 nobody is asked.

    Whose name is not known is not asked.
    """
    if not patience_s:
        name, why = source.provider.name, "source='cache' asks nobody"
        return [Check(check, name, SKIPPED, why) for check in _ON_NETWORK]
    names = {place.host: place for place in places if not place.proxy and not _is_address(place.host)}
    proxies = {place.proxy for place in places if place.proxy}
    looked = side_by_side(
        {
            **{host: _look_up(host, place.port) for host, place in names.items()},
            **{proxy: _knock(proxy, patience_s) for proxy in proxies},
        },
        patience_s,
    )
    lost = {host for host in names if not isinstance(looked.get(host), list)}
    checks = [judge_proxies(places, looked)]
    hosts = list(dict.fromkeys(place.host for place in places))
    via = {place.host: place.proxy for place in places}
    checks += [judge_name(host, via[host], host in names, looked.get(host)) for host in hosts]
    known = [place for place in places if place.host not in lost]
    told, visits, certificates = Told(), dict[Place, Visit](), dict[str, object]()
    if any(place.service == source.provider.name for place in known):
        told = _ask_provider(source, transport, patience_s, monitor)
    if not (told.has_paused or isinstance(told.error, RateLimited)) and not errand.is_set():
        visits, certificates = _visit_all(known, transport, errand, patience_s, now_s)
    is_served = {place.service for place in places if has_answered(visits.get(place))}
    by_host = {place.host: place for place in reversed(places)}
    checks += [judge_tls(by_host[host], visits.get(by_host[host]), certificates.get(host), now_s) for host in hosts]
    checks += [judge_access(place, visits.get(place), place.service in is_served, told) for place in places]
    name = source.provider.name
    used = next((visit.used for visit in visits.values() if visit.used is not None), None)
    held = next((visit.error for visit in visits.values() if isinstance(visit.error, RateLimited)), told.error)
    return [*checks, judge_clock(name, told.skew_s), judge_limits(name, told.limit, used, held, told.has_paused)]


def check_keys(source: Source) -> list[Check]:
    """Whether the keys are there that the provider wants; whether they are good, only a fetch can tell."""
    provider = source.provider
    if not provider.keys:
        return []
    missing = source.missing_key()
    if missing is not None:
        return [Check("keys", provider.name, FAIL, str(missing.args[0]).partition(". ")[0], missing.fix)]
    names = ", ".join(source.key_names) or "none is given, and none is needed"
    return [Check("keys", provider.name, PASS, names)]


def list_places(
    provider: Provider, hosts: Sequence[str], archive_root: str | None, keys: Keys = NO_KEYS
) -> list[Place]:
    """Every host that a fetch from the provider may ask; `keys` are for the provider's own."""
    # Where there is no clock to ask, any reply shows that the host is there.
    call, parse = (Call("/"), len) if provider.clock is None else (provider.clock.call, provider.clock.parse)
    places = [
        Place(provider.name, root, find_proxy(root), call, parse, provider.refuse, provider.used, keys)
        for root in hosts
    ]
    if provider.archive is not None and archive_root is not None:
        places.append(_archive_place(provider, provider.archive, archive_root))
    return places


def _archive_place(provider: Provider, archive: Archive, root: str) -> Place:
    """The archive, asked for a checksum of some hundred bytes; that there is no such file is an answer too."""
    try:
        symbol = provider.provider_symbol(_ANY_SYMBOL, "candles")
        series = Series(provider.name, None, symbol, parse_timeframe("1d"), "candles")
        file = archive.find_file(series, 1_704_067_200_000, monthly=True)
    except InputError:
        file = None
    path = f"{file.path}.CHECKSUM" if file is not None else "/"

    def read(body: bytes) -> object:
        return archive.find_checksum(body, file.path.rpartition("/")[2]) if file is not None else None

    return Place(archive.name, root, find_proxy(root), Call(path), read, archive.refusal, lambda headers: None)


def find_proxy(root: str) -> str:
    """The proxy that the environment names for the URL; "" for none."""
    parts = urlsplit(root)
    if proxy_bypass(parts.netloc):
        return ""
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all") or ""


def side_by_side(jobs: Mapping[Any, Callable[[], object]], patience_s: float) -> dict[Any, object]:
    """What each job returned or raised, by name; a job that takes longer is absent. Its thread is left to itself, since
    nothing ends a name lookup."""
    results: dict[Any, object] = {}

    def run(name: object, job: Callable[[], object]) -> None:
        try:
            results[name] = job()
        except Exception as error:  # noqa: BLE001 - passed on
            results[name] = error

    threads = [
        threading.Thread(target=run, args=item, name=f"candle-doctor-{number}", daemon=True)
        for number, item in enumerate(jobs.items())
    ]
    for thread in threads:
        thread.start()
    ends_s = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, ends_s - time.monotonic()))
    return dict(results)


def _ask_provider(source: Source, transport: Transport, patience_s: float, monitor: PerformanceMonitor) -> Told:
    """The clock and the limits, asked as a fetch asks: with its budget, its retries, and silent during a ban."""
    errand, before = Errand(), _count_pauses(monitor)

    def ask() -> Told:
        if source.provider.clock is not None:
            source.now_ms(errand, None)
        try:
            symbol = source.provider.provider_symbol(_ANY_SYMBOL, "candles")
            limits = source.describe(symbol, errand).limits
        except InputError:  # it has no such symbol, and its limits are those that its documentation names
            limits = ()
        limit = next((one for one in limits or source.provider.default_limits if one.kind == "weight"), None)
        # Where there is no clock to ask, what a reply to candles said of it is not at hand.
        return Told(source.skew_s if source.provider.clock is not None else None, limit)

    got = side_by_side({"ask": ask}, patience_s).get("ask")
    if got is None:
        transport.abort(errand)
    has_paused = _count_pauses(monitor) > before
    if isinstance(got, Told):
        return got._replace(has_paused=has_paused)
    return Told(error=got if isinstance(got, Exception) else None, has_paused=has_paused)


def _count_pauses(monitor: PerformanceMonitor) -> int:
    """How often a request was held back so far because the provider asked for a pause."""
    figures = monitor.snapshot()
    reasons = ((figures["retries"], "RateLimited"), (figures["waits"], "hold"))
    return sum(part["reasons"].get(reason, {}).get("count", 0) for part, reason in reasons)


def _visit_all(
    places: Sequence[Place], transport: Transport, errand: Errand, patience_s: float, now_s: float
) -> tuple[dict[Place, Visit], dict[str, object]]:
    """What came of asking each place once, and the certificates, by host."""
    jobs: dict[Place | str, Callable[[], object]] = {
        place: _visit(place, transport, errand, patience_s, now_s) for place in places
    }
    direct = {place.host: place for place in places if place.is_encrypted and not place.proxy}
    jobs |= {host: _read_certificate(host, place.port, patience_s) for host, place in direct.items()}
    got = side_by_side(jobs, patience_s + 0.5)
    if len(got) < len(jobs):
        transport.abort(errand)
    late = TransportError(f"no answer within {patience_s:g} s")
    visits = {place: got.get(place) for place in places}
    return (
        {place: visit if isinstance(visit, Visit) else Visit(late) for place, visit in visits.items()},
        {host: got.get(host) for host in direct},
    )


def _visit(place: Place, transport: Transport, errand: Errand, patience_s: float, now_s: float) -> Callable[[], Visit]:
    def visit() -> Visit:
        try:
            reply = transport.send(
                place.root, place.call, provider=place.service, stop=errand, timeout_s=patience_s, keys=place.keys
            )
            if reply.status == 200:
                place.read(reply.body)
        except (SourceError, InputError) as error:
            return Visit(error)
        refusal = None if reply.status == 200 else place.refusal(reply, "", int(now_s * 1000))
        return Visit(refusal, reply.seconds, place.used(reply.headers))

    return visit


def _look_up(host: str, port: int) -> Callable[[], object]:
    return lambda: sorted({str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})


def _knock(proxy: str, patience_s: float) -> Callable[[], object]:
    def knock() -> bool:
        parts = split_proxy(proxy)
        if parts is None:
            raise ValueError("it has no host")
        socket.create_connection(parts, timeout=patience_s).close()
        return True

    return knock


def _read_certificate(host: str, port: int, patience_s: float) -> Callable[[], Certificate]:
    """The certificate that the host shows, verified as requests verifies it."""

    def read() -> Certificate:
        import certifi

        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
        is_folder = Path(bundle).is_dir()
        context = ssl.create_default_context(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)
        with (
            socket.create_connection((host, port), timeout=patience_s) as sock,
            context.wrap_socket(sock, server_hostname=host) as secure,
        ):
            shown: Any = secure.getpeercert()
        issuer = {name: value for part in shown.get("issuer", ()) for name, value in part}
        named = issuer.get("organizationName") or issuer.get("commonName") or "nobody named"
        return Certificate(ssl.cert_time_to_seconds(shown["notAfter"]), named)

    return read


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
