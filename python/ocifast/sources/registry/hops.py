"""Where an answer may send us, and which servers may be spoken to in plain HTTP.

Credentials go to the registry alone, HTTPS never becomes plain HTTP, and a URL has no password in it. That a public
registry does not send us to a private address is looked at where the connection is made (`addresses`).
"""

from __future__ import annotations

import re

import httpx

from ocifast.errors import RegistryError
from ocifast.patterns import pattern
from ocifast.sources.registry.options import RegistryOptions, host_name, is_insecure, is_loopback
from ocifast.sources.registry.redaction import shown_url
from ocifast.sources.registry.tls import certificate_folder

__all__ = ["begins_plain", "check_hop", "next_hop", "next_page", "origin_of", "speaks_plain"]

_NEXT_PAGE = pattern(r"""<([^<>]*)>[^<>]*;\s*rel\s*=\s*"?next"?""", re.IGNORECASE)


def speaks_plain(host: str, options: RegistryOptions) -> bool:
    """Whether `HOST[:PORT]` may be spoken to in plain HTTP."""
    if is_insecure(host, options):
        return True
    return is_loopback(host) and certificate_folder(host, options.certificates) is None


def begins_plain(host: str, options: RegistryOptions) -> bool:
    """Whether plain HTTP comes first: not on the port of HTTPS, where nearly all speak TLS."""
    on_usual_port = host_name(host) in (host.lower(), host.lower().removesuffix(":443"))
    return speaks_plain(host, options) and not (is_insecure(host, options) and on_usual_port)


def origin_of(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454): two URLs with the same go to one server."""
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def next_hop(name: str, url: httpx.URL, location: str, options: RegistryOptions) -> httpx.URL:
    """The URL that an answer from `url` sends us to. Raises RegistryError as `check_hop`."""
    try:
        target = url.join(location)
    except httpx.InvalidURL:
        raise RegistryError(f"{name}: {url.host} sends us to something that is no URL", reference=name) from None
    check_hop(name, url, target, options)
    return target


def next_page(name: str, response: httpx.Response, options: RegistryOptions) -> httpx.URL | None:
    """Where a list goes on (`Link` with `rel="next"`, RFC 8288), under the rules of a hop."""
    for link in response.headers.get_list("Link"):
        found = _NEXT_PAGE.search(link)
        if found:
            return next_hop(name, response.request.url, found[1], options)
    return None


def check_hop(name: str, url: httpx.URL, target: httpx.URL, options: RegistryOptions) -> None:
    """Raises RegistryError when an answer from `url` must not send us to `target`; `name` is the image."""
    if target.scheme not in ("http", "https") or not target.host:
        raise RegistryError(f"{name}: {url.host} sends us to something that is no web address", reference=name)
    if target.userinfo:
        raise RegistryError(f"{name}: {url.host} sends us to a URL with a password in it", reference=name)
    plain = target.scheme == "http"
    if plain and url.scheme == "https" and not speaks_plain(target.netloc.decode("ascii"), options):
        raise RegistryError(
            f"{name}: {url.host} sends us from HTTPS to plain HTTP at {shown_url(target)}; refused", reference=name
        )
