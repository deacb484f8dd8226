"""Who may ask the dashboard: the token, and the Host and Origin that keep other web pages out."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from urllib.parse import urlsplit

from flask import Flask, Response, make_response, redirect, request

from space.errors import UserError

SHORTEST_TOKEN = 16
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


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


class Guard:
    """Checks every request, whatever its route.

    * The Host must be this machine: a loopback address or name, and where others can reach it any address in numbers
      and its own names. A name of somebody else's that leads here (DNS rebinding) is refused.
    * A request that may change something must have the Origin of the dashboard's own page.
    * With a token, it must be in the address (`?token=`, from then on a cookie) or in that cookie.
    """

    def __init__(self, host: str, port: int, token: str | None) -> None:
        """Sets the rules.

        Args:
            host: What the server binds to.
            port: Its port.
            token: None to ask for none.
        """
        self._loopback = is_loopback(host)
        self._names = {"localhost", host.lower()}
        if not self._loopback:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._token = token
        self._cookie = f"paretoprune-{port}"  # as cookies do not tell ports apart

    def watch(self, server: Flask, policy: str) -> None:
        """Checks all requests of a server, and puts headers on all of its answers.

        Args:
            server: The server.
            policy: Its Content-Security-Policy.
        """
        server.before_request(self._check)

        def protected(response: Response) -> Response:
            response.headers.update({**HEADERS, "Content-Security-Policy": policy})
            return response

        server.after_request(protected)

    def _check(self) -> Response | None:
        host = request.headers.get("Host", "")
        if not self._is_here(host):
            return _refused("The dashboard is not known by this name. Open the address that it printed.")
        if request.method not in ("GET", "HEAD") and not _same(request.headers.get("Origin", ""), host):
            return _refused("Only the dashboard's own page may ask this.")
        if self._token is None or _equal(request.cookies.get(self._cookie, ""), self._token):
            return None
        if request.method == "GET" and _equal(request.args.get("token", ""), self._token):
            answer = make_response(redirect("/"))
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="Lax")
            return answer
        return _refused("The dashboard asks for its token: open the address that it printed when it was started.")

    def _is_here(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        number = _number(name)
        if number is None:
            return name in self._names
        return number.is_loopback or not self._loopback


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _same(origin: str, host: str) -> bool:
    """Whether a request came from a page of the host that it goes to."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _equal(text: str, token: str) -> bool:
    """Compared in a time that does not tell how much of it is right."""
    return hmac.compare_digest(text.encode("utf-8", "replace"), token.encode())


def _refused(why: str) -> Response:
    return Response(f"{why}\n", status=403, mimetype="text/plain")
