"""Errors as OpenAI's API words them: a status, and one line with what it is about."""

from typing import Any, Final

INVALID_REQUEST: Final = "invalid_request_error"
AUTHENTICATION: Final = "authentication_error"
RATE_LIMIT: Final = "rate_limit_error"
UNAVAILABLE: Final = "service_unavailable_error"
TIMEOUT: Final = "timeout_error"
SERVER: Final = "server_error"


class ApiError(Exception):
    """What a client is answered in place of a completion."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down; ask another", UNAVAILABLE, retry_after_s=5)


def client_gone() -> ApiError:
    """nginx's status for it; nobody reads it."""
    return ApiError(499, "the client has gone")
