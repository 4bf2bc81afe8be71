"""A small stand-in for the Hub's HTTP API: what huggingface_hub asks for when it makes a repository and commits."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_secret"


class Hub:
    """Repositories of one owner, whose token is `TOKEN`."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, dict[str, bytes]] = {}
        """For each repository, the content of each file."""
        self.visibility: dict[str, str | None] = {}
        self.commits: list[list[str]] = []
        """For each commit, the keys of its lines."""
        self.refuses = ""
        """Requests whose path contains this text get a server error."""
        self._objects: dict[str, bytes] = {}

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Answer a request with a status and a JSON body."""
        if self.refuses and self.refuses in path:
            return 500, {"error": f"no {path} for {token}"}
        if path.startswith("/objects/"):
            self._objects[path.rpartition("/")[2]] = body
            return 200, {}
        if token != TOKEN:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "owner"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"objects": [self._upload(each) for each in json.loads(body)["objects"]]}
        return self._of_repository(path.removeprefix("/api/models/"), body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        status = 409 if name in self.files else 200
        if status == 200:
            self.files[name] = {".gitattributes": b""}
            self.visibility[name] = asked.get("visibility")
        return status, {"url": f"{self.url}/{name}", "error": "You already created this model repo"}

    def _of_repository(self, path: str, body: bytes) -> tuple[int, Any]:
        owner, name, *action = path.split("/")
        repository = f"{owner}/{name}"
        if repository not in self.files:
            return 404, {"error": "Repository not found"}
        files = self.files[repository]
        match action:
            case []:
                return 200, {"id": repository, "siblings": [], "tags": [], "sha": "0" * 40}
            case ["tree", _]:
                return 200, [
                    {"type": "file", "path": name, "size": len(data), "oid": "0"}
                    for name, data in files.items()
                ]
            case ["preupload", _]:
                asked = json.loads(body)["files"]
                modes = [_mode(each["path"]) for each in asked]
                return 200, {
                    "files": [
                        {"path": each["path"], "uploadMode": mode, "shouldIgnore": False}
                        for each, mode in zip(asked, modes, strict=True)
                    ]
                }
            case ["commit", _]:
                return 200, self._commit(
                    repository, [json.loads(line) for line in body.splitlines()]
                )
        return 404, {"error": path}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        files = self.files[repository]
        self.commits.append([line["key"] for line in lines])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return {"commitUrl": f"{self.url}/{repository}/commit/1", "commitOid": "1", "success": True}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.url}/objects/{asked['oid']}"
        return {**asked, "actions": {"upload": {"href": href, "header": {}}}}


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def running_hub() -> Iterator[Hub]:
    """The stand-in, listening on loopback at `Hub.url`."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub.answer)) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _handler(
    answer: Callable[[str, str, str, bytes], tuple[int, Any]],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = b"".join(self._parts())
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, content = answer(self.command, self.path.partition("?")[0], token, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _parts(self) -> Iterator[bytes]:
            if self.headers.get("Transfer-Encoding") != "chunked":
                yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return
            while length := int(self.rfile.readline(), 16):
                yield self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
