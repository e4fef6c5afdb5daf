import hashlib
import http.server
import json
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pruneboard.benchmark.assets import (
    Weights,
    cache_folder,
    check_sha256,
    data_folders,
    download,
    file_sha256,
    is_file,
    is_folder,
    load_weights,
    read_weights,
    tensors_digest,
)
from pruneboard.benchmark.errors import AssetError

SHARED = {
    "cifar_resnet20": (
        "e69504a11fca90aff7e0c93356aca0dbf529359a8ecc096f8ce4c376b4c1825f",
        "aeaf2e2b9592408bfb2540d44dba0be45785089ca0d34fa6f3244ec2100c6cbb",
        97,
    ),
    "cifar_resnet56": (
        "76303a5b09d163e608657bb7a4fe30e8083e0f6277f1bd34d04874b52198d874",
        "dce0dac44d8731f6abea2119d32707b781f71d8090233d0fc69f89e2fdd95307",
        277,
    ),
}


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch):
    monkeypatch.delenv("PRUNEBOARD_WEIGHTS", raising=False)
    monkeypatch.delenv("PRUNEBOARD_DATA", raising=False)


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.running_mean": torch.randn(4, generator=generator),
        "bn.num_batches_tracked": torch.tensor(7),
    }


@pytest.fixture
def weights(tmp_path, state):
    """Weights shipped in a folder."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "net.safetensors")
    sha256 = file_sha256(folder / "net.safetensors")
    return Weights(file="net.safetensors", digest=tensors_digest(state), sha256=sha256, package=folder)


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which its files can be fetched."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def slow_digest(state):
    """The digest as its docstring words it, element by element."""
    text = bytearray()
    codes = {torch.float32: "<f", torch.int64: "<q", torch.float16: "<e", torch.bool: "<?", torch.uint8: "<B"}
    for name in sorted(state):
        tensor = state[name]
        dtype = str(tensor.dtype).split(".")[1]
        text += json.dumps([name, dtype, list(tensor.shape)], separators=(",", ":")).encode() + b"\n"
        for value in tensor.flatten().tolist():
            text += struct.pack(codes[tensor.dtype], value)
    return hashlib.sha256(text).hexdigest()


def leftovers():
    return [path for path in cache_folder().rglob("*") if path.is_file() or path.name.startswith(".fetch")]


def test_tensors_digest_is_what_it_says(state):
    state |= {
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "flags": torch.tensor([[True], [False]]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "none": torch.empty(0, 3),
        "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
        "grad": torch.ones(2).requires_grad_().detach(),
    }
    assert tensors_digest(state) == slow_digest(state)
    assert tensors_digest(dict(reversed(state.items()))) == tensors_digest(state)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {**s, "more": torch.zeros(0)},
        lambda s: {("x" if k == "conv.weight" else k): v for k, v in s.items()},
        lambda s: {**s, "bn.running_mean": s["bn.running_mean"].reshape(2, 2)},
        lambda s: {**s, "bn.running_mean": s["bn.running_mean"].view(torch.int32)},
        lambda s: {**s, "bn.running_mean": s["bn.running_mean"].nextafter(torch.tensor(9.0))},
    ],
)
def test_tensors_digest_sees_every_change(state, change):
    assert tensors_digest(change(state)) != tensors_digest(state)


@pytest.mark.parametrize("name", SHARED)
def test_published_weights(name, shared_weights, monkeypatch):
    sha256, digest, n_tensors = SHARED[name]
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(shared_weights))
    state = load_weights(Weights(file=f"{name}.safetensors", digest=digest, sha256=sha256))
    assert len(state) == n_tensors
    assert slow_digest(state) == digest
    assert file_sha256(shared_weights / f"{name}.safetensors") == sha256


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEBOARD_CACHE", "/a/b")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv("PRUNEBOARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/pruneboard")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pruneboard"


def test_data_folders(monkeypatch, tmp_path):
    assert data_folders() == ()
    monkeypatch.setenv("PRUNEBOARD_DATA", f"{tmp_path}:{tmp_path.parent}:")
    assert data_folders() == (tmp_path, tmp_path.parent)
    monkeypatch.setenv("PRUNEBOARD_DATA", f"{tmp_path}:{tmp_path}/none")
    with pytest.raises(AssetError, match=r"`PRUNEBOARD_DATA` must name folders, but `.*/none` is none; correct it or"):
        data_folders()


def test_a_home_folder_that_is_none_is_named(weights, monkeypatch):
    message = "`{}` must name folders that can be found, but there is no home folder for `~nouser/x`; set it to whole"
    for variable, look in {
        "PRUNEBOARD_DATA": data_folders,
        "PRUNEBOARD_WEIGHTS": lambda: load_weights(weights),
        "PRUNEBOARD_CACHE": cache_folder,
    }.items():
        with monkeypatch.context() as patch:
            patch.setenv(variable, "~nouser/x")
            with pytest.raises(AssetError, match=message.format(variable)):
                look()
    monkeypatch.delenv("PRUNEBOARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~nouser/x")
    with pytest.raises(AssetError, match=message.format("XDG_CACHE_HOME")):
        cache_folder()


def test_file_sha256_follows_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"other")
    assert file_sha256(path) == hashlib.sha256(b"other").hexdigest()
    check_sha256(path, hashlib.sha256(b"other").hexdigest(), "x")
    with pytest.raises(AssetError, match=r"must have the sha256 abc, got [0-9a-f]{64}; replace it\.$"):
        check_sha256(path, "abc", "replace it")
    with pytest.raises(AssetError, match=r"`.*/none` must be a readable file, but FileNotFoundError: No such file"):
        file_sha256(tmp_path / "none")
    with pytest.raises(AssetError, match="must be a readable file, but IsADirectoryError"):
        file_sha256(tmp_path)


def test_is_file(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert is_file(tmp_path / "file")
    assert not is_file(tmp_path)
    assert is_folder(tmp_path)
    assert not is_folder(tmp_path / "file")
    assert not is_file(tmp_path / "none")
    assert not is_file(tmp_path / "file" / "below")
    with pytest.raises(AssetError, match=r"`.*/loop` must be readable, but .*; correct its permissions"):
        is_file(tmp_path / "loop")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_shipped_weights_win(weights, state, monkeypatch, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"another file")
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(tmp_path))
    assert same(load_weights(weights), state)


def test_named_folder(weights, state, monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", f"{tmp_path}:{weights.package}")
    assert same(load_weights(replace(weights, package=None)), state)
    (tmp_path / "net.safetensors").write_bytes(b"another file")
    with pytest.raises(AssetError, match=r"`.*/net.safetensors` must have the sha256 [0-9a-f]{64}, got .*; replace it"):
        load_weights(replace(weights, package=None))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(AssetError, match=r"`PRUNEBOARD_WEIGHTS` must name folders, but `.*/none` is none"):
        load_weights(weights)


def test_nowhere(weights, monkeypatch, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    message = (
        rf"the weights `other.safetensors` must be at hand, but there is no `{weights.package}/other.safetensors`, "
        rf"`{cache_folder()}/weights/other.safetensors` \(`PRUNEBOARD_WEIGHTS` is not set\), and they are not "
        r"published; put the file into a folder and name that folder in `PRUNEBOARD_WEIGHTS`\."
    )
    with pytest.raises(AssetError, match=message):
        load_weights(replace(weights, file="other.safetensors"))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(empty))
    with pytest.raises(AssetError, match=rf"no `.*`, `{empty}/other.safetensors`, `.*`, and they are not published"):
        load_weights(replace(weights, file="other.safetensors"))


def test_damaged_files(weights, tmp_path):
    path = weights.package / "net.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AssetError, match=r"must have the sha256 .*, got .*; replace it by the published file"):
        load_weights(weights)
    damaged = replace(weights, sha256=file_sha256(path))
    with pytest.raises(
        AssetError, match=r"`.*` must be a whole safetensors file or state dict, but SafetensorError: .*; get it"
    ):
        load_weights(damaged)


def test_wrong_tensors(weights):
    with pytest.raises(
        AssetError, match=r"the tensors of `.*/net.safetensors` must have the digest 0, got [0-9a-f]{64}"
    ):
        load_weights(replace(weights, digest="0"))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_fetch_pickle(weights, state, served, wrapped, legacy):
    folder, address = served
    published = {f"module.{key}": value for key, value in state.items()}
    published = {"state_dict": published, "best_prec1": 91.7} if wrapped else published
    torch.save(published, folder / "net-1234.th", _use_new_zipfile_serialization=not legacy)
    fetched = replace(
        weights,
        package=None,
        url=f"{address}/net-1234.th",
        url_sha256=file_sha256(folder / "net-1234.th")[:8],
        url_prefix="module.",
    )
    assert same(load_weights(fetched), state)
    assert [path.name for path in leftovers()] == ["net.safetensors"]
    (folder / "net-1234.th").unlink()
    assert same(load_weights(fetched), state)


def test_fetch_safetensors(weights, state, served):
    folder, address = served
    (weights.package / "net.safetensors").rename(folder / "published.safetensors")
    fetched = replace(weights, package=None, url=f"{address}/published.safetensors")
    with pytest.raises(AssetError, match=r"must have the sha256 0, got .*; nothing was kept"):
        load_weights(replace(fetched, sha256="0"))
    with pytest.raises(AssetError, match=r"the tensors of `http.*` must have the digest 0, got .*; nothing was kept"):
        load_weights(replace(fetched, digest="0"))
    assert leftovers() == []
    assert same(load_weights(fetched), state)
    assert same(load_weights(replace(fetched, url=None)), state)
    (cache_folder() / "weights" / "net.safetensors").write_bytes(b"scratched")
    with pytest.raises(AssetError, match=r"got .*; delete it, and it is fetched again"):
        load_weights(fetched)


def test_fetch_file_address(weights, state):
    url = (weights.package / "net.safetensors").as_uri()
    assert same(load_weights(replace(weights, package=None, url=url)), state)


def test_fetch_failures(weights, state, served):
    folder, address = served
    base = replace(weights, package=None, url_sha256="00")
    torch.save(state, folder / "net.th")
    must = (
        r"the weights `net.safetensors` must be at hand, but there is no `.*` \(`PRUNEBOARD_WEIGHTS` is not set\), and "
    )
    put = "; put the file into a folder and name that folder in `PRUNEBOARD_WEIGHTS`, or try again with a network"
    for url, reason in {
        f"{address}/net.th": f"what {address}/net.th delivers must have a sha256 that starts with 00, got .*",
        f"{address}/none.th": f"{address}/none.th could not be fetched: HTTP 404 File not found",
        f"{address}/cut/net.th": f"{address}/cut/net.th could not be fetched: 9 of 1000 bytes arrived",
        "http://127.0.0.1:1/net.th": "http://127.0.0.1:1/net.th could not be fetched: .*refused.*",
        "file:///none.th": "file:///none.th could not be fetched: .*No such file.*",
        "ftp://127.0.0.1/net.th": "`url` must start with http://, https:// or file://, got `ftp://127.0.0.1/net.th`.",
    }.items():
        with pytest.raises(AssetError, match=must + reason + put):
            load_weights(replace(base, url=url))
        assert leftovers() == []


class Callable:
    pass


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
def test_a_pickled_file_at_hand_is_read_whatever_its_name(weights, state, tmp_path, monkeypatch, wrap, legacy):
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(tmp_path))
    for name in ("net.pth", "mine.safetensors"):
        torch.save(wrap(state), tmp_path / name, _use_new_zipfile_serialization=not legacy)
        assert same(load_weights(replace(weights, file=name, sha256="", package=None)), state)


def test_what_no_state_dict_is_says_what_to_do(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(
        AssetError, match=r"whole.pth` must hold tensors only, but .*; where you trust it, .*state_dict"
    ):
        read_weights(tmp_path / "whole.pth")
    torch.save({"net": {"a": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(AssetError, match="must hold tensors only, but `net` is a `dict`; save `network.state_dict"):
        read_weights(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must be a state dict, got a `list`"),
        ({"weight": 1}, "must hold tensors only, but `weight` is a `int`"),
        (
            {"a": torch.ones(1), "module.a": torch.ones(1)},
            "without `module.` each key of .* must be unique, got `a` twice",
        ),
        (
            {"a": Callable()},
            "must hold tensors only, but has objects of other kinds, .*; where you trust it, .* save `network.state",
        ),
    ],
)
def test_fetch_other_content(weights, served, content, message):
    folder, address = served
    torch.save(content, folder / "net.pth")
    with pytest.raises(AssetError, match=message):
        load_weights(replace(weights, package=None, url=f"{address}/net.pth", url_prefix="module."))
    assert leftovers() == []


def test_fetch_truncated_pickle(weights, state, served):
    folder, address = served
    torch.save(state, folder / "net.th")
    (folder / "net.th").write_bytes((folder / "net.th").read_bytes()[:-200])
    with pytest.raises(
        AssetError, match="must be a whole safetensors file or state dict, but RuntimeError: .*; get it again"
    ):
        load_weights(replace(weights, package=None, url=f"{address}/net.th"))
    assert leftovers() == []


def test_fetch_ignores_a_batch_count_that_is_a_number(state, served, weights):
    folder, address = served
    torch.save({**state, "bn.num_batches_tracked": 7}, folder / "net.th")
    del state["bn.num_batches_tracked"]
    wanted = replace(weights, package=None, url=f"{address}/net.th", digest=tensors_digest(state))
    assert same(load_weights(wanted), state)


def test_download_keeps_what_was_there(served, tmp_path):
    folder, address = served
    (folder / "a").write_bytes(b"new")
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(AssetError, match="must have a sha256 that starts with ff"):
        download(f"{address}/a", target, "ff")
    assert target.read_bytes() == b"old"
    download(f"{address}/a", target, hashlib.sha256(b"new").hexdigest().upper())
    assert target.read_bytes() == b"new"


def test_cache_that_cannot_be_made(weights, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        AssetError, match=r"the folder `.*` must be writable, but .*; name another one in `PRUNEBOARD_CACHE`"
    ):
        load_weights(replace(weights, package=None, url="file:///none.th"))
