"""TLS that ends at a proxy: Caddy and nginx, set up as the page on teams has it."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from tests.pages import DOCS
from tests.remote.conftest import PATIENCE, Serve, Served, certified

_NGINX = """\
daemon off;
pid {place}/nginx.pid;
error_log stderr;
events {{}}
http {{
access_log off;
{paths}
{server}
}}
"""
_CADDY = """\
{{
    admin off
    auto_https disable_redirects
    storage file_system {place}
    skip_install_trust
}}
{server}
"""


def block(language: str) -> str:
    """What the page says to write."""
    found = re.search(rf"```{language}\n(.*?)```", DOCS["docs/team.md"], re.DOTALL)
    assert found is not None
    return found[1]


def nginx(place: Path, port: int, behind: str) -> list[str]:
    """The words that start nginx as on the page, but here."""
    certificate, key = certified(place)
    paths = "\n".join(f"{one}_temp_path {place}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    server = block("nginx")
    for old, new in {
        "listen 443": f"listen 127.0.0.1:{port}",
        "loom.example.org": "localhost",
        "/etc/ssl/certs/loom.pem": str(certificate),
        "/etc/ssl/private/loom.key": str(key),
        "127.0.0.1:8765": behind,
    }.items():
        assert old in server
        server = server.replace(old, new)
    (place / "nginx.conf").write_text(_NGINX.format(place=place, paths=paths, server=server))
    return [_program("nginx"), "-p", str(place), "-c", str(place / "nginx.conf"), "-e", "stderr"]


def caddy(place: Path, port: int, behind: str) -> list[str]:
    """The words that start Caddy as on the page, but here."""
    server = block("caddyfile")
    for old, new in {
        "loom.example.org {": f"https://localhost:{port} {{\n    bind 127.0.0.1\n    tls internal",
        "127.0.0.1:8765": behind,
    }.items():
        assert old in server
        server = server.replace(old, new)
    (place / "Caddyfile").write_text(_CADDY.format(place=place, server=server))
    return [_program("caddy"), "run", "--config", str(place / "Caddyfile"), "--adapter", "caddyfile"]


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin") or shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}, as Debian has it")
    return found


@asynccontextmanager
async def before(served: Served, kind: str, port: int, place: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A proxy before a server, and who comes to it."""
    words = {"nginx": nginx, "caddy": caddy}[kind](place, port, served.url.removeprefix("http://"))
    with (place / "log").open("w") as log:
        env = {"HOME": str(place), "PATH": "/usr/bin:/bin"}
        proxy = await asyncio.create_subprocess_exec(*words, stdout=log, stderr=log, env=env)
    try:
        url = f"https://localhost:{port}"
        async with httpx2.AsyncClient(base_url=url, verify=False, timeout=PATIENCE) as client:
            for _ in range(int(PATIENCE / 0.1)):
                try:
                    await client.get("/livez")
                    break
                except httpx2.TransportError:
                    assert proxy.returncode is None, (place / "log").read_text()
                    await asyncio.sleep(0.1)
            yield client
    finally:
        proxy.terminate()
        await proxy.wait()


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_a_server_behind_a_proxy(serve: Serve, kind: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = await serve(public_url=f"https://localhost:{port}", behind_proxy=True)
    token = {"authorization": f"Bearer {await served.token('ann', 'admin')}"}
    async with before(served, kind, port, tmp_path) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/api/status", json={})).status_code == 401
        made = (await client.post("/api/create", json={"title": "x"}, headers=token)).json()
        waited = asyncio.create_task(client.post("/api/wait", json={"timeout": 10}, headers=token))
        await asyncio.sleep(1)
        await served.loom.done(made["id"])
        assert (await waited).json()["changed"]
        ours = token | {"origin": f"https://localhost:{port}"}
        assert (await client.post("/api/status", json={}, headers=ours)).status_code == 200
        theirs = token | {"origin": "https://evil.example.org"}
        assert (await client.post("/api/status", json={}, headers=theirs)).status_code == 403
        with suppress(httpx2.TransportError):  # where the proxy ends the connection before all of it has come
            assert (await client.post("/api/create", content=b"x" * 17_000_000, headers=token)).status_code == 413
        code = (await client.post("/api/enter", headers=token)).json()["code"]
        entered = await client.get("/enter", params={"code": code})
        assert "Secure" in entered.headers["set-cookie"]
        assert (await client.get("/")).status_code == 200
