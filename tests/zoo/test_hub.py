"""Downloads from a server of this test's own: licence first, resumed, checked, one line when it fails."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import torch

import manyview as mv
from manyview import UserError, zoo
from manyview.zoo import hub as downloads
from manyview.zoo.cards import CARDS, Card
from manyview.zoo.hub import FetchError, fetch


class Server:
    """Serves one file; remembers the ranges asked for and can break off, refuse ranges or change the file."""

    def __init__(self) -> None:
        self.content, self.ranges, self.break_after, self.ignore_ranges = b"", [], None, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/model.pth"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted, etag = request.headers.get("Range"), hashlib.md5(self.content).hexdigest()
        self.ranges.append(wanted)
        if "missing" in request.path:
            request.send_error(404)
            return
        same = request.headers.get("If-Range", etag) == etag
        start = int(wanted[6:-1]) if wanted and same and not self.ignore_ranges else 0
        if start >= len(self.content) and start:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.end_headers()
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", etag)
        request.end_headers()
        request.wfile.write(body[: self.break_after] if self.break_after else body)


@pytest.fixture
def server():
    server = Server()
    server.content = bytes(range(256)) * 40
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(autouse=True)
def online(monkeypatch, tmp_path):
    for name in ("MANYVIEW_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MANYVIEW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_file_arrives_whole_and_leaves_nothing_behind(server, tmp_path):
    sha = hashlib.sha256(server.content).hexdigest()
    target = fetch(server.url, tmp_path / "deep" / "m.pth", size=len(server.content), sha256=sha)
    assert target.read_bytes() == server.content
    assert [p.name for p in target.parent.iterdir()] == ["m.pth"]


def test_what_an_interruption_left_is_gone_on_with(server, tmp_path):
    part = tmp_path / "m.pth.part"
    part.write_bytes(server.content[:5000])
    assert fetch(server.url, tmp_path / "m.pth").read_bytes() == server.content
    assert server.ranges == ["bytes=5000-"]


def test_a_connection_that_breaks_is_tried_again_and_then_reported(server, tmp_path, monkeypatch):
    server.break_after = 4000
    assert fetch(server.url, tmp_path / "m.pth").read_bytes() == server.content
    assert server.ranges == [None, "bytes=4000-", "bytes=8000-"]
    monkeypatch.setattr(downloads, "TRIES", 1)
    with pytest.raises(FetchError, match=r"broke after 4000 of 10240 bytes; run the same again"):
        fetch(server.url, tmp_path / "n.pth")
    assert (tmp_path / "n.pth.part").stat().st_size == 4000
    assert not (tmp_path / "n.pth").exists()


def test_two_versions_of_a_file_are_never_mixed(server, tmp_path):
    (tmp_path / "m.pth.part").write_bytes(b"old" * 100)
    (tmp_path / "m.pth.part.etag").write_text("another")
    assert fetch(server.url, tmp_path / "m.pth").read_bytes() == server.content


def test_servers_that_know_no_ranges_or_have_nothing_left_to_send(server, tmp_path):
    server.ignore_ranges = True
    (tmp_path / "m.pth.part").write_bytes(server.content[:100])
    assert fetch(server.url, tmp_path / "m.pth").read_bytes() == server.content
    server.ignore_ranges = False
    (tmp_path / "whole.pth.part").write_bytes(server.content)
    assert fetch(server.url, tmp_path / "whole.pth").read_bytes() == server.content
    (tmp_path / "long.pth.part").write_bytes(server.content + b"x")
    assert fetch(server.url, tmp_path / "long.pth").read_bytes() == server.content


@pytest.mark.parametrize(
    ("expected", "message"),
    [({"sha256": "0" * 64}, r"sha256 is .* should be 000000000000"), ({"size": 7}, r"10240 bytes long .* 7")],
)
def test_a_file_that_is_not_the_published_one_is_removed(server, tmp_path, expected, message):
    with pytest.raises(FetchError, match=message):
        fetch(server.url, tmp_path / "m.pth", **expected)
    assert not (tmp_path / "m.pth").exists()
    assert not (tmp_path / "m.pth.part").exists()


def test_links_that_do_not_answer(server, tmp_path):
    with pytest.raises(FetchError, match="answers 404"):
        fetch(server.url.replace("model", "missing"), tmp_path / "m.pth")
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(FetchError, match=r"cannot be reached .* is there a network"):
        fetch(server.url, tmp_path / "m.pth", timeout=2)


def test_a_full_disk_keeps_what_was_fetched(server, tmp_path, monkeypatch):
    def full(response):
        yield server.content[:1000]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "_chunks", full)
    with pytest.raises(FetchError, match="the disk is full"):
        fetch(server.url, tmp_path / "m.pth")
    assert (tmp_path / "m.pth.part").stat().st_size == 1000


@pytest.fixture
def published(server, tmp_path) -> Card:
    """A card whose link gives a small DINOv2 file."""
    torch.save(zoo.export_official(zoo.build("dinov2-vits14", size="debug", seed=1)), tmp_path / "published.pth")
    server.content = (tmp_path / "published.pth").read_bytes()
    return dataclasses.replace(CARDS["dinov2-vits14"], url=server.url, file="small.pth", sha256=None, bytes=None)


def download(card: Card, **options) -> Path:
    return zoo.download(card.name, zoo.models_folder() / card.name, card=card, **options)


def test_a_download_becomes_a_model_directory_that_remembers_its_file(published, server):
    out = download(published)
    origin = json.loads((out / "config.json").read_text())["card"]["origin"]
    assert origin == {
        "file": "small.pth",
        "bytes": len(server.content),
        "sha256": hashlib.sha256(server.content).hexdigest(),
    }
    assert mv.load("dinov2-vits14").config == mv.load(out).config
    requests = len(server.ranges)
    download(published)  # the file is still there
    assert len(server.ranges) == requests


def test_the_licence_is_asked_for_before_anything_is_fetched(published, server):
    strict = dataclasses.replace(published, permissive=False, licence="CC BY-NC-SA 4.0", allows="no trade")
    with pytest.raises(UserError, match=r"CC BY-NC-SA 4\.0: no trade.*--download.*accept=lambda") as caught:
        download(strict)
    assert "\n" not in str(caught.value)
    asked = []
    with pytest.raises(UserError, match="not accepted, nothing was downloaded"):
        download(strict, accept=lambda card: bool(asked.append(card.licence)))
    assert asked == ["CC BY-NC-SA 4.0"]
    assert server.ranges == []
    assert download(strict, accept=lambda card: True).is_dir()


@pytest.mark.parametrize("variable", ["MANYVIEW_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_never_connects_and_says_what_to_do_by_hand(published, server, variable, monkeypatch):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UserError, match=r"switched off.*by hand: get small\.pth from http"):
        download(published)
    assert server.ranges == []
    monkeypatch.delenv(variable)
    download(published)
    monkeypatch.setenv(variable, "1")
    assert download(published).is_dir()  # what was fetched before still serves


def test_a_wrong_hash_says_what_to_do_by_hand(published):
    with pytest.raises(UserError, match=r"cannot download .*sha256 is .*by hand: .*--arch dinov2-vits14"):
        download(dataclasses.replace(published, sha256="0" * 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [("mum-vitb16-full", "no published weights"), ("distill3r", "by hand: get .* from github.com/TheFourthKaramazov")],
)
def test_models_without_a_link_say_how_to_get_them(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        zoo.download(name, tmp_path / name, accept=lambda card: True)


def hub(monkeypatch, answer) -> list[tuple]:
    """A stand-in for the hub's client."""
    calls: list[tuple] = []
    client = ModuleType("huggingface_hub")

    def hf_hub_download(repository, name, local_files_only):
        calls.append((repository, name, local_files_only))
        return answer(name)

    client.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return calls


def test_the_hub_client_gets_weights_and_config(published, tmp_path, monkeypatch):
    calls = hub(monkeypatch, lambda name: str(tmp_path / "published.pth"))
    card = dataclasses.replace(published, hub="someone/model", file="w.pth")
    assert download(card).is_dir()
    monkeypatch.setenv("MANYVIEW_OFFLINE", "1")
    download(dataclasses.replace(card, container="Hugging Face directory"))
    assert calls == [
        ("someone/model", "w.pth", False),
        ("someone/model", "w.pth", True),
        ("someone/model", "config.json", True),
    ]


def test_what_the_hub_client_says_becomes_one_line(published, monkeypatch):
    def gated(name):
        raise RuntimeError("Access to model is restricted.\nPlease log in.")

    hub(monkeypatch, gated)
    with pytest.raises(UserError, match=r"hub says: Access to model is restricted\.; by hand") as caught:
        download(dataclasses.replace(published, hub="someone/model"))
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="huggingface_hub is not installed"):
        download(dataclasses.replace(published, hub="someone/model"))


def test_a_file_without_a_stated_hash_is_known_again(published, server, tmp_path, recwarn):
    download(published)
    seen = zoo.models_folder().parent / "downloads" / "digests.json"
    assert list(json.loads(seen.read_text()).values()) == [hashlib.sha256(server.content).hexdigest()]
    download(published)
    assert not [warning for warning in recwarn if "has changed" in str(warning.message)]
    torch.save(zoo.export_official(zoo.build("dinov2-vits14", size="debug", seed=2)), tmp_path / "other.pth")
    server.content = (tmp_path / "other.pth").read_bytes()
    for kept in (zoo.models_folder().parent / "downloads").glob("*/*.pth"):
        kept.unlink()
    with pytest.warns(UserWarning, match=r"has changed since it was first downloaded: its sha256 was"):
        download(published)
    assert list(json.loads(seen.read_text()).values()) == [hashlib.sha256(server.content).hexdigest()]


def commits(monkeypatch, tmp_path, commit) -> list[dict]:
    """A stand-in for the hub's client that has the published file at one commit; how it was asked."""
    asked: list[dict] = []
    snapshot = tmp_path / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "published.pth").rename(snapshot / "w.pth")
    client = ModuleType("huggingface_hub")
    client.hf_hub_download = lambda *_, **how: asked.append(how) or str(snapshot / "w.pth")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return asked


def test_a_pinned_revision_is_asked_for_and_a_commit_is_recorded(published, tmp_path, monkeypatch):
    asked = commits(monkeypatch, tmp_path, "abc123")
    out = download(dataclasses.replace(published, hub="someone/model", file="w.pth", revision="abc123"))
    assert asked == [{"local_files_only": False, "revision": "abc123"}]
    assert json.loads((out / "config.json").read_text())["card"]["origin"]["revision"] == "abc123"


def test_the_commit_seen_first_is_kept_to_where_the_card_has_none(published, tmp_path, monkeypatch):
    asked = commits(monkeypatch, tmp_path, "first")
    card = dataclasses.replace(published, hub="someone/model", file="w.pth")
    download(card)
    download(card)
    download(dataclasses.replace(card, hub="someone/else"))
    assert [how.get("revision") for how in asked] == [None, "first", None]


def test_cards_of_the_hub_name_a_commit_or_say_that_none_is_known():
    for name, card in CARDS.items():
        if card.hub and name != "sab3r-cd":
            assert re.fullmatch("[0-9a-f]{40}", card.revision), name
            assert not card.url or card.revision in card.url, name


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<!doctype html><title>Sign in</title>", "a web page, not the weights"),
        (b'{"error": "quota exceeded"}', "is text, not the weights"),
        (b"", r"empty \(0 bytes\)"),
    ],
)
def test_what_a_link_gives_instead_of_weights_is_said_and_not_kept(published, server, content, sentence):
    good, server.content = server.content, content
    with pytest.raises(UserError, match=sentence) as caught:
        download(published)
    assert "by hand" in str(caught.value)
    server.content = good
    assert download(published).is_dir()
