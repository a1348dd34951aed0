"""Root URLs: which ones a request may be sent to."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

from candle_fetcher.core.errors import InputError, shown

# Python 3.10 and 3.11 take [::1] for the host of http://[::1].example.com.
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_PRINTABLE = re.compile(r"[!-~]*")


def check_root(url: str) -> str:
    """Return the root URL without its trailing slash: https to any host, http to this machine only.

    Raises InputError for any other URL. The message never shows what may be a password.
    """
    parsed = _parse(url)
    if parsed is None:
        raise InputError("a base URL cannot be read; expected something like https://api.example.com")
    parts, host, port = parsed
    if "@" in parts.netloc:
        raise InputError(
            f"the base URL for {shown(str(host))} names a user; expected none: keys are settings of their own"
        )
    if parts.scheme not in ("https", "http"):
        raise InputError(f"base URL with scheme {shown(parts.scheme)}; expected https, or http to this machine")
    if not host or port == 0 or not (_AUTHORITY.fullmatch(parts.netloc) and _PRINTABLE.fullmatch(url)):
        raise InputError(
            f"a base URL names the host {shown(str(host))}, port {port}; expected one like https://api.example.com"
        )
    if "?" in url or "#" in url:
        raise InputError(f"the base URL for {shown(host)} has a query or fragment; expected only scheme, host and path")
    if parts.scheme == "http" and not _is_loopback(host):
        raise InputError(
            f"http to {shown(host)} is refused; expected https (http is for this machine: 127.0.0.1, localhost)"
        )
    return url.rstrip("/")


def check_stream_root(url: str) -> str:
    """Return the root URL of streams without its trailing slash: wss to any host, ws to this machine only.

    Raises InputError for any other URL, as `check_root`.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in ("wss", "ws"):
        raise InputError(f"base URL of streams with scheme {shown(scheme[:20])}; expected wss, or ws to this machine")
    return "ws" + check_root(f"http{scheme[2:]}:{rest}").removeprefix("http")


def _parse(url: str) -> tuple[urllib.parse.SplitResult, str | None, int | None] | None:
    """Return the URL's parts, host and port; None where it has no such form, since the error may show a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts, parts.hostname, parts.port
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
