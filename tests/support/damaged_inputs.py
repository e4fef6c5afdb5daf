"""Data sets and weights that are not as they should be, and what becomes of each: `python damaged_inputs.py`.

Four shades of grey are four classes, and the upper left quarter of every image is lighter, so that the pixels
themselves tell the right label and how an image must lie. What is opened is `right`, or `refused` in one line that
names what is wrong, or `wrong`: another label, an image that lies or shines otherwise, one that is missing without a
word, or a traceback.
"""

import contextlib
import functools
import io
import itertools
import json
import shutil
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from pruneboard.benchmark.api import Model
from pruneboard.benchmark.assets import read_weights
from pruneboard.benchmark.data import check_outputs, check_same_classes, open_folder
from pruneboard.benchmark.errors import PruneboardError

CLASSES = ("bird", "cat", "dog", "eel")
SPLITS = ("train", "test")
SIZE = (3, 12, 16)
N_EACH = 3
KINDS = [
    "png",
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "JPG",
    "bmp",
    "gif",
    "webp",
    "avif",
    "jp2",
    "tif",
    "tiff",
    "ppm",
    "tga",
    "pcx",
]


@dataclass(frozen=True)
class Case:
    """One damaged input.

    Attributes:
        kind: class that it is counted in.
        what: what was done.
        change: does it to a folder `mine` that is as it should be.
        names: what a refusal has to say.
        must: the outcome that is wanted; None where both are fine.
        note: what has to be said of what is left out.
        open: judges what became of it, if it is no data set.
    """

    kind: str
    what: str
    change: Callable[[Path], object]
    names: str = ""
    must: str | None = None
    note: str = ""
    open: Callable[[Path], bool] | None = None


def pixels(label: int) -> np.ndarray:
    grey = np.full((12, 16), 40 + 50 * label, np.uint8)
    grey[:6, :8] += 24
    return grey


def picture(label: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(pixels(label)).convert(mode)


def clean(root: Path) -> None:
    for split, (label, name), number in itertools.product(SPLITS, enumerate(CLASSES), range(N_EACH)):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        picture(label).save(root / split / name / f"{number}.png")


def opened_rightly(root: Path, n_lacking: int = 0) -> bool:
    """Open a data set as a run with a network of four outputs does; whether all of its pixels say its labels."""
    dataset = open_folder("mine", root)
    splits = {name: dataset.split(name) for name in SPLITS}
    check_same_classes("mine", {name: split.labels for name, split in splits.items()})
    check_outputs("net", len(CLASSES), dataset, splits["train"].labels)
    for split in splits.values():
        images = split.images(size=SIZE).float().mean(dim=1)
        corner, rest = images[:, :5, :7].mean(dim=(1, 2)), images[:, 7:, 9:].mean(dim=(1, 2))
        if (corner - rest < 12).any() or ((rest - 40) / 50 - torch.from_numpy(split.labels)).abs().max() > 0.2:
            return False
    return sum(map(len, splits.values())) == 2 * N_EACH * len(CLASSES) - n_lacking


def judge(case: Case, root: Path) -> tuple[str, str]:
    """Return what becomes of an input, and what was said."""
    said = io.StringIO()
    clean(root)
    case.change(root)
    with contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            is_right = (case.open or opened_rightly)(root)
        except PruneboardError as error:
            text = str(error)
            return ("refused" if case.names in text and "\n" not in text else "wrong"), text
        # A traceback is what must not be.
        except Exception as error:  # noqa: BLE001
            return "wrong", repr(error)
    text = said.getvalue()
    return ("right" if is_right and case.note in text else "wrong"), text


def cases() -> Iterator[Case]:
    for make in (_strays, _kinds, _depths, _turns, _damages, _flips, _layouts, _parquet, _weights):
        yield from make()


def _strays() -> Iterator[Case]:
    """Folders that are no classes."""

    def put(place: str, content: str) -> Callable[[Path], None]:
        def change(root: Path) -> None:
            for split in SPLITS:
                fill(root / place.replace("*", split))

        def fill(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            if content == "text":
                (folder / "1.xml").write_text("<a/>")
            elif content == "an image":
                picture(1).save(folder / "1.png")
            elif content == "an image below":
                (folder / "1.png").mkdir(exist_ok=True)
                picture(1).save(folder / "1.png" / "thumb.jpg")

        return change

    names = ("@eaDir", "annotations", ".cache", "__MACOSX", "Aside", "zz")
    for name, content in itertools.product(names, ("nothing", "text", "an image", "an image below")):
        for place in (
            name,
            f"{name}/boxes",
            f"train/{name}",
            f"test/{name}",
            f"train/bird/{name}",
            f"*/{name}",
            f"*/cat/{name}",
        ):
            yield Case("stray folders", f"{place} with {content}", put(place, content), note=name)


def _each(change: Callable[[Path, int], None], which: str = "cat/*") -> Callable[[Path], None]:
    """Return what changes the images of a pattern, which get their label."""

    def done(root: Path) -> None:
        for path in sorted(root.glob(f"*/{which}")):
            change(path, CLASSES.index(path.parent.name))

    return done


def _saved(suffix: str, mode: str = "RGB", **options: object) -> Callable[[Path, int], None]:
    def change(path: Path, label: int) -> None:
        path.unlink()
        picture(label, mode).save(path.with_suffix(f".{suffix}"), **options)

    return change


def _kinds() -> Iterator[Case]:
    for kind, which in itertools.product(KINDS, ("cat/*", "cat/0.png")):
        yield Case("image kinds", f"{which} as .{kind}", _each(_saved(kind), which), must="right")
    for suffix, which in itertools.product(("heic", "svg", "CR2"), ("cat/*", "cat/0.png")):
        change = _each(lambda path, _, s=suffix: path.rename(path.with_suffix(f".{s}")), which)
        yield Case("image kinds", f"{which} as .{suffix}", change, names=f".{suffix}`", must="refused")
    lacking = functools.partial(opened_rightly, n_lacking=2)
    for name in ("0", "0.png~", "0.txt", "._0.png"):
        change = _each(lambda path, _, n=name: path.rename(path.with_name(n)), "cat/0.png")
        yield Case("image kinds", f"an image called {name}", change, "", "right", "files of other kinds (2 ", lacking)


def _depths() -> Iterator[Case]:
    def wide(suffix: str, kind: str) -> Callable[[Path, int], None]:
        def change(path: Path, label: int) -> None:
            path.unlink()
            Image.fromarray((pixels(label).astype(kind) * 257).astype(kind)).save(path.with_suffix(f".{suffix}"))

        return change

    for suffix, kind in (("png", "<u2"), ("tif", "<u2"), ("tiff", ">u2"), ("pgm", "<u2"), ("png", ">u2")):
        yield Case("depths", f"{kind} in .{suffix}", _each(wide(suffix, kind), "*/*"), must="right")
    for suffix, kind in (("tif", "<i4"), ("tif", "<f4")):
        yield Case("depths", f"{kind} in .{suffix}", _each(wide(suffix, kind)), names=".tif`", must="refused")
    for suffix, mode in (
        *(("png", mode) for mode in ("L", "P", "LA", "RGBA")),
        *(("tif", mode) for mode in ("L", "CMYK", "YCbCr")),
        *(("jpg", mode) for mode in ("L", "CMYK")),
        ("webp", "RGBA"),
        ("bmp", "P"),
    ):
        yield Case("depths", f"{mode} in .{suffix}", _each(_saved(suffix, mode)), must="right")


def _turns() -> Iterator[Case]:
    def turned(suffix: str, orientation: int) -> Callable[[Path, int], None]:
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}

        def change(path: Path, label: int) -> None:
            image = picture(label)
            if orientation in undo:
                image = image.transpose(Image.Transpose(undo[orientation]))
            exif = Image.Exif()
            exif[0x112] = orientation
            path.unlink()
            image.save(path.with_suffix(f".{suffix}"), exif=exif)

        return change

    for suffix, orientation in itertools.product(("jpg", "png", "webp", "tif", "avif"), range(10)):
        if (suffix, orientation) not in (("avif", 0), ("avif", 9)):
            yield Case("EXIF", f"{orientation} in .{suffix}", _each(turned(suffix, orientation)), must="right")
    for exif in (
        b"Exif\0\0MM\0*",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0nothing",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    ):
        yield Case("EXIF", f"damaged, {exif!r}", _each(_saved("jpg", exif=exif)), must="right")


def _damages() -> Iterator[Case]:
    """Files that are no whole images."""

    def spoil(suffix: str, how: Callable[[bytes], bytes]) -> Callable[[Path, int], None]:
        def change(path: Path, label: int) -> None:
            _saved(suffix)(path, label)
            spoilt = path.with_suffix(f".{suffix}")
            spoilt.write_bytes(how(spoilt.read_bytes()))

        return change

    hows: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda _: b"",
        "a page": lambda _: b"<html><body>404</body></html>",
        "noise": lambda whole: np.random.default_rng(0).bytes(len(whole)),
        "zeros": lambda whole: bytes(len(whole)),
        "half": lambda whole: whole[: len(whole) // 2],
        "its start": lambda whole: whole[:20],
        "its end": lambda whole: whole[20:],
    }
    for suffix, (what, how) in itertools.product(("png", "jpg", "bmp", "gif", "webp", "tif", "ppm"), hows.items()):
        change = _each(spoil(suffix, how), "cat/0.png")
        yield Case("damaged files", f".{suffix}: {what}", change, names=f"cat/0.{suffix}`")
    yield Case("damaged files", "a link to nothing", _each(_link, "cat/0.png"), names="cat/0.png`", must="refused")


def _link(path: Path, _: int) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _flips() -> Iterator[Case]:
    """Bytes that were changed: only PNG has checksums, so in other kinds pixels change and nobody can tell."""

    def flip(suffix: str, seed: int) -> Callable[[Path, int], None]:
        def change(path: Path, label: int) -> None:
            _saved(suffix)(path, label)
            spoilt = path.with_suffix(f".{suffix}")
            whole = bytearray(spoilt.read_bytes())
            whole[int(np.random.default_rng(seed).integers(len(whole) // 2, len(whole)))] ^= 0x55
            spoilt.write_bytes(whole)

        return change

    for suffix, seed in itertools.product(("png", "jpg", "bmp"), range(4)):
        yield Case(f"changed bytes in .{suffix}", f"seed {seed}", _each(flip(suffix, seed), "cat/0.png"))


def _layouts() -> Iterator[Case]:
    """Splits and classes that are not those of the network, or not where they belong."""

    def remove(*places: str) -> Callable[[Path], None]:
        return lambda root: [shutil.rmtree(root / place) for place in places]

    def move(source: str, target: str) -> Callable[[Path], None]:
        def change(root: Path) -> None:
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (root / source).rename(root / target)

        return change

    def flat(root: Path) -> None:
        for name in CLASSES:
            (root / "train" / name).rename(root / name)
        for split in SPLITS:
            shutil.rmtree(root / split)

    def loose(root: Path) -> None:
        for path in sorted(root.glob("*/*/*")):
            path.rename(path.parent.parent / f"{path.parent.name}{path.name}")
        for name in CLASSES:
            [(root / split / name).rmdir() for split in SPLITS]

    def emptied(*places: str) -> Callable[[Path], None]:
        return lambda root: [path.unlink() for place in places for path in (root / place).iterdir()]

    lacking = functools.partial(opened_rightly, n_lacking=2 * N_EACH)
    for name in CLASSES:
        yield Case("layouts", f"{name} missing in test", remove(f"test/{name}"), f"`{name}`", "refused")
        yield Case("layouts", f"{name} missing in train", remove(f"train/{name}"), f"`{name}`", "refused")
        both = (f"train/{name}", f"test/{name}")
        yield Case("layouts", f"{name} missing in both", remove(*both), "3 classes", "refused")
        yield Case("layouts", f"{name} empty in test", emptied(f"test/{name}"), f"`{name}`", "refused")
        yield Case("layouts", f"{name} empty in both", emptied(*both), must="right", open=lacking)
        change = move(f"test/{name}", f"test/{name.title()}")
        yield Case("layouts", f"{name} capital in test", change, f"`{name}`", "refused")
        change = move(f"train/{name}", f"train/{name}/more")
        yield Case("layouts", f"{name} deeper", lambda root, n=name: _deepen(root / "train" / n), "deeper", "refused")
    three = [f"{split}/{name}" for split in SPLITS for name in CLASSES[:3]]
    yield Case("layouts", "one class of four", remove(*three), "1 classes", "refused")
    both = lambda root: [(root / split / "labels").mkdir() for split in SPLITS]  # noqa: E731
    yield Case("layouts", "an empty folder in both", both, "5 classes", "refused")
    yield Case("layouts", "no test", remove("test"), "`test`", "refused")
    yield Case("layouts", "no train", remove("train"), "`train`", "refused")
    yield Case("layouts", "train called training", move("train", "training"), "`train`", "refused")
    yield Case("layouts", "classes and no splits", flat, "no splits; move some images of each class", "refused")
    yield Case("layouts", "images without classes", loose, "images without classes", "refused")
    yield Case("layouts", "nothing", remove("train", "test"), "holds neither", "refused")
    yield Case("layouts", "a folder around it", _wrap, "deeper", "refused")
    yield Case("layouts", "a third split", lambda root: shutil.copytree(root / "test", root / "val"), must="right")
    yield Case(
        "layouts", "a folder that is called an image", lambda root: (root / "train/cat/x.png").mkdir(), must="right"
    )
    yield Case("layouts", "a file beside the splits", lambda root: (root / "labels.csv").touch(), must="right")


def _deepen(folder: Path) -> None:
    (folder / "more").mkdir()
    for path in sorted(folder.glob("*.png")):
        path.rename(folder / "more" / path.name)


def _wrap(root: Path) -> None:
    (root / "inner").mkdir()
    for split in SPLITS:
        (root / split).rename(root / "inner" / split)


def _parquet() -> Iterator[Case]:
    def write(**changes: dict) -> Callable[[Path], None]:
        def change(root: Path) -> None:
            for split in SPLITS:
                shutil.rmtree(root / split)
                labels = [label for label in range(4) for _ in range(N_EACH)]
                own = {"labels": labels, "stored": labels, "names": list(CLASSES), "bytes": None} | changes.get(
                    split, {}
                )
                cells = []
                for label in own["labels"]:
                    buffer = io.BytesIO()
                    picture(label).save(buffer, "PNG")
                    cells.append({"bytes": buffer.getvalue(), "path": None})
                if own["bytes"] is not None:
                    cells[0]["bytes"] = own["bytes"]
                kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
                table = pa.table({"image": pa.array(cells, kind), "label": pa.array(own["stored"], pa.int64())})
                if own["names"]:
                    features = {"info": {"features": {"label": {"names": own["names"]}}}}
                    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
                pq.write_table(table, root / f"{split}-00000-of-00001.parquet")

        return change

    few = [0] * 4 + [1] * 4 + [2] * 4
    turned = ["cat", "bird", "dog", "eel"]
    nameless = {"names": None}
    five = [*CLASSES, "fox"]
    yield Case("parquet", "as it should be", write(), must="right")
    yield Case("parquet", "without names", write(train=nameless, test=nameless), must="right")
    yield Case("parquet", "names in one split", write(test=nameless), must="right")
    yield Case("parquet", "names in another order", write(test={"names": turned}), "the same classes", "refused")
    yield Case("parquet", "a name more", write(train={"names": five}, test={"names": five}), "5 classes", "refused")
    lacking = {"labels": few, "stored": few}
    for split, other in (SPLITS, SPLITS[::-1]):
        change = write(**{split: lacking})
        yield Case("parquet", f"a class missing in {split}", change, f"label 3 of `mine` is in `{other}`", "refused")
    for value, names in itertools.product((-1, 4, 99), (True, False)):
        own = {"stored": [value] * 12, "names": list(CLASSES) if names else None}
        yield Case("parquet", f"label {value}, names: {names}", write(train=own, test=own), str(value), "refused")
    yield Case("parquet", "no label", write(test={"stored": [None] * 12}), "label", "refused")
    for what in (b"", b"<html>", b"\x89PNG\r\n\x1a\n"):
        yield Case("parquet", f"an image that is {what!r}", write(test={"bytes": what}), "row 0 of `test`", "refused")


def _net(n_classes: int = 4) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, n_classes)).eval()


def _weights() -> Iterator[Case]:
    model = Model(
        name="net", version=1, family="VGG", description="", source="", licence="", build=_net,
        granularities=("filters",), input_size=(3, 3, 3), mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    state = {key: value + 1 if value.is_floating_point() else value for key, value in _net().state_dict().items()}

    def loads(name: str) -> Callable[[Path], bool]:
        def opened(root: Path) -> bool:
            found = model.with_weights(name, read_weights(root / name)).state_dict()
            return all(torch.equal(found[key], state[key]) for key in state)

        return opened

    def case(what: str, content: object, names: str = "", name: str = "w.pth", **options: bool) -> Case:
        def change(root: Path) -> None:
            if isinstance(content, bytes):
                (root / name).write_bytes(content)
            else:
                torch.save(content, root / name, **options)

        return Case("weights", what, change, names, "refused" if names else "right", open=loads(name))

    def prefixed(prefix: str) -> dict[str, torch.Tensor]:
        return {prefix + key: value for key, value in state.items()}

    script, buffer = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(_net()), script)
    torch.save(state, buffer)
    tensors, whole = safetensors.torch.save(state), buffer.getvalue()
    yield case("safetensors", tensors, name="w.safetensors")
    yield case("safetensors called .pth", tensors)
    for name in ("w.pth", "w.pt", "w.th", "w.bin", "w.ckpt", "w.safetensors"):
        yield case(f"pickled, {name}", state, name=name)
    yield case("pickled as formerly", state, _use_new_zipfile_serialization=False)
    for key in ("state_dict", "model", "model_state_dict"):
        yield case(f"under `{key}`", {key: state, "epoch": 3, "optimizer": {"lr": 0.1}})
        yield case(f"under `{key}` with a prefix", {key: prefixed("module."), "epoch": 3})
    yield case("module.", prefixed("module."))
    yield case("_orig_mod.", prefixed("_orig_mod."))
    yield case("without counts", {key: value for key, value in state.items() if "num_batches" not in key})
    yield case("under another key", {"net": state, "epoch": 3}, "`net` is a `dict`")
    yield case("a whole network", _net(), "network.state_dict()")
    yield case("a script", script.getvalue(), "network.state_dict()")
    yield case("a list", list(state.values()), "got a `list`")
    yield case("a page", b"<html>", "get it again")
    yield case("empty", b"", "get it again")
    for part in (0.001, 0.01, 0.2, 0.5, 0.99):
        yield case(f"{part} of a pickle", whole[: round(part * len(whole))], "get it again")
        yield case(f"{part} of safetensors", tensors[: round(part * len(tensors))], "get it again")
    for n_classes in (1, 3, 5, 1000):
        yield case(f"a head of {n_classes}", _net(n_classes).state_dict(), "its head has another number of classes")
    yield case("another network", nn.Linear(2, 2).state_dict(), "name the weights of this network")
    yield case("no tensors", {}, "name the weights of this network")
    yield Case("weights", "absent", lambda _: None, "get it again", "refused", open=loads("absent.pth"))


def run(chosen: Callable[[int], bool] = lambda _: True) -> list[tuple[Case, str, str]]:
    """Judge the cases of some numbers; return each with its outcome and what was said."""
    found = []
    for number, case in enumerate(cases()):
        if chosen(number):
            with tempfile.TemporaryDirectory() as folder:
                found.append((case, *judge(case, Path(folder) / "mine")))
    return found


def main() -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case, outcome, said in run():
        counts[case.kind][outcome] += 1
        if outcome == "wrong" or outcome != (case.must or outcome):
            print(f"{case.kind}, {case.what}: {outcome}, wanted {case.must}; {said}")
    for kind, outcomes in counts.items():
        print(f"{kind:24}" + "".join(f"{outcomes[outcome]:6} {outcome}" for outcome in ("right", "refused", "wrong")))
    print(f"{sum(outcomes.total() for outcomes in counts.values())} inputs")


if __name__ == "__main__":
    main()
