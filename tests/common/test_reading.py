"""Sealed files: every bit that changes what they say is missed, and nothing in them is resolved."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
import yaml
from quickly import quickly

from visionlora.common import reading
from visionlora.common.errors import UserError
from visionlora.common.reading import read_json, read_yaml, sealed_json, sealed_yaml

VALUES = {"a": [1, 2.5, None, True, "ü"], "b": {"c": float("inf"), "7": "x"}}


@pytest.mark.parametrize("kind", quickly(["json", "yaml"], 1))
def test_every_single_bit(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{kind}"
    whole = sealed_json(VALUES) if kind == "json" else sealed_yaml(yaml.safe_dump(VALUES))
    read = read_json if kind == "json" else lambda path: read_yaml(path)[0]
    path.write_bytes(whole)
    assert read(path) == VALUES
    for position in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        path.write_bytes(changed)
        with contextlib.suppress(UserError):
            assert {key: value for key, value in read(path).items() if key in VALUES} == VALUES
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"file\."):
            read(path)


def test_without_a_seal_they_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(VALUES))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(VALUES))
    assert read_json(tmp_path / "a.json") == read_yaml(tmp_path / "a.yaml")[0] == VALUES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\nb: *a", "alias"),
        ("a: ${oc.env:HOME}", "a has an interpolation"),
        ("a: {b: ['x${c}']}", "a.b has an interpolation"),
        ("a: !!python/object/apply:os.system [true]", "damaged"),
        ("a: 1\na: 2", "a key comes twice"),
        ("1: 2", "the key 1 is not text"),
        ("a: 2001-01-01", "a is a date"),
        ("a: !!set {b}", "a is a set"),
        ("? [a]\n: b", "damaged"),
        ("? {a: b}\n: b", "damaged"),
        ("[1]", "does not hold a mapping"),
        ("", "does not hold a mapping"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than"),
        ("a: " + "[" * 10**5 + "]" * 10**5, "damaged"),
        ("a: \x00", "damaged"),
        ("a: [", "damaged"),
    ],
)
def test_what_only_a_stranger_would_write(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name, message in (("missing", "is missing"), ("folder", "not a file"), ("pipe", "not a file"), ("zeros", "not a file")):
        with pytest.raises(UserError, match=message):
            read_json(tmp_path / name)
    (tmp_path / "large").write_text('{"a": 1}')
    with pytest.raises(UserError, match="8 bytes"):
        reading.read_bytes(tmp_path / "large", 5)
