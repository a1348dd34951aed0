"""Pure: facts about the network in, checks with what to do out. `network.py` finds the facts."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    InputError,
    ProviderRefused,
    RateLimited,
    ReplyError,
    TransportError,
)
from candle_fetcher.diagnosis.check import FAIL, PASS, SKIPPED, Check

_SKEW_S = 5.0
_NO_NETWORK = "Is there a network? With --practice (in Python: PracticeExchange) none is needed"
# Of OpenSSL's x509_vfy.h: not yet valid, expired; self-signed and unknown issuers; another name.
_BY_CLOCK, _BY_ISSUER, _BY_NAME = (9, 10), (18, 19, 20, 21), (62, 64)


class Server(NamedTuple):
    """A server of candles: its root URL, the proxy on the way, a cheap call, and how its reply is read."""

    service: str
    root: str
    proxy: str
    call: Call
    read: Callable[[bytes], object]
    refusal: Callable[[Reply, str, int], Exception]
    used: Callable[[Mapping[str, str]], int | None]

    @property
    def host(self) -> str:
        return urlsplit(self.root).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.root)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def is_encrypted(self) -> bool:
        return self.root.startswith("https:")

    @property
    def is_resolved_here(self) -> bool:
        """Return whether this machine looks up the name: a proxy does it otherwise, and an address needs none."""
        return not self.proxy and not _is_address(self.host)


class Probe(NamedTuple):
    """The result of one call to a server: the weight used, or the error; `seconds` is how long the reply took."""

    error: Exception | None = None
    seconds: float = 0.0
    used: int | None = None


class Certificate(NamedTuple):
    """The end of a certificate's validity (Unix seconds), and its issuer."""

    until_s: float
    issuer: str


class ProviderFacts(NamedTuple):
    """What the provider answered: its clock minus this machine's, its limit, or the error; `has_paused` says whether
    it asked for a pause."""

    skew_s: float | None = None
    limit: Limit | None = None
    error: Exception | None = None
    has_paused: bool = False


def judge_proxies(servers: Sequence[Server], looked: Mapping[str, object]) -> Check:
    """Check that the proxies of the environment answer; their passwords are never shown."""
    proxies: dict[str, list[str]] = {}
    for server in servers:
        if server.proxy:
            proxies.setdefault(server.proxy, []).append(server.host)
    if not proxies:
        return Check("proxy", "environment", PASS, "none is used for these hosts")
    found = []
    for proxy, hosts in proxies.items():
        wrong = "" if looked.get(proxy) is True else f" does not answer ({_reason(looked.get(proxy))})"
        found.append(f"{masked(proxy)}{wrong}, for {', '.join(dict.fromkeys(hosts))}")
    if all(looked.get(proxy) is True for proxy in proxies):
        return Check("proxy", "environment", PASS, "; ".join(found))
    fix = "Correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY; or name the hosts in NO_PROXY to go without it"
    return Check("proxy", "environment", FAIL, "; ".join(found), fix)


def judge_name(server: Server, looked: object) -> Check:
    """Check that the name of the server's host leads to an address."""
    name, host = "name resolution", server.host
    if not server.is_resolved_here:
        return Check(name, host, SKIPPED, "the proxy looks it up" if server.proxy else "it is an address")
    if isinstance(looked, list):
        more = f" and {len(looked) - 1} more" if len(looked) > 1 else ""
        return Check(name, host, PASS, f"{looked[0]}{more}")
    return Check(name, host, FAIL, f"not resolved ({_reason(looked)})", _NO_NETWORK)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def judge_tls(server: Server, probe: Probe | None, certificate: object, now_s: float) -> Check:
    """Check the host's certificate and the end of its validity."""
    if not server.is_encrypted:
        return Check("TLS", server.host, SKIPPED, "http, to this machine")
    failure = _find_tls_error(probe.error) if probe is not None else None
    if failure is not None:
        return Check("TLS", server.host, FAIL, _tls_reason(failure), _tls_fix(failure))
    if probe is None or not _has_connected(probe):
        return Check("TLS", server.host, SKIPPED, "the host was not reached")
    if not isinstance(certificate, Certificate):
        return Check("TLS", server.host, PASS, "the certificate is good")
    until = dt.datetime.fromtimestamp(certificate.until_s, dt.timezone.utc)
    days = (certificate.until_s - now_s) / 86_400
    found = f"good until {until:%Y-%m-%d} ({days:,.0f} days), issued by {certificate.issuer}"
    return Check("TLS", server.host, PASS, found)


def judge_access(server: Server, probe: Probe | None, is_served: bool, facts: ProviderFacts) -> Check:
    """Check that the server answers and serves this address: no region block, no firewall.

    `is_served` says whether another host of the service answers.
    """
    name, host = "access", f"{server.host} ({server.service})"
    if probe is None:
        held = facts.has_paused or isinstance(facts.error, RateLimited)
        why = "not asked: the provider wants a pause" if held else "not asked: its name is not resolved"
        return Check(name, host, SKIPPED, why)
    error = probe.error
    if error is None or isinstance(error, ProviderRefused):
        return Check(name, host, PASS, f"answers in {1000 * probe.seconds:,.0f} ms, no region block")
    if isinstance(error, RateLimited):
        return Check(name, host, SKIPPED, "it asks for a pause, see limits left")
    found = str(error).removeprefix(f"{urlsplit(server.root).netloc}{server.call.path}: ")
    found = found.removesuffix(f". {getattr(error, 'fix', '')}")
    other = f"Nothing: another host of {server.service} answers and is asked instead"
    if isinstance(error, AccessDenied):
        block = "region block" if error.status == 451 else "refused"
        fix = other if is_served and error.status == 451 else error.fix
        return Check(name, host, FAIL, f"{block}: {found}", fix)
    if isinstance(error, InputError):
        return Check(name, host, FAIL, str(error), "Do as it says, or correct the environment variable")
    if isinstance(error, ReplyError):
        fix = "Look for a proxy, or a page of this network to log in to, that answers in place of the provider"
        return Check(name, host, FAIL, found, fix)
    if _find_tls_error(error) is not None:
        return Check(name, host, SKIPPED, "not asked: TLS failed")
    if isinstance(error, TransportError) and error.status is not None:
        return Check(name, host, FAIL, found, "Try again later: the provider has a fault")
    if is_served:
        return Check(name, host, FAIL, found, other)
    return Check(name, host, FAIL, found, "See whether the proxy lets you through" if server.proxy else _NO_NETWORK)


def judge_clock(provider: str, skew_s: float | None) -> Check:
    """Check that this machine's clock agrees with the provider's to within 5 s."""
    if skew_s is None:
        return Check("clock skew", provider, SKIPPED, "the provider's clock could not be asked")
    found = f"this machine's clock is {abs(skew_s):,.1f} s {'behind' if skew_s > 0 else 'ahead of'} the provider's"
    if abs(skew_s) <= _SKEW_S:
        return Check("clock skew", provider, PASS, found)
    fix = "Set this machine's clock by network time (NTP); candles are right in any case, the provider's clock decides"
    return Check("clock skew", provider, FAIL, found, fix)


def judge_limits(provider: str, facts: ProviderFacts, probes: Iterable[Probe] = ()) -> Check:
    """Check how much of the request limit is left to this address."""
    name, probes = "limits left", list(probes)
    error = next((probe.error for probe in probes if isinstance(probe.error, RateLimited)), facts.error)
    used = next((probe.used for probe in probes if probe.used is not None), None)
    limit = facts.limit
    if isinstance(error, Banned):
        found = f"banned until {error.until:%Y-%m-%d %H:%M:%S} UTC"
        return Check(name, provider, FAIL, found, "Wait until then; see whether other programs use this address")
    if isinstance(error, RateLimited) or facts.has_paused:
        pause = getattr(error, "retry_after_s", None)
        found = f"asks for a pause of {pause:,.0f} s" if pause is not None else "asks for a pause"
        return Check(name, provider, FAIL, found, "Wait that long; see whether other programs use this address")
    if limit is None or used is None:
        return Check(name, provider, SKIPPED, "the provider did not say")
    every = "minute" if limit.interval_s == 60 else f"{limit.interval_s:,} s"
    found = f"{max(0, limit.cost - used):,} of {limit.cost:,} weight left in this {every}"
    if used < limit.cost - limit.cost // 50:  # the margin that pacing leaves to others
        return Check(name, provider, PASS, found)
    return Check(name, provider, FAIL, found, f"Wait for the next {every}; see whether other programs use this address")


def masked(proxy: str) -> str:
    """Return the proxy's URL without user and password."""
    parts = split_proxy(proxy)
    scheme, mark, rest = proxy.partition("://")
    user = "***@" if "@" in (rest if mark else proxy) else ""
    if parts is None:
        return "a proxy with an unreadable URL"
    return f"{scheme if mark else 'http'}://{user}{parts[0]}:{parts[1]}"


def split_proxy(proxy: str) -> tuple[str, int] | None:
    """Return host and port of a proxy's URL; None where it is not such a URL."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = parts.port or {"https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}.get(parts.scheme, 80)
        return (parts.hostname, port) if parts.hostname else None
    except ValueError:
        return None


def has_answered(probe: Probe | None) -> bool:
    return probe is not None and (probe.error is None or isinstance(probe.error, ProviderRefused))


def _has_connected(probe: Probe) -> bool:
    """Return whether anything came back, so that TLS must have worked."""
    error = probe.error
    return not isinstance(error, InputError | TransportError) or getattr(error, "status", None) is not None


def _find_tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS error that made a call fail."""
    for _ in range(8):
        if error is None or isinstance(error, ssl.SSLError):
            return error
        error = next((arg for arg in error.args[::-1] if isinstance(arg, BaseException)), error.__cause__)
    return None


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.reason or type(error).__name__


def _tls_fix(error: ssl.SSLError) -> str:
    code = getattr(error, "verify_code", None)
    if code in _BY_CLOCK:
        return "Look at this machine's clock; where it is right, a proxy or the provider shows an old certificate"
    if code in _BY_ISSUER:
        return "A proxy or virus scanner answers in its place: name a file with its certificate in REQUESTS_CA_BUNDLE"
    if code in _BY_NAME:
        return "Another server answers in its place: look for a proxy, or a page of this network to log in to"
    return "Look for a proxy or firewall that cuts connections; update Python where its OpenSSL is old"


def _reason(error: object) -> str:
    """Return the cause in a few words; None stands for a job that was not done in time."""
    if error is None:
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
