"""Which addresses a registry may send us to.

A registry on the public Internet can answer with a redirect, a token realm or an upload location that names an address
of the user's own network: a cloud's metadata service, a router, a service on loopback. Such a hop is refused, where the
connection is made and not only by its name, so that a name that resolves anew changes nothing. A registry that is on a
private network itself may send us anywhere.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from ocifast.errors import NetworkError

__all__ = ["connect", "is_public", "refuse_private", "resolve"]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is one of the public Internet.

    Addresses that embed an IPv4 address (mapped, 6to4, Teredo, NAT64) are judged by it too. The unspecified address,
    loopback, link-local, shared (100.64.0.0/10), multicast and reserved ones are not public.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
        if parsed in _NAT64:
            embedded.append(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
        if any(inner is not None and not is_public(str(inner)) for inner in embedded):
            return False
        if parsed.ipv4_mapped is not None:
            return True
    return parsed.is_global and not parsed.is_multicast and not parsed.is_unspecified


def resolve(host: str, port: int) -> list[tuple[int, str]]:
    """All addresses of a host, in the order of preference: address family and address.

    Raises:
        OSError: the name is unknown.
    """
    try:
        found = socket.getaddrinfo(_encoded(host), port, type=socket.SOCK_STREAM)
    except UnicodeError:
        # A label of more than 63 characters cannot even be asked for.
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))


def connect(address: str, port: int, timeout: float | None) -> socket.socket:
    """A TCP connection. Raises OSError."""
    return socket.create_connection((_encoded(address), port), timeout)


def _encoded(host: str) -> Any:
    """A name of ASCII as the system takes it: Python would first load what makes such a name of any other."""
    return host.encode("ascii") if host.isascii() else host


def refuse_private(host: str, addresses: list[tuple[int, str]]) -> None:
    """Raises NetworkError when any of the addresses is not public."""
    for _, address in addresses:
        if not is_public(address):
            raise NetworkError(
                f"refused to be sent to {host}: {address} is not a public address, but the registry's is", host=host
            )
