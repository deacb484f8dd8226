"""Who may ask the dashboard: the token, and the Host and Origin that keep other web pages out."""

from __future__ import annotations

from flask import Flask, Response, make_response, redirect, request

from space.listening import Names, equal, same_origin

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


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
        self._names = Names(host)
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
        if not self._names.has(host):
            return _refused("The dashboard is not known by this name. Open the address that it printed.")
        if request.method not in ("GET", "HEAD") and not same_origin(request.headers.get("Origin", ""), host):
            return _refused("Only the dashboard's own page may ask this.")
        if self._token is None or equal(request.cookies.get(self._cookie, ""), self._token):
            return None
        if request.method == "GET" and equal(request.args.get("token", ""), self._token):
            answer = make_response(redirect("/"))
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="Lax")
            return answer
        return _refused("The dashboard asks for its token: open the address that it printed when it was started.")


def _refused(why: str) -> Response:
    return Response(f"{why}\n", status=403, mimetype="text/plain")
