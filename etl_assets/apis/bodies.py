"""The body of a response: unpacked piece by piece up to a limit, as text in UTF-8, and as what that says."""

import json
import re
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2

from etl_assets.apis.answers import parsed
from etl_assets.apis.declaration import Api, Credential
from etl_assets.apis.errors import ApiError, CallFailed

NO_CONTENT = 204
_BLOCK_BYTES = 1 << 16
_HIDDEN = b"***"
_UNMISTAKABLE = 12
"""A secret of so many signs stands nowhere by chance, unless it is a number."""
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,60}")


def read_body(response: httpx2.Response, api: Api, secret: str | None) -> tuple[bytes, Any]:
    """The text of an answer in UTF-8, without the secret, and what it says; nothing of one without content. Raises `ApiError`."""
    body = b"".join(_unpacked(response, api))
    if api.credential and secret:
        body = _without(secret, api.credential, body)
    if response.status_code == NO_CONTENT:
        return b"", None
    try:
        try:
            return body, parsed(body, api.records)
        except UnicodeDecodeError:  # JSON is UTF-8; some servers say that theirs is not
            body = body.decode(response.charset_encoding or "utf-8").encode()
            return body, parsed(body, api.records)
    except (UnicodeError, LookupError):
        raise CallFailed(
            f"{api.name}: the answer is no text in UTF-8, nor in what its header Content-Type names"
        ) from None
    except (ValueError, RecursionError):
        said = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        told = f", and says that it is {said}" if _MEDIA_TYPE.fullmatch(said) else ""
        raise CallFailed(f"{api.name}: the answer is no JSON{told}") from None


def _without(secret: str, credential: Credential, body: bytes) -> bytes:
    """A text without a secret, which services repeat in links and in what they tell of a call: wherever it stands, or, if it is a
    word that may stand there by chance, behind the name that it was sent under."""
    name = re.escape(credential.parameter or credential.header).encode()
    texts = [secret, quote(secret, safe=""), quote_plus(secret)]
    forms = {form for text in texts for form in (text, *_in_json(text))}
    for form in sorted(forms, key=len, reverse=True):
        known = form.encode("utf-8", "surrogateescape")
        if len(secret) >= _UNMISTAKABLE and not secret.isdecimal():
            body = body.replace(known, _HIDDEN)
        elif known in body:
            named = rb'(?i:(\b%s(?:=|\\u003[dD]|"\s*:\s*")(?:\w+ )?))%s(?![\w.~%%-])' % (
                name,
                re.escape(known),
            )
            body = re.sub(named, rb"\g<1>" + _HIDDEN, body)
    return body


def _in_json(text: str) -> Iterator[str]:
    """A text as JSON may write it: some escape what means something elsewhere too."""
    for ensure_ascii in (True, False):
        plain = json.dumps(text, ensure_ascii=ensure_ascii)[1:-1]
        yield plain
        yield plain.replace("/", "\\/")
        yield re.sub("[&=<>']", lambda found: f"\\u{ord(found[0]):04x}", plain)


def _unpacked(response: httpx2.Response, api: Api) -> Iterator[bytes]:
    """The body, unpacked, in pieces. Raises `ApiError` for more than the limit."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise ApiError(f"{api.name}: the answer is packed in a way that was not asked for")
    unpack = _gunzip() if "gzip" in encoding else None
    left = api.limits.answer_bytes
    for block in response.iter_raw():  # as it comes: each read looks at the time
        while block:
            if unpack and unpack.eof:  # one packed text may follow another
                unpack = _gunzip()
            piece = unpack.decompress(block, _BLOCK_BYTES) if unpack else block
            block = (unpack.unconsumed_tail or unpack.unused_data) if unpack else b""
            left -= len(piece)
            if left < 0:
                raise ApiError(
                    f"{api.name}: an answer has more than {api.limits.answer_bytes:,} bytes: ask for smaller pages, or raise "
                    f"answer_bytes (Limits; {api.where})"
                )
            yield piece
    if unpack and not unpack.eof:
        raise CallFailed(f"{api.name}: the answer is cut off")


def _gunzip() -> "zlib._Decompress":
    return zlib.decompressobj(zlib.MAX_WBITS | 16)
