"""Shards behind a URL, from servers that die, cut and lie: told in a sentence, and the next start goes on to the same data."""

from __future__ import annotations

import functools
import http.server
import os
import random
import re
import shutil
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FORKS, QUIET, TINY, as_started_afresh, command
from faults.killing import _count_changes
from PIL import Image
from safetensors.torch import load_file

from visionlora import UserError
from visionlora.common.files import is_part
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.pack_config import PackConfig
from visionlora.data.packing import pack
from visionlora.data.sources.remote import kept_folder

pytestmark = pytest.mark.faults
Recorder = Callable[[str, object], None]
KILLS = 24


class Faulty(http.server.SimpleHTTPRequestHandler):
    """Serves files; with ``server.fault`` it does so badly from the request numbered ``server.at`` on, ``server.times`` times."""

    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        if not self._faulty():
            super().do_HEAD()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if not self._faulty():
            super().do_GET()

    def _faulty(self) -> bool:
        server = self.server
        with server.lock:
            server.number += 1
            now = server.fault is not None and server.number > server.at and server.times > 0
            server.times -= now
        if not now:
            return False
        path = Path(self.translate_path(self.path))
        content = path.read_bytes() if path.is_file() else b"x" * 100
        getattr(self, f"_{server.fault}")(content, server.draw)
        self.close_connection = True
        return True

    def _sent(self, content: bytes, said: int | None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        if said is not None:
            self.send_header("Content-Length", str(said))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _cut(self, content: bytes, draw: random.Random) -> None:
        self._sent(content[: draw.randrange(len(content))], len(content))

    def _reset(self, content: bytes, draw: random.Random) -> None:
        self._sent(content[: draw.randrange(len(content))], len(content))
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _error(self, content: bytes, draw: random.Random) -> None:
        self._sent(b"sorry", 5, draw.choice([500, 502, 503, 429, 403]))

    def _short(self, content: bytes, draw: random.Random) -> None:
        size = draw.randrange(1, len(content))
        self._sent(content[:size], size)

    def _long(self, content: bytes, draw: random.Random) -> None:
        more = content + bytes(draw.randrange(1, 2000))
        self._sent(more, len(more))

    def _page(self, content: bytes, draw: random.Random) -> None:
        self._sent(b"<html>Please log in</html>", 26)

    def _noise(self, content: bytes, draw: random.Random) -> None:
        self._sent(draw.randbytes(len(content)), len(content))

    def _circle(self, content: bytes, draw: random.Random) -> None:
        self._sent(b"", 0, 302, Location=self.path)

    def _silent(self, content: bytes, draw: random.Random) -> None:
        self.connection.close()


FAULTS = sorted(name[1:] for name in vars(Faulty) if name.startswith("_") and name not in ("_faulty", "_sent") and not name.endswith("__"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven shards of 28 images, and ``shards.json``."""
    place, draw = tmp_path_factory.mktemp("served"), np.random.default_rng(0)
    for part, count in (("train", 11), ("test", 3)):
        for name in ("cat", "dog"):
            (place / f"images/{part}/{name}").mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (24, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"images/{part}/{name}/{number}.png")
    pack(PackConfig(DataConfig("imagefolder", str(place / "images")), str(place / "web/shards"), images=4))
    return place / "web/shards"


@pytest.fixture
def server(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("VISIONLORA_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    found: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Faulty, directory=str(served.parent)))
    found.handle_error = lambda *_: None  # of connections that were cut on purpose
    found.url, found.lock, found.asked = f"http://127.0.0.1:{found.server_port}/shards", threading.Lock(), []
    found.number, found.fault, found.at, found.times, found.draw = 0, None, 0, 0, random.Random(0)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def pixels(root: Path | str) -> dict[str, list[tuple[str, int, bytes]]]:
    found = ImageData(DataConfig("webdataset", str(root), val_fraction=0.0))
    return {
        part: [(images.names[i].rpartition("/")[2], images.labels[i], np.asarray(images.open(i, 3)).tobytes()) for i in range(len(images))]
        for part, images in found.parts.items()
    }


def assert_nothing_wrong(root: str, served: Path) -> None:
    """What is kept of the URL is whole, and nothing is half there."""
    there = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in served.rglob("*.tar")}
    for path in kept_folder(root).rglob("*"):
        assert not is_part(path)
        if path.suffix == ".tar":
            assert path.read_bytes() == there[f"{path.parent.name}/{path.name}"]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_goes_wrong_for_good(fault: str, number: int, server: Any, served: Path, record_property: Recorder) -> None:
    """From some request on: one sentence that begins with the URL, and once it has recovered the rest is fetched."""
    record_property("kind", f"a server that goes wrong for good ({fault})")
    server.fault, server.at, server.times, server.draw = fault, number * 2, 10**6, random.Random(number)
    said = ""
    try:
        assert pixels(server.url) == pixels(served)  # what of the fault comes too late, or does no harm
    except UserError as error:
        said = str(error)
    if said:
        assert re.fullmatch(r"data\.root=http://[^\n]+[.?]", said), said
        assert_nothing_wrong(server.url, served)
    server.fault = None
    assert pixels(server.url) == pixels(served)


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("fault", ["cut", "reset", "error", "silent"])
def test_a_server_that_goes_wrong_for_a_moment(fault: str, number: int, server: Any, served: Path, record_property: Recorder) -> None:
    """Twice: it is asked again, and nobody notices."""
    record_property("kind", f"a server that goes wrong for a moment ({fault})")
    server.fault, server.at, server.times, server.draw = fault, 1 + number * 2, 2, random.Random(number)
    assert pixels(server.url) == pixels(served)


def _fetch(url: str, folder: Path, notes: Path, at: int, cache: str) -> None:
    os.environ["VISIONLORA_CACHE"] = cache
    as_started_afresh()
    _count_changes(folder, os.open(notes, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), at)
    pixels(url)


def test_killed_while_it_fetches(server: Any, served: Path, tmp_path: Path, record_property: Recorder) -> None:
    """Before any change of the folder, each time from what the last one has left; every fourth time it begins anew."""
    wanted, draw, killed = pixels(served), random.Random(0), 0
    folder = kept_folder(server.url)
    for number in range(KILLS):
        if number % 4 == 0 and folder.exists():
            assert pixels(server.url) == wanted
            assert_nothing_wrong(server.url, served)
            shutil.rmtree(folder)
        words = (server.url, folder, tmp_path / "changes", draw.randrange(1, 16), str(tmp_path / "kept"))
        process = FORKS.Process(target=_fetch, args=words)
        process.start()
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        killed += process.exitcode == -signal.SIGKILL
    assert pixels(server.url) == wanted
    assert_nothing_wrong(server.url, served)
    record_property("kind", "killed by SIGKILL while it fetches shards")
    record_property("tries", killed)
    record_property("held", killed)
    assert killed >= 20


@pytest.mark.parametrize("fault", [None, "cut", "error", "reset"])
def test_two_processes(fault: str | None, server: Any, served: Path, tmp_path: Path, record_property: Recorder) -> None:
    """DDP: one of them fetches; where it cannot, both end with the sentence, and the next start ends as from the disk, bit for bit."""
    record_property("kind", "two processes, shards behind a URL")
    words = [word for word in TINY if word not in ("data=fake", "data.num_workers=0")]
    words += [*QUIET, "data=webdataset", "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1", "data.image_size=48"]
    environment = {"VISIONLORA_CACHE": str(tmp_path / "kept")}
    from_disk, from_url = (
        [*words, f"data.root={root}", "data.num_workers=0", f"hydra.run.dir={tmp_path / name}"]
        for name, root in (("disk", served), ("url", server.url))
    )
    if fault is not None:
        server.fault, server.at, server.times = fault, 9, 10**6
        done = command("train", *from_url, env=environment)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count(f"error: data.root={server.url}") == 1, done.stderr
        server.fault = None
        server.asked.clear()
    for line in (from_url, from_disk):
        done = command("train", *line, env=environment)
        assert done.returncode == 0, done.stderr
    fetched = [path for path in server.asked if path.endswith(".tar")]
    assert len(fetched) == len({*fetched}) <= 8
    ours, theirs = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("url", "disk"))
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_a_store_of_another_protocol(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Recorder) -> None:
    """fsspec's file system in memory, which loses a shard, and gets it again."""
    import fsspec

    record_property("kind", "a store that loses a shard (fsspec's memory)")
    monkeypatch.setenv("VISIONLORA_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    store: Any = fsspec.filesystem("memory")
    for path in served.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/bucket/shards/{path.relative_to(served)}", path.read_bytes())
    content = store.cat_file("/bucket/shards/train/000001.tar")
    store.rm_file("/bucket/shards/train/000001.tar")
    with pytest.raises(UserError, match=r"^data\.root=memory://bucket/shards: there is no \S+000001\.tar\.$"):
        pixels("memory://bucket/shards")
    store.pipe_file("/bucket/shards/train/000001.tar", content)
    assert pixels("memory://bucket/shards") == pixels(served)
    store.rm("/bucket", recursive=True)
