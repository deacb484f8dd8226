"""Errors in OpenAI's form, which its clients raise again by status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from serving.requests import BusyError

KINDS: Mapping[int, str] = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What is wrong with a request, or with the server's answer to it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Says it.

        Args:
            status: Of HTTP.
            message: What was expected, what came, and what to do.
            code: By which programs tell errors apart.
            param: Of the request.
            headers: Of the answer.
        """
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As an answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def busy(error: BusyError) -> ApiError:
    """That a queue is full, with when to come again."""
    return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(error.retry_s)})
