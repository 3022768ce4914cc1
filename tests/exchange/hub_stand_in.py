"""A small server with those routes of the Hugging Face Hub that huggingface_hub calls; it keeps what it was sent."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories, and every request."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: dict[str, list[str]] = {}
        self.snapshots: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.sizes: dict[str, int] = {}  # file -> a size to claim
        self.token = "hf_secret_of_the_test"
        self.address = ""

    def oid(self, name: str) -> str:
        """Return the newest commit of a repository."""
        return self.commits[name][-1] if self.commits.get(name) else "0" * 40

    def files_of(self, name: str, revision: str) -> dict[str, bytes] | None:
        """Return the files of a commit, or None for a revision that there is not."""
        if revision in ("main", self.oid(name)):
            return self.repositories[name]
        return self.snapshots.get(revision) if revision in self.commits.get(name, ()) else None


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def body(self) -> bytes:
        """Return what was sent, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: object = None, **headers: str) -> None:
        """Send an answer."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("Content_Length", str(len(data))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self) -> None:
        """Answer any request."""
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        sent = self.body()
        hub.requests.append((self.command, path, dict(self.headers), sent))
        words = path.strip("/").split("/")
        logged_in = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if self.command in ("POST", "PUT") and not logged_in and words[0] != "lfs":
            return self.answer(401, {"error": "not logged in"})
        if path == "/api/repos/create":
            asked = json.loads(sent)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in hub.repositories:
                return self.answer(409, {"error": "exists", "url": f"{hub.address}/{name}"})
            hub.repositories[name], hub.private[name] = (
                {},
                "private" in (asked.get("visibility"), asked.get("private") and "private"),
            )
            return self.answer(200, {"url": f"{hub.address}/{name}", "id": name, "name": name})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if words[0] == "lfs":
            hub.large[words[1]] = sent
            return self.answer(200, {})
        if path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(sent)
            objects = [
                {**entry, "actions": {"upload": {"href": f"{hub.address}/lfs/{entry['oid']}", "header": {}}}}
                for entry in asked["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if words[:2] == ["api", "models"] and len(words) >= 4:
            name = "/".join(words[2:4])
            if name not in hub.repositories:
                return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
            if words[4:5] == ["preupload"]:
                files = [
                    {
                        "path": entry["path"],
                        "uploadMode": "lfs" if entry["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for entry in json.loads(sent)["files"]
                ]
                return self.answer(200, {"files": files})
            if words[4:5] == ["commit"]:
                return self.commit(name, sent)
            siblings = [{"rfilename": file} for file in hub.repositories[name]]
            info = {
                "id": name,
                "modelId": name,
                "sha": hub.oid(name),
                "siblings": siblings,
                "private": False,
                "tags": [],
            }
            return self.answer(200, info)
        if len(words) >= 5 and words[2] == "resolve":
            return self.resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        return self.answer(404, {"error": f"no route {path}"})

    def commit(self, name: str, sent: bytes) -> None:
        """Take over the files of a commit."""
        hub = self.hub
        for line in sent.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                content = hub.large[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                assert len(content) == value["size"]
                hub.repositories[name][value["path"]] = content
        oid = hashlib.sha1(sent, usedforsecurity=False).hexdigest()
        hub.commits.setdefault(name, []).append(oid)
        hub.snapshots[oid] = dict(hub.repositories[name])
        url = f"{hub.address}/{name}/commit/{oid}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def resolve(self, name: str, revision: str, file: str) -> None:
        """Send a file, or what is known about it."""
        hub = self.hub
        if name not in hub.repositories:
            return self.answer(404, {}, X_Error_Code="RepoNotFound")
        files = hub.files_of(name, revision)
        if files is None:
            return self.answer(404, {}, X_Error_Code="RevisionNotFound")
        if file not in files:
            return self.answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=hub.oid(name))
        content = files[file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        commit = hub.oid(name) if revision == "main" else revision
        size = str(hub.sizes.get(file, len(content)))
        more = {"Content_Length": size} if self.command == "HEAD" else {}
        return self.answer(200, content, ETag=etag, X_Repo_Commit=commit, X_Linked_Size=size, **more)

    do_GET = do_HEAD = do_POST = do_PUT = route


@contextmanager
def standing_in() -> Iterator[Hub]:
    """Run the server on a port of its own."""
    hub = Hub()
    handler = type("Bound", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
