"""Whatever is typed or lies in a file: the right answer, or a mistake told in a sentence.

``HYPOTHESIS_PROFILE=long`` looks for longer, as ``make test-faults`` does.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import safetensors.torch
import torch
from conftest import unsealed
from hydra.errors import HydraException
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

import visionlora as vl
from visionlora.backbone.info import BackboneInfo
from visionlora.cli.command import explain, refuse_huge_numbers, slug
from visionlora.cli.conf import conf_dir
from visionlora.common.config import checked
from visionlora.common.rows import to_csv
from visionlora.data.config import DataConfig
from visionlora.data.inputs import paths_of
from visionlora.data.sources.class_folders import class_folders
from visionlora.lora.adapter_files import AdapterFiles
from visionlora.lora.alphas import Alphas
from visionlora.reporting.runs import configurations, find_runs, ranked, ranking_metric
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.runs.log import read_curves, read_rows


@contextlib.contextmanager
def told(where: str = "", kind: type[Exception] = vl.UserError) -> Iterator[None]:
    """Inside, a mistake may be told; it says something, and ``where``."""
    try:
        yield
    except kind as error:
        if not str(error) or where not in str(error):
            raise AssertionError(f"no sentence: {error!r}") from error


TEXT = st.text(max_size=30)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8)
KEYS = (
    *(
        "seed",
        "ckpt_path",
        "lora.r",
        "lora.alpha",
        "lora.dropout",
        "lora.targets",
        "lora.exclude",
        "lora.budget",
        "lora.method",
        "lora.init",
    ),
    *(
        "data.batch_size",
        "data.num_workers",
        "data.image_size",
        "data.crop_scale",
        "data.val_fraction",
        "data.per_class",
        "data.root",
        "data",
    ),
    *("model.name", "model.weights", "model.in_chans", "model.drop_rate", "optim.lr", "optim.name", "optim.warmup", "trainer.max_epochs"),
    *("trainer.precision", "model", "lora", "optim", "trainer", "experiment", "lora.adaptive.interval", "nothing.like.it"),
)
TYPED = (
    st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(
        ["null", "true", "[]", "{}", "[0.5,1]", "{a: 1}", "1e999", "auto", "${oc.env:HOME}", "${x", "???", "'", "-1", "1_0", "0x1f"]
    )
    | TEXT
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties")


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    """An adapter folder as a stranger would hand it on, without seals."""
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", 3, pretrained=False)
    vl.inject(model, vl.LoraConfig(r=2))
    vl.save_adapter(model, folder / "adapter")
    return unsealed(folder / "adapter")


@given(st.sampled_from(KEYS), TYPED)
@example("lora.targets", "[" + "9" * 5000 + "]")
@example("data.root", "\x1b[2J")
def test_what_is_typed(key: str, value: str) -> None:
    with told():
        try:
            refuse_huge_numbers([f"{key}={value}"])
            with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
                composed = hydra.compose("train", [f"{key}={value}"])
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:  # before a job has begun
            raise vl.UserError(explain(error, "train")) from None
        with contextlib.suppress(OmegaConfBaseException):  # told by explain, too
            assert isinstance(checked(TrainConfig, composed), TrainConfig)


@given(st.binary(max_size=300) | JSON.map(lambda values: json.dumps(values).encode()))
@example(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
def test_headers_of_adapters(header: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "adapter_model.safetensors")
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with told(place):
            assert isinstance(AdapterFiles.read(place).layers, dict)


@given(
    st.dictionaries(
        st.sampled_from(["conv1.0", "layer1.0.conv1", "fc", "nothing"]).flatmap(
            lambda layer: st.sampled_from(
                [f"base_model.model.{layer}.{leaf}" for leaf in ("lora_A.weight", "lora_B.weight", "weight", "bias")]
            )
        ),
        st.tuples(st.lists(st.integers(0, 4), max_size=5), st.sampled_from([torch.float32, torch.int64, torch.bfloat16, torch.bool])),
        max_size=5,
    )
)
def test_tensors_of_adapters(adapter: Path, shapes: dict[str, tuple[list[int], torch.dtype]]) -> None:
    model = vl.create_backbone("timm/test_resnet", 3, pretrained=False)
    with tempfile.TemporaryDirectory() as place:
        for name in ("adapter_config.json",):
            Path(place, name).write_bytes((adapter / name).read_bytes())
        tensors = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in shapes.items()}
        safetensors.torch.save_file(tensors, Path(place, "adapter_model.safetensors"))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            vl.load_adapter(model, place)
        except vl.UserError:
            assert model.state_dict().keys() == before.keys()
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def _places(values: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(values, dict):
        return [before]
    return [before, *(place for key, value in values.items() for place in _places(value, (*before, key)))]


def _with(values: Any, place: tuple[Any, ...], value: Any) -> Any:
    return value if not place else {**values, place[0]: _with(values[place[0]], place[1:], value)}


@given(st.data(), JSON)
def test_cards(adapter: Path, data: st.DataObject, value: Any) -> None:
    card = json.loads((adapter / "visionlora.json").read_text())["backbone"]
    changed = _with(card, data.draw(st.sampled_from(_places(card))), value)
    with told(kind=ValueError):
        info = BackboneInfo.from_dict(json.loads(json.dumps(changed)))
        assert len(info.preprocessing.mean) == info.spec.in_chans
        assert len(set(info.classes)) == len(info.classes)


@given(st.data(), JSON)
def test_settings_of_adapters(adapter: Path, data: st.DataObject, value: Any) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings[data.draw(st.sampled_from(sorted(settings)) | TEXT)] = value
    with tempfile.TemporaryDirectory() as place:
        Path(place, "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
        Path(place, "adapter_config.json").write_text(json.dumps(settings))
        with told():
            read = AdapterFiles.read(place)
            read.lora_config()
            assert all(rank.r > 0 for rank in read.ranks().values())


@given(st.text("ab.*+?|()[]{}^$\\0", max_size=40), st.text("ab.0", max_size=60))
def test_patterns_of_adapters(pattern: str, layer: str) -> None:
    started = time.monotonic()
    try:
        found = Alphas({pattern: 2.0}, 1.0).of(layer)
    except ValueError:
        return
    assert time.monotonic() - started < 2
    with_prefix = rf"(.*\.)?({pattern})$"
    if not re.fullmatch(r"[\w.\\^-]*", pattern):  # names are names: a point in one is a point
        assert found == (2.0 if re.match(with_prefix, layer) else 1.0)


@given(
    st.binary(max_size=300)
    | st.text('0123456789,.\n"epochstrain/l-', max_size=300).map(lambda text: f"epoch,step,train/loss\n{text}".encode())
)
def test_logs(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "metrics.csv")
        path.write_bytes(content)
        rows, _ = read_rows(path)
        assert all(isinstance(row["step"], int) for row in rows)
        for epochs, values in read_curves(path).values():
            assert len(epochs) == len(values)


@given(st.lists(st.dictionaries(TEXT.filter(lambda key: "\0" not in key), SCALAR, min_size=1, max_size=3), min_size=1, max_size=4))
def test_tables(rows: list[dict[str, Any]]) -> None:
    """A CSV file has each value where it belongs; nothing in it is a formula."""
    heading, *lines = list(csv.reader(io.StringIO(to_csv(rows).decode(errors="surrogateescape"), newline=""))) or [[]]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    assert [cell.removeprefix("'") for cell in heading] == [key.removeprefix("'") for key in keys]
    for line in lines:
        for cell in (*heading, *line):
            assert not cell or (cell[0] not in "=@\t\r" and (cell[0] not in "+-" or _is_number(cell)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_lists_of_pictures(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "list.csv")
        path.write_bytes(content)
        with told(str(path)):
            assert paths_of([str(path)])


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@given(st.sets(NAMES, min_size=1, max_size=4))
@example({"$a$", "\x1b[2J"})
def test_names_of_folders(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for name in names:
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(root / name / "a.png")
        with told():
            source = class_folders(root, "imagefolder")
            assert set(source.classes) <= names
            assert len(source.parts["train"]) == len(source.classes)
        assert re.fullmatch(r"[\w.-]*", slug("-".join(sorted(names))), re.ASCII)


@given(
    st.binary(max_size=200) | JSON.map(lambda values: json.dumps(values).encode()), st.sampled_from(["config", "split", "ranks", "results"])
)
def test_files_of_runs(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = RunFolder(place)
        getattr(run, name).write_bytes(content)
        with told(place):
            assert getattr(run, f"read_{name}")() is not None


@given(st.data(), JSON)
def test_reports(folder: Path, data: st.DataObject, value: Any) -> None:
    config = {
        "model": {"name": "a"},
        "data": {"name": "fake"},
        "lora": {"r": 1, "method": "lora"},
        "optim": {"lr": 0.1},
        "trainer": {},
        "seed": 0,
    }
    results: dict[str, Any] = {"test/top1": 0.5, "params/trainable": 3, "method": "lora"}
    config = _with(config, data.draw(st.sampled_from(_places(config)[1:])), value)
    results[data.draw(st.sampled_from(sorted(results)) | TEXT)] = data.draw(JSON)
    with tempfile.TemporaryDirectory() as place:
        Path(place, "config.yaml").write_text(json.dumps(config))
        Path(place, "results.json").write_text(json.dumps(results))
        with told():
            runs = find_runs([place])
            best = ranked(configurations(runs), ranking_metric(runs, None))
            assert best[0].runs[0].path == Path(place)
            assert to_csv([{**run.config, **run.results} for run in runs])


def test_data_config_limits() -> None:
    for key, value in (("image_size", 10**6), ("batch_size", 10**9), ("num_images", 10**9)):
        given: dict[str, Any] = {"name": "fake", "root": "x", key: value}
        with pytest.raises(vl.UserError, match=rf"{key}.* must be at most"):
            DataConfig(**given)
