"""``data=webdataset`` behind a URL: what is on the disk, whatever the server does meanwhile."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUIET, TINY, command
from safetensors.torch import load_file

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.pack_config import PackConfig
from visionlora.data.packing import pack
from visionlora.data.sources.remote import kept_folder
from visionlora.data.sources.server import Server, expanded, local_name

Folders = Callable[..., Path]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; ``server.cut`` bytes of a shard at most, though it says that there are more, and counts what it has sent."""

    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.cut is None or not self.path.endswith(".tar"):
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cut])
        self.close_connection = True
        return None


@pytest.fixture
def shards(class_folders: Folders, tmp_path: Path) -> Path:
    root = class_folders(train={"cat": 6, "dog": 6}, test={"cat": 2, "dog": 2})
    pack(PackConfig(DataConfig("imagefolder", str(root)), str(tmp_path / "served/shards"), images=5))
    return tmp_path / "served/shards"


@pytest.fixture
def server(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("VISIONLORA_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    found: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards.parent)))
    found.cut, found.asked, found.url = None, [], f"http://127.0.0.1:{found.server_port}/shards"
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def data(root: Path | str, **keys: Any) -> ImageData:
    return ImageData(DataConfig("webdataset", str(root), val_fraction=0.0, **keys))


def pixels(found: ImageData) -> dict[str, list[tuple[str, int, bytes]]]:
    return {
        part: [(images.names[i].rpartition("/")[2], images.labels[i], np.asarray(images.open(i, 3)).tobytes()) for i in range(len(images))]
        for part, images in found.parts.items()
    }


@pytest.mark.parametrize("index", [True, False])
def test_a_folder_behind_a_url_is_the_folder(index: bool, shards: Path, server: Any) -> None:
    if not index:
        (shards / "shards.json").unlink()
    assert pixels(data(f"{server.url}/")) == pixels(data(shards))
    fetched = [path for path in server.asked if path.endswith(".tar")]
    assert len(fetched) == len({*fetched}) == 4


def test_patterns(shards: Path, server: Any) -> None:
    assert list(expanded("a{08..11}-{x,y}")) == [f"a{n:02}-{w}" for n in range(8, 12) for w in "xy"]
    assert list(expanded("{8..10}")) == ["8", "9", "10"]
    train, both = data(f"{server.url}/train/{{000000..000002}}.tar"), data(f"{server.url}/{{train/00000{{0..2}},test/000000}}.tar")
    assert sum(map(len, train.parts.values())) == 12
    assert {part: len(images) for part, images in both.parts.items()} == {"train": 12, "test": 4}


def test_what_is_kept_is_the_data_whatever_becomes_of_the_server(shards: Path, server: Any) -> None:
    first = pixels(data(server.url))
    server.asked.clear()
    for file in shards.rglob("*.tar"):
        file.write_bytes(b"other")
    assert pixels(data(server.url)) == first
    assert server.asked == []
    with pytest.raises(UserError, match=f"nothing is fetched unless you name the place: root={server.url}/other"):
        data(f"{server.url}/other", download=False)
    assert pixels(data(server.url, download=False)) == first


def test_a_server_that_dies_leaves_what_is_whole_and_the_next_time_goes_on(shards: Path, server: Any) -> None:
    largest = max(file.stat().st_size for file in shards.rglob("*.tar"))
    server.cut = largest - 1
    with pytest.raises(UserError, match=r"^data\.root=http://\S+ cannot be read: .*[^.]\.$"):
        data(server.url)
    folder = kept_folder(server.url)
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
    kept = {path.name for path in folder.rglob("*.tar")}
    server.cut = None
    server.asked.clear()
    assert pixels(data(server.url)) == pixels(data(shards))
    assert len([path for path in server.asked if path.endswith(".tar")]) == 4 - len(kept) < 4


def test_a_list_that_was_wrong_is_made_anew_and_one_that_was_trained_on_stays(shards: Path, server: Any) -> None:
    (shards / "shards.json").unlink()
    shard = shards / "train/000001.tar"
    wanted, content = pixels(data(shards)), shard.read_bytes()
    kept = kept_folder(server.url)
    for found, why in ((content + bytes(512), "is not what was said of it"), (None, r"there is no http://\S+000001\.tar any more")):
        _listed_before(shard, content, found, server, kept, why)
        shard.write_bytes(content)
        assert pixels(data(server.url)) == wanted
        (kept / "train/000001.tar").unlink()
        shard.write_bytes(content[:-512])
        with pytest.raises(UserError, match="was cut short"):  # what is trained on does not change with the server
            data(server.url)
        assert (kept / "listing.json").is_file()
        shutil.rmtree(kept)
        shard.write_bytes(content)


def _listed_before(shard: Path, content: bytes, found: bytes | None, server: Any, kept: Path, why: str) -> None:
    """The server lists ``content`` and then sends ``found``, or nothing."""
    asked = Server.fetch

    def fetch(*words: Any) -> None:
        if found is None:
            shard.unlink(missing_ok=True)
        else:  # whole at once: another thread may be fetching it
            other = shard.with_suffix(f".{threading.get_ident()}")
            other.write_bytes(found)
            other.replace(shard)
        asked(*words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "fetch", fetch)
        with pytest.raises(UserError, match=why):
            data(server.url)
    assert not (kept / "listing.json").exists()


@pytest.mark.parametrize(("content", "why"), [(b"<!DOCTYPE html><p>Log in", "comes a web page"), (b"\xff\xfe\x00", "it is not text")])
def test_names_of_classes_that_are_none(content: bytes, why: str, shards: Path, server: Any) -> None:
    (shards / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"http://\S+classes\.txt.* {why}"):
        data(server.url)
    (shards / "classes.txt").unlink()
    assert pixels(data(server.url)) == pixels(data(shards))
    assert not (kept_folder(server.url) / "classes.txt").exists()


def test_mistakes_are_told(shards: Path, server: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no shards"):
        data(f"{server.url}/nothing")
    with pytest.raises(UserError, match=r"there is no http://\S+/train/000003\.tar"):
        data(f"{server.url}/train/{{000000..000003}}.tar")
    with pytest.raises(UserError, match=r"cannot be read: .*(connect|Connect)"):
        data("http://127.0.0.1:9/shards")
    with pytest.raises(UserError, match="Protocol not known"):
        data("gibberish://x/shards")
    with pytest.raises(UserError, match=r"more than data\.kept_gb=1e-06; raise it"):
        data(server.url, kept_gb=1e-6)
    shard = shards / "train/000001.tar"
    shard.write_bytes(shard.read_bytes()[:1536] + bytes(512) + shard.read_bytes()[2048:])
    with pytest.raises(UserError, match=r"000001\.tar is not what shards\.json says \(sha256\)"):
        data(server.url)
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(UserError, match=r"http\S+000001\.tar (was cut short|cannot be read as a tar archive)"):  # on the server
        data(root := f"{server.url}/train/{{000000..000002}}.tar")
    assert not (kept_folder(root) / "000001.tar").exists()


@pytest.mark.parametrize("name", ["../../x.tar", "/etc/x.tar", "train/../../x.tar", "x.sh", ".hidden.tar"])
def test_no_shard_lies_outside_the_folder(name: str) -> None:
    with pytest.raises(UserError, match=r"none of a \.tar below"):
        local_name(name)


@pytest.mark.slow
def test_a_training_from_a_url_is_that_from_the_disk_and_is_evaluated_without_the_server(shards: Path, server: Any, tmp_path: Path) -> None:
    words = [word for word in TINY if word not in ("data=fake", "data.num_workers=0")]
    words += [*QUIET, "data=webdataset", "trainer.max_epochs=1", "data.image_size=72"]
    environment = {"VISIONLORA_CACHE": str(tmp_path / "kept")}
    for name, root, workers in (("disk", str(shards), 0), ("url", f"{server.url}/{{train/00000{{0..2}},test/000000}}.tar", 2)):
        done = command(
            "train", *words, f"data.root={root}", f"data.num_workers={workers}", f"hydra.run.dir={tmp_path / name}", env=environment
        )
        assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("disk", "url"))
    assert all((first[key] == second[key]).all() for key in first)
    server.asked.clear()
    done = command("evaluate", f"run={tmp_path / 'url'}", env=environment)
    assert done.returncode == 0, done.stderr
    assert server.asked == []
    done = command("evaluate", f"run={tmp_path / 'url'}", env={"VISIONLORA_CACHE": str(tmp_path / "empty")})
    assert done.returncode == 2
    assert "nothing is fetched unless you name the place" in done.stderr
    assert server.asked == []
