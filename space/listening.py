"""Where a server listens and who may ask it: addresses of this machine, tokens, and names that are its own."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from urllib.parse import urlsplit

from space.errors import UserError

SHORTEST_TOKEN = 16
PORTS = 1 << 16  # beyond which the system takes them for others


def require_port(port: int) -> None:
    """Raises UserError where there is no such port."""
    if not 0 <= port < PORTS:
        raise UserError(f"port: expected a whole number from 0, which is any that is free, to {PORTS - 1}, got {port}.")


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, is this machine's own alone."""
    number = _number(host)
    return number.is_loopback if number else host == "localhost"


def choose_token(host: str, token: str | None) -> str | None:
    """The token to ask for: the given one, one that is made up where others can reach the host, or None.

    Raises:
        UserError: The given one is too short to keep anyone out.
    """
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"token: expected at least {SHORTEST_TOKEN} characters, got {len(token)}. "
            "Leave it out to have one made up where one is needed."
        )
    return token


def equal(text: str, token: str) -> bool:
    """Compared in a time that does not tell how much of it is right."""
    return hmac.compare_digest(text.encode("utf-8", "replace"), token.encode())


def same_origin(origin: str, host: str) -> bool:
    """Whether a request came from a page of the host that it goes to, by its Origin and Host."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


class Names:
    """The names by which a server is known: those of somebody else's that lead here (DNS rebinding) are none."""

    def __init__(self, host: str) -> None:
        """Gathers them.

        Args:
            host: What the server binds to.
        """
        self._loopback = is_loopback(host)
        self._names = {"localhost", host.lower()}
        if not self._loopback:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def has(self, host: str) -> bool:
        """Whether a Host header is this machine: a loopback address or name, and where others can reach it any address
        in numbers and its own names.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        number = _number(name)
        if number is None:
            return name in self._names
        return number.is_loopback or not self._loopback


def listening_socket(host: str, port: int, server: str) -> socket.socket:
    """A socket that listens; an own one, so that the error of a port in use can be told.

    Args:
        host: The address to bind to.
        port: The port; 0 for any that is free.
        server: Who asks, for the error.

    Raises:
        UserError: The address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{server}: expected to listen on host={host} port={port}, got: {error}. Choose another port= (0: any)."
        ) from error


def address_of(host: str, port: int) -> str:
    """The address to open: of all interfaces, this machine's name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
