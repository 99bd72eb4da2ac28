import asyncio
import io
import ipaddress
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from armap.images import ImageFolder
from armap.serve.bodies import Refusal
from armap.serve.limits import Limits
from armap.serve.pictures import Pictures, as_png, fetch, is_public

LIMITS = Limits(image_bytes=5000, image_px=10_000, fetch_s=1)


def picture(kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((20, 20)).convert("RGB").save(file, kind, **more)
    return file.getvalue()


# Reading


def test_a_png_file_stays_as_it_is():
    assert as_png(picture(), LIMITS) == picture()


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    length=st.none() | st.integers(0, 1500),
)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(kind, changes, length):
    file = bytearray(picture(kind))
    for place, value in changes:
        file[place % len(file)] = value
    with suppress(Refusal), Image.open(io.BytesIO(as_png(bytes(file[:length]), LIMITS))) as image:
        assert (image.format, image.width * image.height <= LIMITS.image_px) == ("PNG", True)


def test_equal_pictures_are_kept_until_the_last_is_let_go(tmp_path):
    pictures = Pictures(ImageFolder(tmp_path))
    first, second = pictures.keep(picture()), pictures.keep(picture())
    assert first == second
    pictures.let_go([first])
    assert ImageFolder(tmp_path).read(second) == picture()
    pictures.let_go([second])
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


# Fetching


PRIVATE = """
0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.168.0.1 224.0.0.1 255.255.255.255
:: ::1 fc00::1 fe80::1 ff02::1 ff0e::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1:: 2002:a00:1::
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2001:0:7f00:1::
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_addresses_of_private_networks_are_not_public_in_any_guise(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(ipaddress.ip_address(address))


async def refused(url: str, **more) -> str:
    with pytest.raises(Refusal) as caught:
        await fetch(url, LIMITS, **more)
    assert caught.value.status in (400, 413)
    return str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "2130706433", "127.1", "0x7f.1", "0", "[::ffff:127.0.0.1]"],
)
async def test_nothing_is_fetched_from_this_machine_however_it_is_called(host):
    async with web(200, picture()) as (port, requests):
        said = await refused(f"http://{host}:{port}/a.png")
        assert "not a public one" in said or "could not be fetched" in said
        assert requests == []


@pytest.mark.parametrize("url", ["ftp://localhost/a", "http://", "http://user:word@localhost/", "http://[", "//x"])
async def test_only_plain_web_addresses_are_fetched(url):
    await refused(url, allows=lambda address: True)


async def test_an_allowed_picture_is_fetched_by_the_name_it_was_asked_by():
    async with web(200, picture("JPEG")) as (port, requests):
        png = await fetch(f"http://localhost:{port}/a.jpg?b=c", LIMITS, allows=lambda address: True)
        assert Image.open(io.BytesIO(png)).size == (20, 20)
        assert requests[0].startswith(f"GET /a.jpg?b=c HTTP/1.1\r\nHost: localhost:{port}\r\n")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (302, b"", "HTTP 302"),
        (404, b"", "HTTP 404"),
        (200, bytes(5001), "5,000 bytes"),
        (200, b"no picture", "not a sound"),
        (200, None, "could not be fetched"),
    ],
)
async def test_redirects_long_files_and_slow_servers_are_refused(status, body, said):
    async with web(status, body) as (port, requests):
        assert said in await refused(f"http://127.0.0.1:{port}/", allows=lambda address: True)
        assert len(requests) == 1


async def test_a_server_that_is_not_there_is_refused():
    async with web(200, b"") as (port, _):
        pass
    await refused(f"http://127.0.0.1:{port}/", allows=lambda address: True)
    await refused("http://no-such-name.invalid/", allows=lambda address: True)


@asynccontextmanager
async def web(status: int, body: bytes | None):
    """Serve one body for every request, dripping for ever if it is None; gives its port and the requests."""
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {status} Scripted\r\nLocation: http://127.0.0.1/\r\nConnection: close\r\n\r\n".encode())
        try:
            while body is None:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
            writer.write(body)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server:
        yield server.sockets[0].getsockname()[1], requests
