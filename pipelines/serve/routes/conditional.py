"""Answers that a client may have already: ETag and 304 (RFC 9110, 8.8.3 and 13.1.2)."""

from __future__ import annotations

import hashlib

from fastapi import Request, Response

KEPT = ("content-disposition", "content-length", "content-type")
"""Headers that are of the body, which a 304 does not have."""


def tag_of(data: bytes) -> str:
    """A strong tag: equal for equal bytes alone."""
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def unless_there(request: Request, reply: Response) -> Response:
    """The reply with its tag; a 304 without a body where the client has these very bytes."""
    tag = tag_of(bytes(reply.body))
    reply.headers["ETag"] = tag
    if not _named(request.headers.get("if-none-match", ""), tag):
        return reply
    headers = {k: v for k, v in reply.headers.items() if k not in KEPT}
    return Response(status_code=304, headers=headers)


def _named(given: str, tag: str) -> bool:
    """Whether If-None-Match holds the tag; W/ does not matter there."""
    tags = [word.strip().removeprefix("W/") for word in given.split(",")]
    return tag in tags or tags == ["*"]
