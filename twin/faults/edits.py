"""Faults that change the content of a reply: frames and fields that are missing, damaged,
wrong or doubled."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from server.errors import InternalError, RequestFailure, RequestTimeout, ServiceUnavailable
from server.http.sse import DONE, error_frame
from twin.faults.answers import failure_of
from twin.faults.fault import Asked, Fault, Head, Part, Steps, Tokens, Word, after, one_of

# Inside a JSON string, quotation marks have a backslash before them: so these patterns do not match text.
FINISH = re.compile(rb'(?<="finish_reason":)"\w+"')
USAGE = re.compile(rb',"usage":\{[^{}]*\}')
NO_CHOICE = b'"choices":[]'

COMMENT = b": a comment, which says nothing to a client\n\n"
LATE: dict[int, type[RequestFailure]] = {  # failures that are possible after the first byte
    500: InternalError,
    503: ServiceUnavailable,
    504: RequestTimeout,
}


class NoDone(Fault):
    """Ends a stream without `data: [DONE]`; a whole reply is unchanged."""

    name = "no_done"
    example = "no_done"

    def edited(self, part: Part) -> bytes:
        return part.data.removesuffix(DONE)


class ErrorFrame(Fault):
    """Ends a stream after this many tokens with an error frame, then `[DONE]`; answers a request for a whole
    reply with that error's status."""

    name = "error_frame"
    example = "error_frame=5 status=503"

    after: Tokens = after()
    status: Annotated[int, one_of(*LATE)] = Field(default=500, description="500, 503 or 504")

    def answer(self, asked: Asked) -> Response | None:
        if not asked.stream:
            raise failure_of(LATE[self.status], asked)
        return None

    def edited(self, part: Part) -> bytes:
        if part.is_whole or part.num_before < self.after:  # a whole reply, which has another error
            return part.data
        if not part.comes_after(self.after):
            return b""
        asked = Asked(request_id=part.head.get(b"x-request-id").decode())
        return error_frame(failure_of(LATE[self.status], asked)) + DONE


class BadJson(Fault):
    """Cuts the JSON of the frame after this many tokens in half, or that of a whole reply."""

    name = "bad_json"
    example = "bad_json=5"

    after: Tokens = after()

    def edited(self, part: Part) -> bytes:
        if not part.comes_after(self.after):
            return part.data
        half = part.data[: len(part.data) // 2].decode(errors="ignore").encode()
        return half if part.is_whole else half + b"\n\n"


class Comment(Fault):
    """Puts a comment frame before the frame after this many tokens, which is allowed; a whole reply has no
    place for one and is unchanged."""

    name = "comment"
    example = "comment=5"

    after: Tokens = after()

    def part(self, part: Part) -> Steps:
        if not part.is_whole and part.comes_after(self.after):
            yield part.of(COMMENT).wire
        yield part.wire


class FinishTwice(Fault):
    """Sends each frame with a finish_reason twice; a whole reply is unchanged."""

    name = "finish_twice"
    example = "finish_twice"

    def edited(self, part: Part) -> bytes:
        return part.data * 2 if FINISH.search(part.data) and not part.is_whole else part.data


class FinishMissing(Fault):
    """Leaves every finish_reason null, in a stream and in a whole reply."""

    name = "finish_missing"
    example = "finish_missing"

    def edited(self, part: Part) -> bytes:
        return FINISH.sub(b"null", part.data)


class UsageMissing(Fault):
    """Leaves the usage out, with a stream or without."""

    name = "usage_missing"
    example = "usage_missing"

    def edited(self, part: Part) -> bytes:
        is_its_own = not part.is_whole and NO_CHOICE in part.data
        return b"" if is_its_own else USAGE.sub(b"", part.data)


class ContentType(Fault):
    """Sends a wrong content type."""

    name = "content_type"
    example = "content_type=text/html"

    type: Word = Field(default="text/plain", description="the content type that is sent")

    def head(self, head: Head) -> Steps:
        yield head.having(b"content-type", self.type.encode()).wire
