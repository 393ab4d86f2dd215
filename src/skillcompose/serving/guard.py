"""What a request must be like before anybody reads it: from where, with which key, how large, how slow."""

import asyncio
import hmac
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse, Response

KEY = "SKILLCOMPOSE_API_KEY"
MAX_BODY = 256 * 1024
RECEIVE_SECONDS = 10  # for a request's body


def is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refused(request: Request, key: str) -> Response | None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    given = given if scheme.lower() == "bearer" else ""
    # Not `request.url`: it is made of the client's Host header, and of our address where that cannot be parsed.
    if key and request.scope["path"] != "/healthz" and not _same(given, key):
        return problem(401, "send the key as `Authorization: Bearer ...`")
    # A page in the user's browser reaches a local server under a name of its own that resolves to this machine.
    if not key and not is_local(_host(request.headers.get("host", ""))):
        return problem(421, f"without a key only local addresses are served; set {KEY} to serve others")
    return None


def _same(given: str, key: str) -> bool:
    """A header's bytes are read as Latin-1, and a client sends UTF-8."""
    return hmac.compare_digest(given.encode("latin-1"), key.encode())


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


async def with_body(request: Request) -> Response | None:
    """Read the body, but neither a large one nor a slow one."""
    size = request.headers.get("content-length", "0")
    if not size.isdigit() or int(size) > MAX_BODY:
        return problem(413, f"the body must not be larger than {MAX_BODY} bytes")
    body = b""
    try:
        async with asyncio.timeout(RECEIVE_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    return problem(413, f"the body must not be larger than {MAX_BODY} bytes")
    except TimeoutError:
        return problem(408, f"the body did not arrive within {RECEIVE_SECONDS} seconds")
    request._body = body
    return None


def told(status: int, message: str) -> dict[str, Any]:
    """As OpenAI's clients expect it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "code": str(status)}}


def problem(status: int, message: str) -> Response:
    return JSONResponse(told(status, message), status, {"retry-after": "5"} if status == 503 else None)
