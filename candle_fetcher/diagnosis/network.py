"""Facts about the network: each server is asked once, all side by side, within a few seconds.

A provider that has asked for a pause or banned this address is not asked.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import InputError, RateLimited, SourceError, TransportError
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.diagnosis.check import FAIL, PASS, SKIPPED, Check
from candle_fetcher.diagnosis.verdicts import (
    Certificate,
    Probe,
    ProviderFacts,
    Server,
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
from candle_fetcher.sources import CallScope, RestSource

_ON_NETWORK = ("proxy", "name resolution", "TLS", "access", "clock skew", "limits left")
# Any symbol serves: the doctor asks for the provider's limits and for a file of the archive.
_ANY_SYMBOL = "BTC/USDT"


def check_network(
    servers: Sequence[Server],
    source: RestSource,
    transport: Transport,
    scope: CallScope,
    *,
    monitor: PerformanceMonitor,
    patience_s: float,
    now_s: float,
) -> list[Check]:
    """Check proxies, names, TLS, access, clock and limits within three times `patience_s`; with 0, send nothing.

    A server without a resolved name is not asked.
    """
    provider = source.provider.name
    if not patience_s:
        return [Check(check, provider, SKIPPED, "source='cache' sends no request") for check in _ON_NETWORK]
    resolved = _resolve(servers, patience_s)
    known = [server for server in servers if not server.is_resolved_here or isinstance(resolved.get(server.host), list)]
    facts, probes, certificates = ProviderFacts(), dict[Server, Probe](), dict[str, object]()
    if any(server.service == provider for server in known):
        facts = _ask_provider(source, transport, patience_s, monitor)
    if not (facts.has_paused or isinstance(facts.error, RateLimited) or scope.is_set()):
        probes, certificates = _probe_all(known, transport, scope, patience_s, now_s)
    hosts = {server.host: server for server in reversed(servers)}
    hosts = {host: hosts[host] for host in dict.fromkeys(server.host for server in servers)}
    reachable = {server.service for server in servers if has_answered(probes.get(server))}
    return [
        judge_proxies(servers, resolved),
        *(judge_name(server, resolved.get(server.host)) for server in hosts.values()),
        *(judge_tls(server, probes.get(server), certificates.get(host), now_s) for host, server in hosts.items()),
        *(judge_access(server, probes.get(server), server.service in reachable, facts) for server in servers),
        judge_clock(provider, facts.skew_s),
        judge_limits(provider, facts, probes.values()),
    ]


def _resolve(servers: Sequence[Server], patience_s: float) -> dict[Any, object]:
    """Return the addresses of each host that is resolved here, and True for each proxy that answers; else the error."""
    jobs: dict[str, Callable[[], object]] = {}
    for server in servers:
        if server.is_resolved_here:
            jobs[server.host] = partial(_look_up, server.host, server.port)
        if server.proxy:
            jobs[server.proxy] = partial(_connect_to_proxy, server.proxy, patience_s)
    return side_by_side(jobs, patience_s)


def check_keys(source: RestSource) -> list[Check]:
    """Check that the keys of the provider are there; only a fetch shows whether they are valid."""
    provider = source.provider
    if not provider.keys:
        return []
    missing = source.keyring.missing()
    if missing is not None:
        return [Check("keys", provider.name, FAIL, str(missing.args[0]).partition(". ")[0], missing.fix)]
    names = ", ".join(source.keyring.names)
    found = f"{names}; only a fetch shows whether they are valid" if names else "none is given, and none is needed"
    return [Check("keys", provider.name, PASS, found)]


def list_servers(provider: Provider, hosts: Sequence[str], archive_root: str | None) -> list[Server]:
    """Return every server that a fetch from the provider may ask."""
    # Without a clock to ask, any reply shows that the server is there.
    call, parse = (Call("/"), len) if provider.clock is None else (provider.clock.call, provider.clock.parse)
    servers = [
        Server(provider.name, root, find_proxy(root), call, parse, provider.refuse, provider.used) for root in hosts
    ]
    if provider.archive is not None and archive_root is not None:
        servers.append(_archive_server(provider, provider.archive, archive_root))
    return servers


def _archive_server(provider: Provider, archive: Archive, root: str) -> Server:
    """Return the archive, asked for a checksum of about a hundred bytes; a 404 is an answer too."""
    try:
        symbol = provider.provider_symbol(_ANY_SYMBOL, "candles")
        series = Series(provider.name, None, symbol, parse_timeframe("1d"), "candles")
        file = archive.find_file(series, 1_704_067_200_000, monthly=True)
    except InputError:
        file = None
    path = f"{file.path}.CHECKSUM" if file is not None else "/"

    def read(body: bytes) -> object:
        return archive.find_checksum(body, file.path.rpartition("/")[2]) if file is not None else None

    return Server(archive.name, root, find_proxy(root), Call(path), read, archive.refusal, lambda headers: None)


def find_proxy(root: str) -> str:
    """Return the proxy that the environment names for the URL; "" for none."""
    parts = urlsplit(root)
    if proxy_bypass(parts.netloc):
        return ""
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all") or ""


def side_by_side(jobs: Mapping[Any, Callable[[], object]], patience_s: float) -> dict[Any, object]:
    """Return what each job returned or raised, by name; a job that takes longer is absent.

    The thread of such a job goes on, since nothing ends a name lookup.
    """
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


def _ask_provider(
    source: RestSource, transport: Transport, patience_s: float, monitor: PerformanceMonitor
) -> ProviderFacts:
    """Return clock and limits, asked as a fetch asks them: with its budget and its retries, and not during a ban."""
    provider, scope, pauses = source.provider, CallScope(), _count_pauses(monitor)

    def ask() -> ProviderFacts:
        if provider.clock is not None:
            source.now_ms(scope, None)
        try:
            limits = source.describe(provider.provider_symbol(_ANY_SYMBOL, "candles"), scope).limits
        except InputError:  # the provider has no such symbol; its documented limits serve
            limits = ()
        limit = next((one for one in limits or provider.default_limits if one.kind == "weight"), None)
        return ProviderFacts(None if provider.clock is None else source.server_clock.skew_s, limit)

    found = side_by_side({"ask": ask}, patience_s).get("ask")
    if found is None:
        transport.abort(scope)
    facts = found if isinstance(found, ProviderFacts) else ProviderFacts()
    error = found if isinstance(found, Exception) else None
    return facts._replace(error=error, has_paused=_count_pauses(monitor) > pauses)


def _count_pauses(monitor: PerformanceMonitor) -> int:
    """Return how many requests were held back so far because the provider asked for a pause."""
    figures = monitor.snapshot()
    reasons = ((figures["retries"], "RateLimited"), (figures["waits"], "hold"))
    return sum(part["reasons"].get(reason, {}).get("count", 0) for part, reason in reasons)


def _probe_all(
    servers: Sequence[Server], transport: Transport, scope: CallScope, patience_s: float, now_s: float
) -> tuple[dict[Server, Probe], dict[str, object]]:
    """Return the result of one call to each server, and the certificates by host."""
    direct = {server.host: server for server in servers if server.is_encrypted and not server.proxy}
    jobs: dict[Server | str, Callable[[], object]] = {
        server: partial(_probe, server, transport, scope, patience_s, now_s) for server in servers
    }
    jobs |= {host: partial(_read_certificate, host, server.port, patience_s) for host, server in direct.items()}
    found = side_by_side(jobs, patience_s + 0.5)
    if len(found) < len(jobs):
        transport.abort(scope)
    late = Probe(TransportError(f"no answer within {patience_s:g} s"))
    probes = ((server, found.get(server)) for server in servers)
    return (
        {server: probe if isinstance(probe, Probe) else late for server, probe in probes},
        {host: found.get(host) for host in direct},
    )


def _probe(server: Server, transport: Transport, scope: CallScope, patience_s: float, now_s: float) -> Probe:
    try:
        reply = transport.send(server.root, server.call, provider=server.service, stop=scope, timeout_s=patience_s)
        if reply.status == 200:
            server.read(reply.body)
    except (SourceError, InputError) as error:
        return Probe(error)
    refusal = None if reply.status == 200 else server.refusal(reply, "", int(now_s * 1000))
    return Probe(refusal, reply.seconds, server.used(reply.headers))


def _look_up(host: str, port: int) -> list[str]:
    return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})


def _connect_to_proxy(proxy: str, patience_s: float) -> bool:
    address = split_proxy(proxy)
    if address is None:
        raise ValueError("it has no host")
    socket.create_connection(address, timeout=patience_s).close()
    return True


def _read_certificate(host: str, port: int, patience_s: float) -> Certificate:
    """Return the certificate of the host, verified as requests verifies it."""
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
    named = issuer.get("organizationName") or issuer.get("commonName") or "an unnamed issuer"
    return Certificate(ssl.cert_time_to_seconds(shown["notAfter"]), named)
