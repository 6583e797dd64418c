"""A stand-in for W&B's server on this machine, as far as its client asks: it keeps the runs that it is sent."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class SentRun:
    """What was sent of one run."""

    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Of its history; a line that is sent again replaces the one there was."""
    offsets: list[int] = field(default_factory=list)
    """The line from which on each request had some."""
    upserts: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class WandbServer:
    """The runs by their ids, and where the server listens."""

    url: str
    runs: dict[str, SentRun] = field(default_factory=dict)

    def answer(self, operation: str, asked: dict[str, Any]) -> Any:
        """What the server says to a GraphQL operation of wandb 0.31; null to those that a run can do without."""
        up = f"{self.url}/upload/"
        project = {"id": "p", "name": asked.get("project"), "entity": {"id": "e", "name": "me"}}
        upload = {"id": "F", "name": "f", "displayName": "f", "uploadUrl": up, "uploadHeaders": []}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(asked["name"], SentRun())
            run.upserts.append(asked)
            bucket = {"id": "Q", "name": asked["name"], "displayName": asked["displayName"], "project": project}
            bucket |= {"config": asked["config"] or "{}", "historyLineCount": len(run.lines)}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "RunResumeStatus":
            return {"model": {**project, "bucket": self._bucket(asked["name"])} if asked["name"] in self.runs else None}
        if operation == "CreateArtifact":
            if run := self.runs.get(asked["input"]["runName"]):
                run.artifacts.append(asked["input"])
            return {"createArtifact": {"artifact": {"id": "A", "state": "PENDING", "artifactSequence": {"id": "S"}}}}
        if operation in {"CreateArtifactManifest", "UpdateArtifactManifest"}:
            return {operation[0].lower() + operation[1:]: {"artifactManifest": {"id": "M", "file": upload}}}
        if operation == "CreateArtifactFiles":
            files = [
                {**upload, "name": one["name"], "artifact": {"id": "A"}} for one in asked["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": one} for one in files]}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": up + name} for name in asked["files"]]
            return {"createRunFiles": {"runID": "Q", "uploadHeaders": [], "files": files}}
        return {
            "ArtifactType": {"project": None},
            "CommitArtifact": {"commitArtifact": {"artifact": {"id": "A", "digest": "d"}}},
            "OrganizationCoreWeaveOrganizationID": {"entity": None},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "Viewer": {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
        }.get(operation)

    def _bucket(self, name: str) -> dict[str, Any]:
        lines = self.runs[name].lines
        tail = [json.dumps(lines[max(lines)])] if lines else []
        counts = {"historyLineCount": len(lines), "logLineCount": 0, "eventsLineCount": 0}
        texts = {"summaryMetrics": "{}", "config": "{}", "wandbConfig": '{"t": 1}', "eventsTail": "[]"}
        return {"id": "Q", "name": name, "tags": [], "historyTail": json.dumps(tail), **counts, **texts}

    def stream(self, name: str, content: dict[str, Any]) -> None:
        """Take lines of a run's history."""
        if history := content.get("files", {}).get("wandb-history.jsonl"):
            run = self.runs[name]
            run.offsets.append(history["offset"])
            for place, line in enumerate(history["content"], history["offset"]):
                run.lines[place] = json.loads(line)


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Listen at a free port of this machine."""
    kept = WandbServer("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self._body()
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                variables = asked.get("variables") or {}
                self._reply({"data": kept.answer(operation[1] if operation else "", variables)})
                return
            if self.path.endswith("/file_stream"):
                kept.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({})

        def do_PUT(self) -> None:
            self._body()
            self._reply({})

        def do_GET(self) -> None:
            self._reply({})

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _reply(self, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that hangs up is no error."""

    server = Server(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
