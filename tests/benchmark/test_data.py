import dataclasses
import hashlib
import http.server
import io
import json
import os
import threading
from collections.abc import Iterator

import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
import torch
from PIL import Image

from pruneboard.benchmark.assets import cache_folder, file_sha256
from pruneboard.benchmark.data import (
    check_outputs,
    check_same_classes,
    datasets,
    draw_reference,
    find_dataset,
    open_dataset,
)
from pruneboard.benchmark.data._points import spiral
from pruneboard.benchmark.data._records import records
from pruneboard.benchmark.errors import AssetError, UnknownNameError

RECORDED = {
    "cifar10-lossless": {"train": 4000, "test": 1000},
    "cifar10-jpeg": {"train": 50000, "test": 10000},
    "imagenette": {"train": 9469, "validation": 3925},
}
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RGB = (3, 4, 4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder that is named, and empty."""
    path = tmp_path / "data"
    path.mkdir()
    monkeypatch.setenv("PRUNEBOARD_DATA", str(path))
    return path


@pytest.fixture
def shared(shared_data, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    return shared_data


def encoded(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def pictures(n, seed=0, shape=(4, 4, 3)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write(path, images, labels, *, image="img", names=None, row_group_size=2):
    """Write a parquet file as the `datasets` library does."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [None if b is None else {"bytes": b, "path": "x.png"} for b in images]
    table = pa.table({image: pa.array(cells, kind), "label": pa.array(labels, pa.int64())})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_files_and_splits(name, shared):
    opened = open_dataset(name)
    assert opened.name == name
    parts = []
    for split, n_images in sorted(RECORDED[name].items()):
        path = shared / name / f"{split}-00000-of-00001.parquet"
        parts.append([split, path.name, hashlib.sha256(path.read_bytes()).hexdigest()])
        labels = opened.split(split).labels
        assert len(opened.split(split)) == len(labels) == n_images
        assert labels.dtype == np.int64
        assert labels.tolist() == pq.read_table(path, columns=["label"]).column(0).to_pylist()
    text = json.dumps(parts, separators=(",", ":"))
    assert opened.digest == hashlib.sha256(text.encode()).hexdigest()
    assert opened.classes == (None if name == "imagenette" else CIFAR)


def test_cifar_pixels(shared):
    split = open_dataset("cifar10-lossless").split("test")
    rows = pq.read_table(shared / "cifar10-lossless" / "test-00000-of-00001.parquet").column("img").to_pylist()
    expected = np.stack([np.array(Image.open(io.BytesIO(row["bytes"]))) for row in rows]).transpose(0, 3, 1, 2)
    pixels = split.images(size=(3, 32, 32))
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert np.array_equal(pixels.numpy(), expected)
    chosen = [999, 0, 500, 0, 3]
    assert np.array_equal(split.images(chosen, size=(3, 32, 32)).numpy(), expected[chosen])


def test_rows_across_row_groups_grey_and_resize(shared):
    split = open_dataset("imagenette").split("validation")
    cells = pq.read_table(shared / "imagenette" / "validation-00000-of-00001.parquet").column("image").to_pylist()
    images = [Image.open(io.BytesIO(cell["bytes"])) for cell in cells]
    grey = next(i for i, image in enumerate(images) if image.mode == "L")
    chosen = [3924, 499, grey, 500]
    full, small = split.images(chosen, size=(3, 224, 224)), split.images(chosen, size=(3, 40, 60))
    for position, row in enumerate(chosen):
        image = images[row].convert("RGB")
        assert np.array_equal(full[position].permute(1, 2, 0).numpy(), np.array(image))
        resized = np.array(image.resize((60, 40), Image.Resampling.BILINEAR))
        assert np.array_equal(small[position].permute(1, 2, 0).numpy(), resized)
    assert torch.equal(full[2, 0], full[2, 1])


def test_digits():
    values, labels = sklearn.datasets.load_digits(return_X_y=True)
    opened = open_dataset("digits")
    assert opened.classes == tuple("0123456789")
    parts = []
    for split, rows in {
        "test": [i for i in range(1797) if i % 3 == 0],
        "train": [i for i in range(1797) if i % 3 != 0],
    }.items():
        pixels = opened.split(split).images(size=(1, 8, 8))
        expected = [[round(value * 255 / 16) for value in values[row]] for row in rows]
        assert len(pixels) == {"test": 599, "train": 1198}[split]
        assert pixels.reshape(-1, 64).tolist() == expected
        assert opened.split(split).labels.tolist() == labels[rows].tolist()
        stored = bytes(value for row in expected for value in row)
        parts.append([split, "images", hashlib.sha256(stored).hexdigest()])
        parts.append([split, "labels", hashlib.sha256(labels[rows].astype("<i8").tobytes()).hexdigest()])
    assert opened.digest == hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
    assert opened.split("test").images([5], size=(3, 16, 16)).shape == (1, 3, 16, 16)
    split = opened.split("test")
    assert torch.equal(split.inputs([7, 2], size=(1, 8, 8)), split.images([7, 2], size=(1, 8, 8)).float() / 255)


def test_digits_need_no_folder(monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", "/none")
    assert open_dataset("digits").name == find_dataset(("digits", "cifar10")).name == "digits"


@pytest.mark.parametrize("image", ["img", "image"])
def test_parquet_without_record(folder, image):
    pixels = pictures(7)
    for shard, part in enumerate((slice(0, 3), slice(3, 7))):
        path = folder / "mine" / f"train-{shard:05}-of-00002.parquet"
        write(path, [encoded(p) for p in pixels[part]], [0, 1, 2, 0, 1, 2, 0][part], image=image, names=["a", "b", "c"])
    opened = open_dataset("mine")
    split = opened.split("train")
    assert opened.classes == ("a", "b", "c")
    assert split.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert np.array_equal(split.images(size=RGB).permute(0, 2, 3, 1).numpy(), pixels)
    order = np.array([6, 2, 3, 2, 0])
    assert np.array_equal(split.images(order, size=RGB).permute(0, 2, 3, 1).numpy(), pixels[order])
    assert split.images([], size=RGB).shape == (0, *RGB)


POINTS = {"toy_moons": 2, "toy_circles": 2, "toy_spiral": 4}
PIXEL = (2, 1, 1)


@pytest.mark.parametrize(("name", "n_classes"), POINTS.items())
def test_points_of_the_toy_data_sets(name, n_classes):
    opened = open_dataset(name)
    parts, seen = [], []
    for split, n_per_class in {"reference": 5000, "test": 5000, "train": 500}.items():
        points, labels = opened.split(split).inputs(size=PIXEL), opened.split(split).labels
        assert points.dtype == torch.float32
        assert points.shape == (n_per_class * n_classes, *PIXEL)
        assert np.bincount(labels).tolist() == [n_per_class] * n_classes
        parts.append([split, "points", hashlib.sha256(points.numpy().astype("<f4").tobytes()).hexdigest()])
        parts.append([split, "labels", hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()])
        seen.append(points.flatten(1))
    assert opened.digest == hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
    assert len(opened.classes) == n_classes
    # The networks were trained on the one, references are drawn from the other. The spiral's arms begin at one point.
    reference, _, train = ({tuple(point) for point in points.tolist()} for points in seen)
    assert reference & train <= {(0.0, 0.0)}


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("toy_moons", sklearn.datasets.make_moons, {}),
        ("toy_circles", sklearn.datasets.make_circles, {"factor": 0.3}),
    ],
)
def test_moons_and_circles_are_scikit_learns_with_the_papers_noise(name, make, options):
    for split, seed, n_points in (("train", 0, 1000), ("reference", 1, 10000)):
        points, labels = make(n_points, noise=0.1, random_state=seed, **options)
        found = open_dataset(name).split(split)
        assert found.labels.tolist() == labels.tolist()
        assert np.array_equal(found.inputs(size=PIXEL).flatten(1).numpy(), points.astype(np.float32))


def test_the_test_split_has_additional_noise():
    clean, labels = sklearn.datasets.make_circles(10000, noise=None, factor=0.3, shuffle=False)
    radius = np.linalg.norm(clean, axis=1)
    assert set(np.round(radius[labels == 1], 9)) == {0.3}
    test = open_dataset("toy_circles").split("test")
    inner = test.inputs(size=PIXEL).flatten(1).numpy()[test.labels == 1]
    # Centred circle of radius 0.3 plus two independent noises: variance of a coordinate 0.3^2 / 2 + 0.1^2 + 0.3^2.
    assert inner.std(axis=0) == pytest.approx(np.sqrt(0.3**2 / 2 + 0.1**2 + 0.3**2), rel=0.03)


def test_arms_of_the_spiral_turn_by_four_radians_with_the_noise_of_the_docstring():
    points, labels = spiral(2000, np.random.default_rng(5))
    for arm in range(4):
        x, y = points[labels == arm].T
        radius = np.hypot(x, y)
        np.testing.assert_allclose(radius, np.arange(2000) / 1999, atol=1e-12)
        noise = np.arctan2(x[1:], y[1:]) - 4 * (arm + radius[1:])
        noise = (noise + np.pi) % (2 * np.pi) - np.pi
        assert noise.std() == pytest.approx(0.2, rel=0.05)
        assert abs(noise.mean()) < 0.02


def test_points_are_taken_row_by_row_and_by_networks_for_points_only():
    split = open_dataset("toy_moons").split("train")
    everything = split.inputs(size=PIXEL)
    assert torch.equal(split.inputs([9, 0, 9], size=PIXEL), everything[[9, 0, 9]])
    with pytest.raises(AssetError, match=r"`train` of `toy_moons` holds points, so the `input_size` of a network must"):
        split.inputs(size=(1, 8, 8))
    with pytest.raises(AssetError, match=r"rows of `train` of `toy_moons` must be a list of numbers in \[0, 1000\)"):
        split.inputs([1000], size=PIXEL)


def test_parquet_without_class_names(folder):
    write(folder / "mine" / "train-0.parquet", [encoded(pictures(1)[0])], [700])
    assert open_dataset("mine").classes is None
    assert open_dataset("mine").split("train").labels.tolist() == [700]


def test_image_folder(folder):
    pixels = pictures(5)
    places = ["train/b/1.png", "train/a/2.png", "train/a/1.PNG", "test/b/x.png", "train/b/0.png"]
    for place, array in zip(places, pixels, strict=True):
        (folder / "mine" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / place).write_bytes(encoded(array))
    (folder / "mine" / "train" / "a" / "notes.txt").touch()
    (folder / "mine" / ".hidden").mkdir()
    (folder / "mine" / "test" / "a").mkdir()
    (folder / "mine" / "test" / "a" / "0.png").write_bytes(encoded(pixels[0]))
    opened = open_dataset("mine")
    split = opened.split("train")
    assert opened.classes == ("a", "b")
    assert split.labels.tolist() == [0, 0, 1, 1]
    assert opened.split("test").labels.tolist() == [0, 1]
    assert np.array_equal(split.images(size=RGB).permute(0, 2, 3, 1).numpy(), pixels[[2, 1, 4, 0]])
    before = opened.digest
    (folder / "mine" / places[0]).write_bytes(encoded(pixels[1]))
    assert open_dataset("mine").digest != before
    (folder / "mine" / places[0]).unlink()
    with pytest.raises(AssetError, match=r"`.*/train/b/1\.png` must be a readable file"):
        split.images(size=RGB)
    for path in (folder / "mine" / "test").glob("*/*"):
        path.unlink()
    with pytest.raises(UnknownNameError, match="`mine` has no split `test`; it has train"):
        open_dataset("mine").split("test")


def image_folder(root, classes=("a", "b"), splits=("train", "test")):
    """Write one image into each class of each split."""
    for split in splits:
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0.png").write_bytes(encoded(pictures(1, number)[0]))
    return root


def test_folders_that_are_no_classes_shift_no_label_and_are_named_once(folder, capsys):
    root = image_folder(folder / "mine")
    before = open_dataset("mine")
    (root / "train" / "@eaDir").mkdir()
    (root / "annotations" / "boxes").mkdir(parents=True)
    (root / "annotations" / "boxes" / "0.png").write_bytes(encoded(pictures(1)[0]))
    (root / "test" / "a" / "notes.txt").touch()
    assert capsys.readouterr().err == ""
    opened = open_dataset("mine")
    assert opened.classes == before.classes == ("a", "b")
    assert opened.digest == before.digest
    assert capsys.readouterr().err == (
        "`mine` is read without the folders `annotations`, `train/@eaDir`, which are no classes of it, and 1 files of "
        "other kinds (1 .txt).\n"
    )
    open_dataset("mine")
    assert capsys.readouterr().err == ""


def test_splits_have_the_same_classes(folder):
    root = image_folder(folder / "mine")
    (root / "test" / "b").rename(root / "test" / "B")
    with pytest.raises(AssetError, match="`b` of `mine` has images in `train` and none in `test`; add some, or remove"):
        open_dataset("mine")
    for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        write(folder / "other" / f"{split}-0.parquet", [encoded(pictures(1)[0])], [0], names=names)
    with pytest.raises(AssetError, match=r"must name the same classes, but `.*` has b, a and `.*` a, b; get"):
        open_dataset("other")


def test_numbers_as_names_of_classes_are_told_in_their_order(folder, capsys):
    image_folder(folder / "mine", classes=("2", "10"))
    assert open_dataset("mine").classes == ("10", "2")
    assert "are numbered in the order of texts, 10, 2; give them equally many digits" in capsys.readouterr().err
    image_folder(folder / "other", classes=("02", "10"))
    open_dataset("other")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("splits", "classes", "message"),
    [
        (
            (".",),
            ("a", "b"),
            r"holds classes \(a, b\) and no splits; move some images of each class to `.*/test/<class>/`",
        ),
        (("train", "test"), (".",), "holds images without classes; move each to `<split>/<class>/`"),
        (("x/train", "x/test"), ("a", "b"), r"lie deeper, such as `.*/x/t.*`; name the folder that holds the splits"),
    ],
)
def test_other_layouts_are_told_what_to_do(folder, splits, classes, message):
    for split in splits:
        for name in classes:
            (folder / "mine" / split / name).mkdir(parents=True, exist_ok=True)
            (folder / "mine" / split / name / "0.png").write_bytes(encoded(pictures(1)[0]))
    with pytest.raises(AssetError, match=message):
        open_dataset("mine")


def test_images_that_pillow_cannot_read_are_refused_by_path(folder):
    root = image_folder(folder / "mine")
    (root / "test" / "a" / "1.heic").touch()
    with pytest.raises(
        AssetError, match=r"must be of a kind that Pillow reads, but `.*/test/a/1.heic` is not; convert"
    ):
        open_dataset("mine")
    (root / "test" / "a" / "1.heic").rename(root / "test" / "a" / "1.jpg")
    with pytest.raises(AssetError, match=r"`.*/test/a/1.jpg` must be an image, but .*: Pillow knows no such kind; get"):
        open_dataset("mine").split("test").images(size=RGB)


@pytest.mark.parametrize("suffix", ["webp", "bmp", "jfif", "jpe", "tiff", "gif", "WEBP"])
def test_what_pillow_reads_is_read(folder, suffix):
    root = image_folder(folder / "mine")
    grey = Image.new("RGB", (4, 4), (90, 90, 90))
    grey.save(root / "train" / "a" / f"1.{suffix}")
    split = open_dataset("mine").split("train")
    assert split.labels.tolist() == [0, 0, 1]
    assert (split.images([1], size=RGB).int() - 90).abs().max() <= 2


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_grey_of_16_bits_keeps_its_shades(folder, suffix):
    root = image_folder(folder / "mine")
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096 + 255
    Image.fromarray(values).save(root / "train" / "a" / f"1.{suffix}")
    found = open_dataset("mine").split("train").images([1], size=(1, 4, 4))
    assert found.flatten().tolist() == (values >> 8).flatten().tolist()


def test_numbers_of_32_bits_have_no_shades(folder):
    root = image_folder(folder / "mine")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(root / "train" / "a" / "1.tiff")
    with pytest.raises(
        AssetError, match=r"1.tiff` must be an image, .* 32 bits \(mode `F`\) whose range nobody states"
    ):
        open_dataset("mine").split("train").images(size=RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_an_image_is_turned_as_exif_says(folder, suffix, orientation):
    root = image_folder(folder / "mine")
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    # How the rows of the standard lie: 0th row and 0th column of what is stored, seen upright.
    stored = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.T, 6: np.rot90(pixels), 7: np.rot90(pixels, 2).T, 8: np.rot90(pixels, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(root / "train" / "a" / f"1.{suffix}", exif=exif)
    found = open_dataset("mine").split("train").images([1], size=(1, 3, 4))
    assert found[0, 0].tolist() == pixels.tolist()


def test_outputs_and_labels_are_compared():
    digits = open_dataset("digits")
    labels = digits.split("test").labels
    check_outputs("net", 10, digits, labels)
    for n_outputs in (9, 11):
        message = rf"`net` has {n_outputs} and `digits` 10 classes \(0, 1, 2, 3, 4, ...\); complete the data, remove"
        with pytest.raises(AssetError, match=message):
            check_outputs("net", n_outputs, digits, labels)
    nameless = dataclasses.replace(digits, classes=None)
    check_outputs("net", 11, nameless, labels)
    with pytest.raises(AssetError, match="below the number of outputs of `net`, 9, but `digits` has label 9; choose"):
        check_outputs("net", 9, nameless, labels)
    check_same_classes("digits", {"train": labels, "test": labels[:300]})
    with pytest.raises(AssetError, match="label 3 of `digits` is in `train` and not in `test`; complete the data"):
        check_same_classes("digits", {"train": labels, "test": labels[labels != 3]})


def test_labels_are_read_without_decoding(folder):
    write(folder / "mine" / "train-00000-of-00001.parquet", [b"no image", encoded(pictures(1)[0])], [0, 1])
    split = open_dataset("mine").split("train")
    assert split.labels.tolist() == [0, 1]
    assert split.images([1], size=RGB).shape == (1, *RGB)
    with pytest.raises(AssetError, match="row 0 of `train` of `mine` must be an image, but it cannot be decoded"):
        split.images(size=RGB)


def test_damaged_images(folder):
    whole = encoded(pictures(1, shape=(64, 64, 3))[0])
    write(
        folder / "mine" / "train-0-of-1.parquet", [whole, whole[: len(whole) // 2], None], [0, 0, 0], row_group_size=9
    )
    split = open_dataset("mine").split("train")
    with pytest.raises(
        AssetError, match=r"row 1 of `train` of `mine` must be an image, but it cannot be decoded: .*; get"
    ):
        split.images([0, 1], size=RGB)
    with pytest.raises(AssetError, match="row 2 of `train` of `mine` must hold an image's bytes"):
        split.images([2], size=RGB)


@pytest.mark.parametrize("rows", [[2], [-1], [[0]]])
def test_rows_out_of_range(folder, rows):
    write(folder / "mine" / "train-0-of-1.parquet", [encoded(pictures(1)[0])] * 2, [0, 0])
    with pytest.raises(AssetError, match=r"rows of `train` of `mine` must be a list of numbers in \[0, 2\), got"):
        open_dataset("mine").split("train").images(rows, size=RGB)


@pytest.mark.parametrize("size", [(2, 4, 4), (3, 0, 4)])
def test_impossible_size(size):
    with pytest.raises(AssetError, match=r"`size` must be \(1 or 3 channels, height, width\), got"):
        open_dataset("digits").split("test").images(size=size)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"labels of `train` of `mine` must be in \[0, 2\), but row 2 has 2; get the data again"),
        ([0, -1, 2], r"must be in \[0, 2\), but row 1 has -1"),
        ([0, None, 1], "must have a label in every row, but 1 are null"),
        ([], "a split must hold images, but `train` of `mine` is empty"),
    ],
)
def test_wrong_labels(folder, labels, message):
    write(folder / "mine" / "train-0-of-1.parquet", [b""] * len(labels), labels, names=["a", "b"])
    with pytest.raises(AssetError, match=message):
        open_dataset("mine").split("train")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": [0]},
            r"must have a column `img` or `image`, a struct with `bytes`, got `label` \(int64\); rename it",
        ),
        ({"img": [b"x"], "label": [0]}, r"a struct with `bytes`, got `img` \(binary\), `label` \(int64\)"),
        ({"img": [{"bytes": b"x"}], "class": [0]}, r"must have a column `label` of integers, got .*`class` \(int64\)"),
        (
            {"img": [{"bytes": b"x"}], "label": ["a"]},
            r"must have a column `label` of integers, got .*`label` \(string\)",
        ),
    ],
)
def test_wrong_columns(folder, columns, message):
    (folder / "mine").mkdir()
    pq.write_table(pa.table(columns), folder / "mine" / "train-0-of-1.parquet")
    with pytest.raises(AssetError, match=message):
        open_dataset("mine").split("train")


def test_truncated_parquet(folder):
    path = folder / "mine" / "train-0-of-1.parquet"
    write(path, [encoded(pictures(1)[0])], [0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(
        AssetError, match=r"`.*\.parquet` must be a whole parquet file, but it cannot be read: .*; get it"
    ):
        open_dataset("mine")
    path.write_bytes(b"")
    with pytest.raises(AssetError, match="must be a whole parquet file"):
        open_dataset("mine")


def test_damaged_page(folder):
    path = folder / "mine" / "train-0-of-1.parquet"
    write(path, [encoded(p) for p in pictures(4, shape=(32, 32, 3))], [0, 1, 2, 3], row_group_size=4)
    whole = path.read_bytes()
    path.write_bytes(b"PAR1" + b"\xff" * 5000 + whole[5004:])
    split = open_dataset("mine").split("train")
    assert split.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(AssetError, match="must be a whole parquet file, but it cannot be read"):
        split.images(size=RGB)


def test_folder_that_cannot_be_read(folder, monkeypatch):
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(
        AssetError, match=r"`.*/loop` must be readable, but OSError: Too many levels.*; correct its perm"
    ):
        open_dataset("loop")
    (folder / "mine").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(AssetError, match=r"`.*/mine` must be a readable folder, but .*Permission denied.*; correct"):
        open_dataset("mine")


def test_shards(folder):
    for index in (0, 2):
        write(folder / "mine" / f"train-{index:05}-of-00003.parquet", [b""], [0])
    with pytest.raises(AssetError, match=r"split `train` in `.*` must have 3 files, but number 1 is missing; complete"):
        open_dataset("mine")
    write(folder / "other" / "data.parquet", [b""], [0])
    with pytest.raises(
        AssetError, match=r"must be named `<split>-00000-of-00001.parquet`, got `.*/data.parquet`; rename"
    ):
        open_dataset("other")
    (folder / "empty").mkdir()
    with pytest.raises(AssetError, match=r"a data set must hold .*, but `.*/empty` holds neither"):
        open_dataset("empty")


def test_recorded_files_are_checked(folder):
    path = folder / "cifar10-lossless" / "test-00000-of-00001.parquet"
    write(path, [encoded(pictures(1)[0])], [0])
    with pytest.raises(
        AssetError, match=r"must have the sha256 ee7003e9.*, got .*; replace it by the published file, or"
    ):
        find_dataset(("cifar10-lossless", "digits"))
    path.unlink()
    with pytest.raises(AssetError, match=r"`cifar10-lossless` must hold `test-.*`, but `.*` does not; complete the"):
        open_dataset("cifar10-lossless")


@pytest.mark.parametrize("layout", ["", "plain_text/"])
def test_cifar10_at_hand(folder, layout):
    for split in ("train", "test"):
        images = [encoded(p) for p in pictures(2, shape=(32, 32, 3))]
        write(folder / "cifar10" / f"{layout}{split}-00000-of-00001.parquet", images, [0, 9])
    opened = find_dataset(("cifar10-lossless", "cifar10"))
    assert (opened.name, opened.classes) == ("cifar10", CIFAR)
    parts = [
        [s, f"{s}-00000-of-00001.parquet", file_sha256(folder / "cifar10" / f"{layout}{s}-00000-of-00001.parquet")]
        for s in ("test", "train")
    ]
    assert opened.digest == hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def test_order_of_preference(folder):
    for name in ("one", "two"):
        write(folder / name / "train-0-of-1.parquet", [encoded(pictures(1)[0])], [0])
    assert find_dataset(("none", "two", "one")).name == "two"
    assert find_dataset(("cifar10", "one")).name == "one"


def test_unknown_names(folder):
    with pytest.raises(
        UnknownNameError, match=rf"no data set `cifar-10`\. Did you mean `cifar10`\? .* in `{folder}`, `.*`"
    ):
        open_dataset("cifar-10")
    with pytest.raises(UnknownNameError, match=r"no data set `\.\./data`"):
        open_dataset("../data")
    with pytest.raises(UnknownNameError, match="`digits` has no split `validation`; it has test, train"):
        open_dataset("digits").split("validation")


def test_nowhere(folder, monkeypatch):
    cache = cache_folder() / "datasets"
    with pytest.raises(
        AssetError,
        match=rf"there is no folder `cifar10-lossless` or `cifar10` in `{folder}`, `{cache}`; `cifar10` could not be "
        r"fetched: the hub did not answer for `plain_text/test-.*` of uoft-cs/cifar10: .*offline mode is enabled.*\. "
        r"Name the folder that holds it in `PRUNEBOARD_DATA`\.",
    ):
        find_dataset(("cifar10-lossless", "cifar10"))
    monkeypatch.delenv("PRUNEBOARD_DATA")
    with pytest.raises(AssetError, match=rf"in `{cache}` \(`PRUNEBOARD_DATA` is not set\)\. Name the folder"):
        find_dataset(("imagenette",))


def test_datasets(folder):
    write(folder / "cifar10-jpeg" / "damaged.parquet", [b""], [0])
    infos = {info.name: info for info in datasets()}
    assert {name: info.where for name, info in infos.items()} == {
        "digits": "embedded in scikit-learn",
        **dict.fromkeys(POINTS, "generated when it is needed"),
        "cifar10-lossless": "not found; name the folder that holds it in PRUNEBOARD_DATA",
        "cifar10-jpeg": str(folder / "cifar10-jpeg"),
        "cifar10": "not found; fetched from the hub, uoft-cs/cifar10",
        "imagenette": "not found; name the folder that holds it in PRUNEBOARD_DATA",
        "imagenet": "not found; name the folder that holds it in PRUNEBOARD_DATA",
    }
    assert all(info.title and info.terms and info.contamination for info in infos.values())


class Hub(http.server.BaseHTTPRequestHandler):
    """The two answers of the hub that matter: what a file is, and the file."""

    files: dict[str, bytes]
    stated: dict[str, str]

    def do_HEAD(self):
        self._answer(b"")

    def do_GET(self):
        assert "/resolve/" + "c" * 40 + "/" in self.path
        self._answer(self.files[self.path.rsplit("/", 1)[1]])

    def _answer(self, body):
        name = self.path.rsplit("/", 1)[1]
        if name not in self.files or not self.path.startswith("/datasets/uoft-cs/cifar10/resolve/"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("X-Linked-Etag", f'"{self.stated[name]}"')
        self.send_header("Content-Length", str(len(self.files[name])))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    handler = type("FakeHub", (Hub,), {"files": {}, "stated": {}})
    for split in ("train", "test"):
        path = tmp_path / f"{split}-00000-of-00001.parquet"
        write(path, [encoded(p) for p in pictures(2, shape=(32, 32, 3))], [3, 9])
        handler.files[path.name] = path.read_bytes()
        handler.stated[path.name] = file_sha256(path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield handler
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def cached():
    return sorted(path.name for path in (cache_folder() / "datasets").rglob("*") if path.is_file())


def test_fetch_from_the_hub(folder, hub):
    opened = find_dataset(("imagenette", "cifar10-lossless", "cifar10"))
    assert opened.split("test").labels.tolist() == [3, 9]
    assert opened.split("train").images(size=(3, 32, 32)).shape == (2, 3, 32, 32)
    assert cached() == sorted(hub.files)
    hub.files.clear()
    assert open_dataset("cifar10").digest == opened.digest
    assert next(i for i in datasets() if i.name == "cifar10").where == str(cache_folder() / "datasets" / "cifar10")


def test_failed_fetches_leave_nothing(folder, hub):
    name = "train-00000-of-00001.parquet"
    right = hub.stated[name]
    hub.stated[name] = "0" * 64
    with pytest.raises(
        AssetError, match=r"`cifar10` could not be fetched: what http.* must have a sha256 that starts with 0"
    ):
        open_dataset("cifar10")
    assert cached() == []
    hub.stated[name] = "not a sha256"
    with pytest.raises(
        AssetError, match=r"the hub must state the sha256 of `plain_text/train-.*` of uoft-cs/cifar10, got"
    ):
        open_dataset("cifar10")
    hub.stated[name] = right
    del hub.files[name]
    with pytest.raises(AssetError, match=r"the hub did not answer for `plain_text/train-.*` of uoft-cs/cifar10: .*404"):
        open_dataset("cifar10")
    assert cached() == []


def test_hub_out_of_reach(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        AssetError, match=r"the hub did not answer for `plain_text/test-.*` of uoft-cs/cifar10: .*refused"
    ):
        open_dataset("cifar10")
    huggingface_hub.close_session()


def test_fetch_into_a_cache_that_cannot_be_made(folder, hub, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        AssetError, match=r"`.*/file/datasets` must be writable, but .*; name another one in `PRUNEBOARD_C"
    ):
        open_dataset("cifar10")


def test_digest_reads_each_file_once(folder, monkeypatch):
    write(folder / "mine" / "train-0-of-1.parquet", [encoded(pictures(1)[0])], [0])
    first = open_dataset("mine").digest
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert open_dataset("mine").digest == first


LABELS = np.random.default_rng(1).integers(0, 7, 300) * 3


def test_draw_is_balanced_and_ordered():
    rows = draw_reference(LABELS, 5, seed=0)
    assert LABELS[rows].tolist() == sorted(set(LABELS.tolist())) * 5
    assert len(set(rows.tolist())) == len(rows) == 35


def test_draw_nests():
    rows = draw_reference(LABELS, 10, seed=3)
    for shots in range(1, 10):
        assert draw_reference(LABELS, shots, seed=3).tolist() == rows[: 7 * shots].tolist()


def test_draw_of_a_class_depends_on_no_other():
    rows = draw_reference(LABELS, 4, seed=2)
    for label in np.unique(LABELS):
        alone = np.where(label == LABELS, label, 1000)
        drawn = draw_reference(alone, 4, seed=2)
        assert drawn[alone[drawn] == label].tolist() == rows[LABELS[rows] == label].tolist()
        stream = np.random.default_rng([2, label])
        assert stream.permutation(np.flatnonzero(label == LABELS))[:4].tolist() == rows[LABELS[rows] == label].tolist()


def test_draw_depends_on_the_seed():
    assert len({tuple(draw_reference(LABELS, 3, seed=seed)) for seed in range(20)}) == 20


def test_draw_takes_whole_classes():
    assert sorted(draw_reference(np.array([0, 1, 1, 0]), 2, seed=0)) == [0, 1, 2, 3]


def test_draw_errors():
    with pytest.raises(AssetError, match="at least 3 images for 3 shots, but class 1 has 2; ask for fewer shots"):
        draw_reference(np.array([0, 0, 0, 1, 1]), 3, seed=0)
    for shots, seed in ((0, 0), (1, -1)):
        with pytest.raises(AssetError, match="`shots` must be at least 1 and `seed` at least 0, got"):
            draw_reference(np.array([0]), shots, seed)


def test_records_are_consistent():
    for record in records().values():
        assert record.kind in ("sklearn", "points", "parquet", "folder")
        assert bool(record.files) == (record.kind == "parquet")
        assert all(len(file.sha256) == (0 if record.hub else 64) for file in record.files)
