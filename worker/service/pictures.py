"""Where a request's picture is: in a data URL, behind an allowed URL, or in a form."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from dicom_node.base.errors import NotUnderstood, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

FETCH_S = 10.0


def from_url(url: str, allowed: Sequence[str], most: int) -> bytes:
    """Return the bytes behind a picture's URL: a data URL, or below an allowed address.

    Raises
    ------
    NotUnderstood
        It is not such a URL, or more than `most` bytes long.
    Refused
        It is not on the list.
    Unreachable
        Its server gives no answer.
    """
    if url[:5].lower() == "data:":
        head, comma, body = url.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise NotUnderstood("image_url: a data URL has base64, as data:image/png;base64,...")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise NotUnderstood("image_url: its base64 is broken") from exc
    kind = url.partition(":")[0].lower()
    if kind not in ("http", "https", "file"):
        raise NotUnderstood("image_url: neither a data URL nor an allowed http, https or file URL")
    if not any(_is_under(url, start) for start in allowed):
        raise Refused("image_url: not in serve.allow_urls; send the picture as a data URL")
    return _from_file(url, allowed, most) if kind == "file" else _fetch_picture(url, most)


def _is_under(url: str, start: str) -> bool:
    """Whether a URL is `start` or below it: of the same scheme, host and port."""
    try:
        asked, permitted = urlsplit(url), urlsplit(start)
        same = (asked.scheme, asked.hostname, asked.port) == (
            permitted.scheme,
            permitted.hostname,
            permitted.port,
        )
    except ValueError:
        return False
    if not same or asked.username is not None or asked.password is not None:
        return False
    path, root = unquote(asked.path), unquote(permitted.path).rstrip("/")
    return ".." not in path.split("/") and (path == root or path.startswith(f"{root}/"))


def _from_file(url: str, allowed: Sequence[str], most: int) -> bytes:
    path = Path(unquote(urlsplit(url).path))
    try:
        real = path.resolve(strict=True)
        roots = [
            Path(unquote(urlsplit(root_url).path)).resolve()
            for root_url in allowed
            if "file:" in root_url
        ]
        if not any(real == root or root in real.parents for root in roots):
            raise Refused("image_url: leads out of what serve.allow_urls names")
        if not real.is_file() or real.stat().st_size > most:
            raise NotUnderstood(f"image_url: not a file of at most {most} bytes")
        return real.read_bytes()
    except (OSError, ValueError, RuntimeError) as exc:
        raise NotUnderstood("image_url: no such file") from exc


def _fetch_picture(url: str, most: int) -> bytes:
    import httpx2

    content = bytearray()
    try:
        with (
            httpx2.Client(timeout=FETCH_S, trust_env=False, follow_redirects=False) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise Unreachable(f"image_url: its server answered {answer.status_code}")
            for chunk in answer.iter_bytes(1 << 16):
                content += chunk
                if len(content) > most:
                    raise NotUnderstood(f"image_url: more than {most} bytes")
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as exc:
        raise Unreachable(f"image_url: {type(exc).__name__}") from exc
    return bytes(content)


def file_part(body: bytes, content_type: str) -> bytes:
    """Return the first file of a multipart/form-data body; linear in its length.

    Raises
    ------
    NotUnderstood
        It is not such a body, or holds no file.
    """
    boundary = ""
    for parameter in content_type[:1000].split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "boundary":
            boundary = value.strip().strip('"')
    if not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise NotUnderstood("multipart/form-data without a boundary")
    mark = b"--" + boundary.encode()
    start = body.find(mark)
    for _ in range(16):  # parts that are looked at
        if start < 0:
            break
        begin = start + len(mark)
        head_end = body.find(b"\r\n\r\n", begin, begin + 8192)
        if head_end < 0:
            break
        end = body.find(b"\r\n" + mark, head_end + 2)
        if end < 0:
            break
        if b"filename" in body[begin:head_end].lower():
            return body[head_end + 4 : end]
        start = end + 2
    raise NotUnderstood("multipart/form-data without a file; send it as -F file=@image.png")
