"""A hub on loopback: what huggingface_hub needs of one to make, fill, ask and read repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """``repositories`` by id: the files of each; every commit replaces what it names."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Files] = {}
        self.private: set[str] = set()
        self.asked: list[str] = []
        """``METHOD path`` of every request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str) -> str:
        """The commit that a repository is at: it follows from its files."""
        files = self.repositories[repo]
        return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None: ...

    def do_POST(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(repo, {})
            if asked.get("private") or asked.get("visibility") == "private":  # as older and newer clients say it
                self.server.private.add(repo)
            self._json({"url": f"{self.server.url}/{repo}", "name": repo})
        elif path == "api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._json({"files": [{**file, "shouldIgnore": False} for file in files]})
        elif path.endswith("/commit/main"):
            repo = self._repo(path)
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    assert line["value"]["encoding"] == "base64"
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[repo][line["value"]["path"]] = content
            commit = self.server.commit(repo)
            self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit, "success": True})
        else:
            self._missing("EntryNotFound")

    def do_GET(self) -> None:
        path = self._path()
        if path.startswith("api/models/"):
            repo = self._repo(path)
            if repo not in self.server.repositories:
                self._missing("RepoNotFound")
            elif path.split("/")[4:5] == ["tree"]:
                files = self.server.repositories[repo]
                self._json([{"type": "file", "path": n, "size": len(c), "oid": _oid(c)} for n, c in files.items()])
            else:
                names = [{"rfilename": name} for name in self.server.repositories[repo]]
                self._json({"id": repo, "sha": self.server.commit(repo), "siblings": names})
            return
        self._file(path)

    do_HEAD = do_GET

    def _file(self, path: str) -> None:
        organization, name, resolve, _, *rest = path.split("/")
        repo = f"{organization}/{name}"
        if resolve != "resolve" or repo not in self.server.repositories:
            self._missing("RepoNotFound")
        elif "/".join(rest) not in self.server.repositories[repo]:
            self._missing("EntryNotFound", self.server.commit(repo))
        else:
            content = self.server.repositories[repo]["/".join(rest)]
            self._send(content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": self.server.commit(repo)})

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(f"{self.command} {path}")
        return path

    def _repo(self, path: str) -> str:
        return "/".join(path.split("/")[2:4])

    def _json(self, data: Any) -> None:
        self._send(json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str, commit: str | None = None) -> None:
        self._send(b"", {"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})}, 404)

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def set_offline(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    """As the variable HF_HUB_OFFLINE would, which is read once, when huggingface_hub is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    forget_sessions()


def forget_sessions() -> None:
    """Before release 1 of huggingface_hub, sessions stay as offline as they began."""
    from huggingface_hub import utils

    getattr(utils, "reset_sessions", lambda: None)()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers within the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
        forget_sessions()
