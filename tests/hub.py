"""The Hugging Face hub on this machine: the routes that its client calls to make a repository and fill it.

Nothing of the client is replaced: a process with HF_ENDPOINT at `Hub.url` goes through all of it, down to the socket.
Large files arrive the way the hub asks for, in chunks through its content store ("xet"), or whole ("lfs").
"""

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "x" * 34


@dataclass
class Hub:
    """What the hub was told, and how it is to behave."""

    url: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As they were asked for, by OWNER/NAME."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What the commits left, by path."""
    commits: int = 0
    asked: list[str] = field(default_factory=list)
    """Every request: its method and path."""
    faults: dict[str, int] = field(default_factory=dict)
    """How many more requests of these paths are answered with 503."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Content by SHA-256."""
    chunks: dict[str, list[bytes]] = field(default_factory=dict)
    """Of every block of the content store."""

    def take_block(self, name: str, body: bytes) -> None:
        """Keep a block: chunks, each behind a header of 8 bytes (version, bytes, compression, bytes unpacked)."""
        chunks, at = [], 0
        while body[at : at + 1] == b"\0":
            size, scheme = int.from_bytes(body[at + 1 : at + 4], "little"), body[at + 4]
            assert scheme == 0, "the client was told to compress nothing"
            chunks.append(body[at + 8 : at + 8 + size])
            at += 8 + size
        self.chunks[name] = chunks

    def take_shard(self, body: bytes) -> None:
        """Put files together: entries of 48 bytes, first the file, then its pieces, then checks, then its SHA-256."""
        at = 48
        while body[at : at + 32] != b"\xff" * 32:
            flags, pieces = struct.unpack_from("<II", body, at + 32)
            content = b""
            for _ in range(pieces):
                at += 48
                first, last = struct.unpack_from("<II", body, at + 40)
                content += b"".join(self.chunks[_name(body[at : at + 32])][first:last])
            at += 48 * (pieces if flags & 1 << 31 else 0) + 48
            sha256 = hashlib.sha256(content).hexdigest()
            if flags & 1 << 30:
                assert _name(body[at : at + 32]) == sha256
                at += 48
            self.blobs[sha256] = content

    def take_commit(self, body: bytes) -> None:
        """Have the files of a commit."""
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        self.commits += 1


def _name(raw: bytes) -> str:
    """A hash as the content store writes it: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.asked.append(f"{self.command} {path}")
        stored = path.startswith(("/v1/", "/v2/", "/lfs/"))
        if fault := next((part for part, left in hub.faults.items() if left and part in path), None):
            hub.faults[fault] -= 1
            self.send(503, {"error": "down for maintenance"})
        elif not stored and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.send(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            self.send(200, {"files": list(map(self.mode, json.loads(body)["files"]))})
        elif path.endswith("/info/lfs/objects/batch"):
            self.send(200, {"transfer": "basic", "objects": list(map(self.place, json.loads(body)["objects"]))})
        elif path.startswith("/lfs/"):
            hub.blobs[path.removeprefix("/lfs/")] = body
            self.send(200, {})
        elif "/xet-write-token/" in path:
            self.send(200, {"casUrl": hub.url, "accessToken": "t", "exp": int(time.time()) + 3600})
        elif "/xorbs/" in path:
            hub.take_block(path.rpartition("/")[2], body)
            self.send(200, {"was_inserted": True})
        elif path.endswith("/shards"):
            hub.take_shard(body)
            self.send(200, {"type": "result", "result": 1})
        elif path.endswith("/commit/main"):
            hub.take_commit(body)
            url = f"{hub.url}/me/merged/commit/{hub.commits:040}"
            self.send(200, {"success": True, "commitOid": f"{hub.commits:040}", "commitUrl": url, "hookOutput": ""})
        elif path.startswith("/api/models/"):
            self.send(200, {"id": "me/merged", "sha": "0" * 40, "siblings": [], "tags": []})
        else:
            self.send(404, {"error": path})

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 (http.server looks for these)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            self.send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            self.hub.repos[name] = asked
            self.send(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        """As the hub's .gitattributes has it: weights are large files, the rest is text."""
        kept = self.hub.files.get(file["path"])
        large = file["path"].endswith(".safetensors")
        oid = None if kept is None else _oid(kept, large)
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def place(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.hub.blobs:
            return asked
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}

    def send(self, status: int, answer: object) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes, large: bool) -> str:
    """What the hub calls a file by: git's hash of the text, the SHA-256 of a large file."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
