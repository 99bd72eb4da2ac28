"""Pictures that requests bring along or point to: read within limits, and kept while they are needed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http import HTTPStatus
from socket import SOCK_STREAM, gaierror

import httpx

from armap.images import ImageFolder, LargeImageError
from armap.images import as_png as to_png
from armap.serve.bodies import Refusal
from armap.serve.limits import Limits
from armap.types import ImageRef

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40}(?:;[^;,]*)*;base64,", re.IGNORECASE)
"""Parameters may stand before the last word, and any letters be large. Source: RFC 2397."""


class Pictures:
    """The pictures of requests under way, each kept once however many requests show it.

    Args:
        images: where they are kept.
    """

    def __init__(self, images: ImageFolder) -> None:
        self._images = images
        self._uses: Counter[ImageRef] = Counter()
        self._lock = threading.Lock()

    def keep(self, png: bytes) -> ImageRef:
        """Keep a picture until it is let go as often as it was kept."""
        with self._lock:
            image = self._images.add(png)
            self._uses[image] += 1
        return image

    def let_go(self, images: Sequence[ImageRef]) -> None:
        """Forget pictures that nobody else needs."""
        with self._lock:
            self._uses.subtract(images)
            for image in set(images):
                if self._uses[image] <= 0:
                    del self._uses[image]
                    self._images.discard(image)


def from_data_uri(uri: str, limits: Limits) -> bytes:
    """Return the picture in a data URI as a PNG file.

    Raises:
        Refusal: there is none, or it is too large.
    """
    start = _DATA.match(uri[:256])
    if start is None:
        raise Refusal(HTTPStatus.BAD_REQUEST, "A picture is a data URI such as data:image/png;base64,...")
    if (len(uri) - start.end()) * 3 // 4 > limits.image_bytes + 2:
        raise _too_long(limits)
    try:
        file = base64.b64decode(uri[start.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "A picture's data URI is not in base64.") from None
    return as_png(file, limits)


def as_png(file: bytes, limits: Limits) -> bytes:
    """Return a picture's file as a PNG file; one that is so already stays as it is.

    Raises:
        Refusal: it is damaged, too large, or of another format.
    """
    if len(file) > limits.image_bytes:
        raise _too_long(limits)
    try:
        return to_png(file, limit_px=limits.image_px)
    except LargeImageError as error:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A picture {error}.") from None
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"A picture {error}.") from None


def is_public(address: Address) -> bool:
    """Return whether an address, and any that it stands for, belongs to the open internet."""
    inner: list[Address] = []
    if isinstance(address, ipaddress.IPv6Address):
        inner += [found for found in (address.ipv4_mapped, address.sixtofour) if found]
        inner += address.teredo or ()
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast and all(map(is_public, inner))


async def fetch(url: str, limits: Limits, *, allows: Callable[[Address], bool] = is_public) -> bytes:
    """Return the picture at an address as a PNG file.

    The name is looked up once, and the connection goes to just the address that was checked.

    Args:
        url: `http://` or `https://`.
        limits: how large it may be, and how long it may take.
        allows: says of an address whether it may be connected to.

    Raises:
        Refusal: it cannot be had, or is not allowed.
    """
    try:
        async with asyncio.timeout(limits.fetch_s):
            file = await _download(httpx.URL(url), limits, allows)
    except (httpx.InvalidURL, httpx.HTTPError, gaierror, TimeoutError, ValueError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "A picture could not be fetched from where it is said to be.") from None
    return await asyncio.to_thread(as_png, file, limits)


async def _download(url: httpx.URL, limits: Limits, allows: Callable[[Address], bool]) -> bytes:
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise Refusal(HTTPStatus.BAD_REQUEST, "A picture's address must be a plain http:// or https:// one.")
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=SOCK_STREAM)
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    # All of them, so that a name with a public and a private address is of no use.
    if not addresses or not all(map(allows, addresses)):
        raise Refusal(HTTPStatus.BAD_REQUEST, "A picture's address is not a public one.")
    host = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])
    async with (
        # No proxy, which would look the name up again.
        httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=limits.fetch_s) as client,
        client.stream(
            "GET",
            url.copy_with(host=host),
            headers={"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"},
            extensions={"sni_hostname": url.host},
        ) as response,
    ):
        if response.status_code != HTTPStatus.OK:
            raise Refusal(
                HTTPStatus.BAD_REQUEST, f"A picture's address answered with HTTP {response.status_code}, not with it."
            )
        file = bytearray()
        async for chunk in response.aiter_raw():
            file += chunk
            if len(file) > limits.image_bytes:
                raise _too_long(limits)
    return bytes(file)


def _too_long(limits: Limits) -> Refusal:
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A picture's file is longer than {limits.image_bytes:,} bytes."
    )
