"""Pushing to the hub: the real client, against a small server that speaks as the hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.model_card.push import push_folder
from self_rewarding_lm_pytorch.pipeline import run
from tests.cli.test_cli import Command, srlm
from tests.fitting_in.test_trackers import Listening
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET, hugging_face, plan

__all__ = ["srlm"]


class Hub:
    """Keeps the files of every commit; refuses with `status` where one is set."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, Any] = {}
        self.status: int | None = None
        self.address = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.status is not None:
            return self.status, {"error": "You don't have the rights to do this"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repos.setdefault(name, {})
            self.private.setdefault(name, asked.get("private", asked.get("visibility") == "private"))
            return 200, {"url": f"{self.address}/{name}"}
        name = "/".join(path.split("/")[3:5])
        if path.endswith("/preupload/main"):
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return 200, {"files": [{**f, "shouldIgnore": False, "oid": None} for f in files]}
        if path.endswith("/commit/main"):
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.repos[name][part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            return 200, {"commitUrl": f"{self.address}/{name}/commit/1f", "commitOid": "1f"}
        if path.endswith("/revision/main") or path == f"/api/models/{name}":
            return 200, {"id": name, "sha": "0e", "siblings": []}
        return 200, {}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(self._chunks())
            status, value = served.answer(self.path.partition("?")[0], body)
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield served
    server.shutdown()
    server.server_close()


def planned(folder: Path, **changes: Any) -> dict[str, Any]:
    return plan(folder, "seed", "given", model=hugging_face(), tokenizer=byte_codec(), **changes)


def last(folder: Path) -> Path:
    return folder / "stages" / "02-given" / "checkpoint"


def test_a_run_pushes_its_last_checkpoint_with_its_card_once(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(planned(folder, push_to_hub="me/model"), reporter=QUIET)
    pushed = hub.repos["me/model"]
    written = {path.name: path.read_bytes() for path in last(folder).iterdir()}
    assert {name: pushed[name] for name in written} == written and "README.md" in written
    assert hub.private == {"me/model": True}, "a repository is private unless the plan says otherwise"
    hub.repos.clear()
    run(planned(folder, push_to_hub="me/model"), reporter=QUIET)
    assert hub.repos == {}, "it is there"
    run(planned(folder, push_to_hub={"repo": "me/other", "private": False}), reporter=QUIET)
    assert "model.safetensors" in hub.repos["me/other"] and hub.private["me/other"] is False


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_hub_that_refuses_costs_no_run_and_the_same_call_tries_again(
    hub: Hub, status: int, tmp_path: Path
) -> None:
    folder, reporter, hub.status = tmp_path / "run", Listening(), status
    summary = run(planned(folder, push_to_hub="me/model"), reporter=reporter)
    assert summary["status"] == "completed" and (folder / "summary.json").exists()
    assert len(reporter.warnings) == 1
    assert f"({status}" in reporter.warnings[0]
    assert f"self-rewarding-lm push {last(folder)} me/model" in reporter.warnings[0]
    hub.status = None
    run(planned(folder, push_to_hub="me/model"), reporter=QUIET)
    assert "model.safetensors" in hub.repos["me/model"]


def test_a_hub_that_cannot_be_reached_is_said(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run(planned(folder), reporter=QUIET)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="could not be pushed to me/model"):
        push_folder(last(folder), "me/model")


def test_the_command_pushes_a_checkpoint_and_says_where_it_is(
    srlm: Command, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(planned(folder), reporter=QUIET)
    code, out, _ = srlm("push", str(last(folder)), "me/model", "--public")
    assert code == 0 and "me/model/commit" in out
    assert "model.safetensors" in hub.repos["me/model"] and hub.private["me/model"] is False


def test_what_is_no_checkpoint_no_name_or_altered_is_refused_before_anything_is_sent(
    hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no weights"):
        push_folder(tmp_path, "me/model")
    folder = tmp_path / "run"
    run(planned(folder), reporter=QUIET)
    with pytest.raises(ConfigError, match="no name of a model on the hub"):
        push_folder(last(folder), "me/my/model")
    (last(folder) / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has 14 bytes"):
        push_folder(last(folder), "me/model")
    assert hub.repos == {}
