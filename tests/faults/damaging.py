"""Files of a run folder in every state that a disk, a copy or a stranger may leave them in, and what a command may do then."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml

from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UserError

FLIPS, SECONDS = 50, 240
Harm = Callable[[Path], None]


@dataclass
class Ended:
    """How a command ended: what it complained of (nothing where it came to its end), and what it printed."""

    complaint: str
    said: str
    fault: str = ""


class HangError(Exception):
    """A command took more than ``SECONDS``."""


def ended(call: Callable[[], Any]) -> Ended:
    """Call a command in this process. Anything but a user's mistake told in a sentence, or its proper end, is a fault."""
    out, err = io.StringIO(), io.StringIO()

    def hang(*_: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    complaint = fault = ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            call()
    except UserError as error:
        complaint = str(error)
    except SystemExit as error:
        complaint = err.getvalue().strip() if error.code else ""
    except Exception as error:
        complaint = disk_trouble(error) if isinstance(error, OSError) else ""
        fault = "" if complaint else f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = out.getvalue() + err.getvalue()
    if complaint and len([line for line in complaint.splitlines() if line.startswith("error: ")]) > 1:
        fault = f"more than one sentence: {complaint}"
    if "Traceback" in said:
        fault = said
    return Ended(complaint, said, fault)


def main_of(module: str, *overrides: str) -> Callable[[], None]:
    """``python -m visionlora.MODULE OVERRIDES`` in this process."""

    def call() -> None:
        import importlib

        before = sys.argv
        sys.argv = [f"visionlora.{module}", *overrides]
        try:
            importlib.import_module(f"visionlora.{module}").main()
        finally:
            sys.argv = before

    return call


def damages(path: Path, flips: int = FLIPS) -> Iterator[tuple[str, Harm]]:
    """What a disk or a copy does to a file, and another thing in its place: the answer is the right one still, or there is none."""
    whole, draw = path.read_bytes(), random.Random(path.name)
    yield "missing", Path.unlink
    yield "empty", lambda file: _put(file, b"")
    for share in (0.1, 0.5, 0.9):
        yield f"cut at {share}", partial(_cut, whole=whole, share=share)
    yield "cut at a line", lambda file: _put(file, whole[: whole[: len(whole) // 2].rfind(b"\n") + 1])
    yield "without its last byte", lambda file: _put(file, whole[:-1])
    for _ in range(flips):
        position, bit = draw.randrange(len(whole)), draw.randrange(8)
        yield f"bit {bit} of byte {position}", partial(_flip, whole=whole, position=position, bit=bit)
    yield "a block of zeros", lambda file: _put(file, whole[: len(whole) // 3] + bytes(len(whole) // 3) + whole[2 * (len(whole) // 3) :])
    yield "a folder", _folder
    yield "a pipe", _pipe
    yield "a link to nowhere", partial(_link, to="nowhere")
    yield "a link to all zeros", partial(_link, to="/dev/zero")
    yield "random bytes", lambda file: _put(file, random.Random(1).randbytes(3000))
    yield "text", lambda file: _put(file, b"hello, world\n")
    yield "a list", lambda file: _put(file, b"[1, 2]")
    yield "a mapping", lambda file: _put(file, b"{}")
    yield "an image", lambda file: _put(file, b"\x89PNG\r\n\x1a\n" + bytes(200))
    yield "a pickle", lambda file: _put(file, b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94.")
    yield "safetensors", lambda file: _put(file, safetensors.torch.save({"a": torch.zeros(3)}))


def _put(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("kept")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _link(file: Path, to: str) -> None:
    file.unlink()
    file.symlink_to(to)


def _cut(file: Path, whole: bytes, share: float) -> None:
    _put(file, whole[: int(share * len(whole))])


def _flip(file: Path, whole: bytes, position: int, bit: int) -> None:
    _put(file, whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])


def _put_json(file: Path, values: Any) -> None:
    _put(file, json.dumps(values).encode())


def _put_yaml(file: Path, values: Any) -> None:
    _put(file, yaml.safe_dump(values).encode(errors="surrogatepass"))


STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 10**30, 1e308, float("nan"), "", "x", "\x1b[2J", "\ud800", "${oc.env:VISIONLORA_SECRET}", "@@TABLE@@",
    "<!--<script>alert(1)</script>", "../../x", "x" * 10**5, [], {}, [[]], ["x"], {"_target_": "os.system"},
)  # fmt: skip
"""Values that a stranger puts in the place of others."""


def mutants(values: Any) -> Iterator[tuple[str, Any]]:
    """A value with one thing in it changed, removed or added, each in turn."""
    for place in _places(values):
        for strange in STRANGE:
            yield f"{'.'.join(map(str, place))}={str(strange)[:20]!r}", _with(values, place, strange)
        yield f"without {'.'.join(map(str, place))}", _with(values, place, _GONE)
    yield "with another key", {**values, "another": {"_target_": "os.system", "command": "true"}}


_GONE = object()


def _places(values: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from _places(value, (*before, key))


def _with(values: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = list(values) if isinstance(values, list) else dict(values)
    if len(place) == 1 and value is _GONE:
        del changed[place[0]]
    else:
        changed[place[0]] = _with(values[place[0]], place[1:], value)
    return changed


def strange_json(path: Path, share: float = 1.0) -> Iterator[tuple[str, Harm]]:
    """What a stranger makes of a JSON file of ours: whoever changes it can leave out its hashes, too."""
    values = {key: value for key, value in json.loads(path.read_bytes()).items() if key not in ("sha256", "files")}
    draw = random.Random(path.name)
    for name, mutant in mutants(values):
        if draw.random() < share:
            yield name, partial(_put_json, values=mutant)
    yield "nested deeply", lambda file: _put(file, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "a number of 5,000 digits", lambda file: _put(file, b'{"a": ' + b"9" * 5000 + b"}")
    yield "in another encoding", lambda file: _put(file, json.dumps(values).encode("utf-16"))
    yield "keys twice", lambda file: _put(file, json.dumps(values).encode()[:-1] + b"," + json.dumps(values).encode()[1:])


def strange_yaml(path: Path, share: float = 1.0) -> Iterator[tuple[str, Harm]]:
    """What a stranger makes of ``config.yaml``."""
    values, draw = yaml.safe_load(path.read_text()), random.Random(0)
    for name, mutant in mutants(values):
        if draw.random() < share:
            yield name, partial(_put_yaml, values=mutant)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi"))
    for name, text in {
        "aliases": bomb,
        "an object": "model: !!python/object/apply:os.system ['touch broken-out']\n",
        "nested deeply": "a: " + "[" * 50_000 + "]" * 50_000,
        "a key twice": path.read_text() + "seed: 1\n",
        "keys that are numbers": "1: 2\n",
        "dates and sets": "data: {root: 2001-01-01, name: !!set {a, b}}\n",
        "megabytes": "a: " + "x" * 3_000_000,
        "a tab": "\tmodel: 1",
    }.items():
        yield name, partial(_put, content=text.encode())


def strange_tensors(path: Path) -> Iterator[tuple[str, Harm]]:
    """What a stranger makes of a safetensors file."""
    tensors = safetensors.torch.load_file(path)
    key = next(key for key, tensor in sorted(tensors.items(), key=lambda item: "lora_A" not in item[0]) if tensor.ndim > 1)

    def header(text: bytes, length: int | None = None) -> bytes:
        return (len(text) if length is None else length).to_bytes(8, "little") + text

    def with_(change: dict[str, Any]) -> bytes:
        return safetensors.torch.save({name: value for name, value in {**tensors, **change}.items() if value is not None})

    many = ",".join(f'"base_model.model.l{n}.lora_A.weight":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(10**6))
    for name, content in {
        "a header of exabytes": header(b"{}", 2**62),
        "a header without end": header(b'{"a":'),
        "a header that is a list": header(b"[]"),
        "a million tensors": header(f"{{{many}}}".encode()),
        "bytes that overlap": header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        )
        + bytes(4),
        "a shape of exabytes": header(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}') + bytes(4),
        "a negative shape": header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + bytes(4),
        "an unknown type": header(b'{"a":{"dtype":"F3","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        "no tensors": header(b"{}"),
        "whole numbers": with_({key: tensors[key].to(torch.int32)}),
        "truth values": with_({key: tensors[key] > 0}),
        "float8": with_({key: tensors[key].to(torch.float8_e4m3fn)}),
        "complex": with_({key: tensors[key].to(torch.complex64)}),
        "nan": with_({key: tensors[key] * float("nan")}),
        "infinity": with_({key: tensors[key] / 0}),
        "one missing": with_({key: None}),
        "one too many": with_({"extra": torch.zeros(2)}),
        "one transposed": with_({key: tensors[key].flatten().contiguous()}),
        "one scalar": with_({key: torch.tensor(1.0)}),
        "one of no rows": with_({key: tensors[key][:0].contiguous()}),
        "a name with escapes": with_({"\x1b[2Jbase_model.model.x.lora_A.weight": torch.zeros(2, 2)}),
    }.items():
        yield name, partial(_put, content=content)


class _Boom:
    def __reduce__(self) -> Any:
        return os.system, ("touch broken-out",)


def strange_checkpoint(path: Path, share: float = 1.0) -> Iterator[tuple[str, Harm]]:
    """What a stranger makes of a checkpoint."""
    import pickle
    import zipfile

    loaded, draw = torch.load(path, weights_only=True), random.Random(0)

    def save(values: Any) -> Harm:
        def harm(file: Path) -> None:
            file.unlink(missing_ok=True)
            torch.save(values, file)

        return harm

    for name, mutant in mutants(loaded):
        if draw.random() < share:
            yield name, save(mutant)
    yield "code", lambda file: _put(file, pickle.dumps({"epoch": _Boom()}))
    yield "code in an archive", save({**loaded, "epoch": _Boom()})
    yield "nan", save({**loaded, "state_dict": {key: value * float("nan") for key, value in loaded["state_dict"].items()}})
    yield "whole numbers", save({**loaded, "state_dict": {key: value.int() for key, value in loaded["state_dict"].items()}})

    def packed(file: Path) -> None:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        file.unlink()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)

    yield "packed", packed


def strange_log(path: Path) -> Iterator[tuple[str, Harm]]:
    """What a stranger makes of ``metrics.csv``."""
    text = path.read_text()
    for name, content in {
        "a field of a megabyte": text + "0,1," + "x" * 2**20 + "\n",
        "zero bytes": text + "\0\0\0\n",
        "a script": text.replace("val/top1", "</script><script>alert(1)</script>"),
        "words": text + "one,two,three\n",
        "huge numbers": text + "9" * 5000 + ",1,,,,,,,\n",
        "infinity": text + "1,1,,inf,,nan,,,\n",
        "no heading": text.partition("\n")[2],
        "a quote without end": text + '"',
        "another encoding": text,
    }.items():
        encoded = content.encode("utf-16" if name == "another encoding" else "utf-8")
        yield name, partial(_put, content=encoded)


STRANGERS: dict[str, Callable[..., Iterator[tuple[str, Harm]]]] = {
    ".yaml": strange_yaml,
    ".json": strange_json,
    ".safetensors": strange_tensors,
    ".ckpt": strange_checkpoint,
    ".csv": strange_log,
}
