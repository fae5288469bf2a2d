"""Where a server may lead a call: what is the same server, and which addresses are public. Not here: whether it is followed."""

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import httpx2

from etl_assets import addresses
from etl_assets.apis.errors import ApiError

_PORTS = {"http": 80, "https": 443}


def is_same_server(url: httpx2.URL, other: httpx2.URL) -> bool:
    """Whether two addresses are of one server. Behind a proxy one often says `http` of itself where it is asked by `https`."""
    return (url.host, _own_port(url)) == (other.host, _own_port(other))


def _own_port(url: httpx2.URL) -> int | None:
    return None if url.port == _PORTS.get(url.scheme) else url.port


def pinned(url: httpx2.URL, headers: dict[str, str], extensions: dict[str, Any], name: str) -> httpx2.URL:
    """The same with the address that its host stands for, which is public: what a name stands for may change from one
    question to the next. Raises `ApiError` for any other."""
    port = url.port or _PORTS[url.scheme]
    # The system gives first what this machine reaches best.
    found = [str(info[4][0]) for info in socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)]
    if not found or not all(is_public(address) for address in found):
        raise ApiError(
            f"{name}: it redirects to {addresses.place(str(url))}, which is no public address: not followed, unless its "
            "declaration says private_redirects=True (Limits)"
        )
    headers["Host"] = url.netloc.decode("ascii")
    extensions["sni_hostname"] = url.host
    return url.copy_with(host=found[0])


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: not of this machine, of a network of somebody's, or of a cloud's own."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    carried = list(_carried(ip)) if isinstance(ip, ipaddress.IPv6Address) else []
    return ip not in _OF_A_NETWORK and all(one.is_global and not one.is_multicast for one in (ip, *carried))


def _carried(ip: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The addresses of the older kind that what goes to one of the newer is handed on to."""
    if ip.ipv4_mapped:
        yield ip.ipv4_mapped
    if ip.sixtofour:
        yield ip.sixtofour
    yield from ip.teredo or ()
    if any(ip in network for network in _IN_LAST_BITS):
        yield ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)


_IN_LAST_BITS = [ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96")]
"""Where a translator (NAT64), or a system of old, takes the last bits for an address of the older kind."""
_OF_A_NETWORK = ipaddress.ip_network("64:ff9b:1::/48")
"""Of translators that are a network's own."""
