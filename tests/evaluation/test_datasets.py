"""The data-set layouts: what is read from each, and that every doubtful one is refused with a message that helps."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.errors import DatasetError
from patchbank.evaluation.datasets import (
    Sample,
    find_images,
    natural_key,
    read_categories,
    read_dataset,
)


def touch(root: Path, *names: str) -> None:
    """Layouts are read by name alone, so empty files do."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def mvtec(root: Path) -> Path:
    touch(root, "train/good/2.png", "train/good/10.png", "train/good/1.png")
    touch(root, "test/good/000.png", "test/scratch/000.png", "test/scratch/001.png", "test/dent/000.jpg")
    touch(root, "ground_truth/scratch/000_mask.png", "ground_truth/scratch/001_mask.png", "ground_truth/dent/000.png")
    return root


# --- flat folder ---


def test_a_flat_folder_is_all_training(tmp_path: Path) -> None:
    touch(tmp_path, "b10.PNG", "b2.jpg", "notes.txt", ".hidden.png")
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, dataset.test, dataset.has_masks) == ("folder", (), False)
    assert dataset.train_paths == (tmp_path / "b2.jpg", tmp_path / "b10.PNG")
    assert dataset.train[0] == Sample(tmp_path / "b2.jpg", False, "good", None, "train")


def test_good_and_bad_in_subfolders_are_never_taken_for_training(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "bad/1.png")
    with pytest.raises(DatasetError, match="subfolders bad, good"):
        read_dataset(tmp_path)


def test_nothing_there_and_nothing_in_it_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found none"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="nothing is there"):
        read_dataset(tmp_path / "no")
    touch(tmp_path, "a.txt")
    with pytest.raises(DatasetError, match=r"expected a folder or a \.csv file"):
        read_dataset(tmp_path / "a.txt")


# --- MVTec AD ---


def test_mvtec_layout(tmp_path: Path) -> None:
    dataset = read_dataset(mvtec(tmp_path))
    assert [p.name for p in dataset.train_paths] == ["1.png", "2.png", "10.png"]
    truth = tmp_path / "ground_truth"
    assert dataset.test == (
        Sample(tmp_path / "test/dent/000.jpg", True, "dent", truth / "dent/000.png", "test"),  # the image's own stem
        Sample(tmp_path / "test/good/000.png", False, "good", None, "test"),
        Sample(tmp_path / "test/scratch/000.png", True, "scratch", truth / "scratch/000_mask.png", "test"),
        Sample(tmp_path / "test/scratch/001.png", True, "scratch", truth / "scratch/001_mask.png", "test"),
    )
    assert dataset.kinds == ("good", "dent", "scratch")
    assert dataset.has_masks


def test_mvtec_without_ground_truth_has_no_masks(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/1.png", "test/good/1.png", "test/dent/1.png")
    dataset = read_dataset(tmp_path)
    assert [sample.mask for sample in dataset.test] == [None, None]
    assert not dataset.has_masks


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    """Pixel metrics over the masked half of the defects would be wrong without a word."""
    mvtec(tmp_path)
    (tmp_path / "ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 have none: .*scratch/001\.png"):
        read_dataset(tmp_path)


def test_two_images_may_not_share_a_mask(tmp_path: Path) -> None:
    touch(mvtec(tmp_path), "test/dent/000.png")
    with pytest.raises(DatasetError, match=r"one image for this mask"):
        read_dataset(tmp_path)


def test_defects_in_train_are_refused(tmp_path: Path) -> None:
    touch(mvtec(tmp_path), "train/dent/000.png")
    with pytest.raises(DatasetError, match=r"train/dent: expected only 'good'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_beside_the_kinds_are_refused(tmp_path: Path, split: str) -> None:
    touch(mvtec(tmp_path), f"{split}/9.png")
    with pytest.raises(DatasetError, match=r"got 9\.png beside them"):
        read_dataset(tmp_path)


def test_mvtec_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(DatasetError, match="train/good or test/KIND"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("word", ["OK", "ok", "Good", "GOOD", "normal", "Okay", "defect_free", "no_defect"])
def test_other_words_for_good(tmp_path: Path, word: str) -> None:
    """test/OK counted as a defect spoils every figure."""
    touch(tmp_path, f"train/{word}/1.png", f"test/{word}/1.png", "test/scratch/1.png", "test/good/2.png")
    dataset = read_dataset(tmp_path)
    assert len(dataset.train) == 1
    assert [sample.kind for sample in dataset.test if not sample.defective] == ["good", "good"]
    assert dataset.kinds == ("good", "scratch")
    assert list(read_categories(tmp_path).values()) == [tmp_path]


@pytest.mark.parametrize("word", ["pass", "None", "TRUE", "false", "yes", "no"])
def test_folders_that_could_mean_either(tmp_path: Path, word: str) -> None:
    touch(tmp_path, f"test/{word}/1.png", "test/good/2.png")
    with pytest.raises(DatasetError, match=f"{word}.*rename it"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("ending", ["_mask", "_gt", "_GT", "-mask", "_label", "_seg", ""])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".TIF", ".npy"])
def test_masks_as_others_name_them(tmp_path: Path, ending: str, suffix: str) -> None:
    touch(tmp_path, "test/good/1.png", "test/dent/A1.jpg", f"ground_truth/dent/a1{ending}{suffix}")
    mask = read_dataset(tmp_path).test[0].mask
    assert mask == tmp_path / f"ground_truth/dent/a1{ending}{suffix}"


def test_masks_that_belong_to_no_image_are_not_no_masks(tmp_path: Path) -> None:
    touch(tmp_path, "test/good/1.png", "test/dent/1.png", "ground_truth/dent/1_xyz.png")
    with pytest.raises(DatasetError, match=r"none of its 1 masks .*1_xyz\.png; expected .*dent/1_mask\.png"):
        read_dataset(tmp_path)
    (tmp_path / "ground_truth/dent").rename(tmp_path / "ground_truth/Dents")
    with pytest.raises(DatasetError, match="none of its 1 masks"):
        read_dataset(tmp_path)
    (tmp_path / "ground_truth").rename(tmp_path / "Masks")
    with pytest.raises(DatasetError, match="expected masks in ground_truth, got the folder Masks"):
        read_dataset(tmp_path)


def test_masks_of_good_images_are_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "test/good/1.png", "test/dent/1.png", "ground_truth/good/1.png")
    assert not read_dataset(tmp_path).has_masks


def test_two_masks_for_one_image(tmp_path: Path) -> None:
    touch(mvtec(tmp_path), "ground_truth/scratch/000_gt.png")
    with pytest.raises(DatasetError, match=r"expected one mask, got .*000_mask\.png, .*000_gt\.png"):
        read_dataset(tmp_path)


# --- CSV ---


def csv_file(root: Path, text: str, encoding: str = "utf-8") -> Path:
    touch(root, "img/a.png", "img/b.png", "img/c,d.png", "m/b.png")
    (root / "list.csv").write_bytes(text.encode(encoding))
    return root / "list.csv"


def test_csv_layout(tmp_path: Path) -> None:
    file = csv_file(
        tmp_path, 'path,label,mask,split\nimg/a.png,good,,train\n\nimg/b.png,Crack,m/b.png,\n"img/c,d.png",0,,TEST\n'
    )
    dataset = read_dataset(file)
    assert dataset.layout == "csv"
    assert dataset.train == (Sample(tmp_path / "img/a.png", False, "good", None, "train"),)
    assert dataset.test == (
        Sample(tmp_path / "img/b.png", True, "Crack", tmp_path / "m/b.png", "test"),
        Sample(tmp_path / "img/c,d.png", False, "good", None, "test"),
    )


@pytest.mark.parametrize(
    "text", ["path;label\nimg/a.png;0\nimg/b.png;1\n", "\ufeffLabel,Path\r\n0,img/a.png\r\n1,img/b.png\r\n"]
)
def test_csv_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    """Semicolons, a byte-order mark, CRLF, another order of columns; a missing split follows from the label."""
    dataset = read_dataset(csv_file(tmp_path, text))
    assert dataset.train_paths == (tmp_path / "img/a.png",)
    assert [(s.path.name, s.defective, s.kind) for s in dataset.test] == [("b.png", True, "defective")]


def test_csv_takes_absolute_paths(tmp_path: Path) -> None:
    file = csv_file(tmp_path, f"path,label\n{tmp_path / 'img' / 'a.png'},good\n")
    assert read_dataset(file).train_paths == (tmp_path / "img/a.png",)


@pytest.mark.parametrize("word", ["OK", "normal", "good", "0"])
def test_csv_takes_the_other_words_for_good(tmp_path: Path, word: str) -> None:
    dataset = read_dataset(csv_file(tmp_path, f"path,label\nimg/a.png,{word}\n"))
    assert [sample.kind for sample in dataset.train] == ["good"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the columns"),
        ("img/a.png,good\n", "line 1: expected the columns path,label .* got img/a.png,good"),
        ("path,label,msak\n", "line 1.*got path,label,msak"),
        ("path,label,path\n", "line 1: expected"),
        ("path,label\n", "found none"),
        ("path,label\nimg/a.png,good\nimg/b.png\n", "line 3: expected 2 fields .* got 1"),
        ("path,label\nimg/a.png,good\n\nimg/no.png,good\n", r"line 4: expected an image at .*no\.png"),
        ("path,label,mask\nimg/b.png,1,m/no.png\n", r"line 2: expected a mask at .*no\.png"),
        ("path,label,mask\nimg/a.png,good,m/b.png\n", "line 2: expected no mask"),
        ("path,label\n,good\n", "line 2: expected the path"),
        ("path,label\nimg/a.png,\n", "line 2: expected the label"),
        ("path,label\nimg/a.png,pass\n", "line 2: expected the label .* got 'pass'"),
        ("path,label\nimg/a.png,2\n", "line 2: expected the label"),
        ("path,label,split\nimg/a.png,good,val\n", "line 2: expected the split"),
        ("path,label,split\nimg/a.png,1,train\n", "line 2: expected only good images for training"),
        ("path,label\nimg/a.png,good\nimg/../img/a.png,1\n", "line 3: .* listed already in line 2"),
        ('path,label\nimg/a.png,good\n"img/b.png,1\n', "not valid CSV after line 2"),
        ("path,label\nimg/a.png\0,good\n", "line 2"),
        ("path,label,mask\nimg/b.png,1,m/b.png\nimg/a.png,1,\n", r"1 of 2 have none: .*a\.png"),
    ],
)
def test_csv_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=re.compile(message, re.DOTALL)):
        read_dataset(csv_file(tmp_path, text))


@pytest.mark.parametrize("start", ["", "path,label\n", 'path,label\n"', "path,label\na.png,good\n"])
@pytest.mark.parametrize("filler", [",", "x", '"\n",'])
def test_csv_rows_have_a_length(tmp_path: Path, start: str, filler: str) -> None:
    """A row is taken apart as a whole: 200 MB of commas took 4 GB."""
    touch(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text(start + filler * 200_000)
    with pytest.raises(DatasetError, match=r"list.csv.*(at most 100,000 characters|fields|column|not valid)") as found:
        read_dataset(tmp_path / "list.csv")
    assert len(str(found.value)) < 500 + len(str(tmp_path))


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="UTF-8"):
        read_dataset(csv_file(tmp_path, "path,label\nimg/ä.png,good\n", "latin-1"))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_csv_are_a_dataset_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """No input reaches the user as a traceback. (No random bytes name an existing image.)"""
    file = tmp_path_factory.getbasetemp() / "fuzz.csv"
    file.write_bytes(b"path,label\n" + data)
    with pytest.raises(DatasetError):
        read_dataset(file)


# --- a root of categories ---


def test_categories_of_a_root(tmp_path: Path) -> None:
    for name in ("screw", "bottle"):
        mvtec(tmp_path / name)
    touch(tmp_path, "README.md", "others/1.png")
    assert read_categories(tmp_path) == {"bottle": tmp_path / "bottle", "screw": tmp_path / "screw"}
    assert list(read_categories(tmp_path)) == ["bottle", "screw"]


def test_a_category_itself_is_a_root(tmp_path: Path) -> None:
    assert read_categories(mvtec(tmp_path / "bottle")) == {"bottle": tmp_path / "bottle"}


def test_no_categories(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found none"):
        read_categories(tmp_path)
    with pytest.raises(DatasetError, match="no folder"):
        read_categories(tmp_path / "no")


# --- finding images ---


def test_find_images_searches_all_levels_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "a10.png", "a9.tiff", "z/1.BMP", "y/x/1.webp", "__MACOSX/a.png", ".git/a.png", "readme.md")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a9.tiff", "a10.png", "y/x/1.webp", "z/1.BMP"]


def test_find_images_keeps_the_order_given_and_each_image_once(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.png", "odd.raw")
    found = find_images([tmp_path / "odd.raw", str(tmp_path / "b.png"), tmp_path])
    assert [path.name for path in found] == ["odd.raw", "b.png", "a.png"]  # a file named outright is taken as it is


def test_find_images_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no\.png"):
        find_images([tmp_path / "no.png"])
    with pytest.raises(DatasetError, match="found none"):
        find_images(tmp_path)
    with pytest.raises(DatasetError, match="empty list"):
        find_images([])


PICTURES = {
    "a.jfif": b"\xff\xd8\xff\xe0", "b.JPE": b"\xff\xd8\xff\xe0", "c.pnm": b"P6\n", "d": b"\x89PNG\r\n\x1a\n",
    "e.bak": b"II*\0", "f.gif": b"GIF89a", "g.jp2": b"", "h.avif": b"", "i.dat": b"\0\0\0\x1cftypavif",
}  # fmt: skip


def test_images_are_what_their_content_or_their_name_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An image that is passed over is a defect that leaves the factory: what is not taken is named."""
    for name, head in PICTURES.items():
        (tmp_path / name).write_bytes(head + bytes(40))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    touch(tmp_path, "notes.txt", "list.csv", "Thumbs.db", ".hidden", "odd\x1b[2J.xyz", "empty")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    found = find_images(tmp_path)
    assert [path.name for path in found] == [*sorted(PICTURES)[:6], "g.jp2", "gone.png", "h.avif", "i.dat"]
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert re.search(r"^[34] files .* left out: .*(, and 1 more|and 3 other files)", said)
    assert "3 other files" in said
    assert "notes" not in said
    assert "\x1b" not in said


def test_nothing_is_said_where_nothing_strange_was_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(mvtec(tmp_path), "readme.txt", "test/good/notes.json")
    read_dataset(tmp_path)
    find_images(tmp_path)
    assert not caplog.records


def test_where_nothing_is_found_what_was_seen_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "odd.xyz")
    for read in (read_dataset, find_images):
        caplog.clear()
        with pytest.raises(DatasetError, match="found none"):
            read(tmp_path)
        assert "1 file is no image and was left out" in caplog.text


def test_a_data_set_names_what_it_leaves_out_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(mvtec(tmp_path), "train/good/odd.xyz", "test/dent/odd.xyz")
    (tmp_path / "test/dent/b").write_bytes(b"GIF89a")
    dataset = read_dataset(tmp_path / "test" / "dent")
    assert [path.name for path in dataset.train_paths] == ["000.jpg", "b"]
    caplog.clear()
    (tmp_path / "test/dent/b").unlink()
    read_dataset(tmp_path)
    assert [record.name for record in caplog.records] == ["patchbank"]
    assert "2 files are no images" in caplog.text


def test_find_images_survives_a_circle_of_links(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    try:
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
    except OSError:
        pytest.skip("no links on this system")
    assert [path.name for path in find_images(tmp_path)] == ["1.png"]


def test_folders_that_link_to_each_other_are_searched_once(tmp_path: Path) -> None:
    """Ten folders that link to all others have millions of ways through them; each image has one name."""
    for one in range(10):
        touch(tmp_path, f"{one}/x.png")
        for other in range(10):
            try:
                (tmp_path / f"{one}" / f"to{other}").symlink_to(tmp_path / f"{other}")
            except OSError:
                pytest.skip("no links on this system")
    assert find_images(tmp_path) == [tmp_path / f"{one}" / "x.png" for one in range(10)]


def test_links_out_of_a_folder_are_searched_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "out/x.png", "in/10.png", "in/2/y.png", "in/30/z.png")
    try:
        (tmp_path / "in" / "4").symlink_to(tmp_path / "out")
    except OSError:
        pytest.skip("no links on this system")
    found = [path.relative_to(tmp_path / "in").as_posix() for path in find_images(tmp_path / "in")]
    assert found == ["10.png", "2/y.png", "4/x.png", "30/z.png"]


def test_folders_deeper_than_the_stack_are_searched(tmp_path: Path) -> None:
    """A thousand folders, one in the other, ended in a RecursionError."""
    deep = tmp_path.joinpath(*["a"] * 150)
    touch(deep, "x.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert find_images(tmp_path) == [deep / "x.png"]
    finally:
        sys.setrecursionlimit(limit)


def test_numbers_of_thousands_of_digits_are_in_order() -> None:
    """Python refuses to read them as numbers: a label in a list may be as long."""
    names = ["a1", "a02", "a" + "2" * 5000, "a" + "3" * 5000, "a1" + "0" * 5000]
    assert sorted((*names[3:], *names[:3]), key=natural_key) == names


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab01²é.", max_size=6), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    """Same files, same order, whatever order the file system gave them in."""
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_real_layout(data_root: Path) -> None:
    dataset = read_dataset(data_root / "bottle")
    assert (len(dataset.train), len(dataset.test)) == (209, 83)
    assert sum(sample.defective for sample in dataset.test) == 63
    assert dataset.has_masks
    assert set(read_categories(data_root)) >= {"bottle", "screw", "mtd"}


def test_the_documentation_names_every_suffix_and_every_refused_word() -> None:
    """docs/operate/datasets.md is the specification; it must not drift from the code."""
    from patchbank.evaluation.datasets import AMBIGUOUS, COLUMNS, GOOD_WORDS, MASK_ENDINGS
    from patchbank.imaging.images import SUFFIXES

    text = (Path(__file__).parents[2] / "docs" / "operate" / "datasets.md").read_text("utf-8")
    for suffix in SUFFIXES:
        assert re.search(rf"{re.escape(suffix)}\b", text), suffix
    for word in (*AMBIGUOUS, *COLUMNS, *GOOD_WORDS, *filter(None, MASK_ENDINGS)):
        assert f"`{word}`" in text, word


# --- VisA, BTAD ---


def visa(root: Path, split: str = "split_csv/1cls.csv") -> Path:
    rows = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1"):
        for number, part in ((0, "train"), (1, "train"), (2, "test")):
            rows.append(f"{name},{part},normal,{name}/Data/Images/Normal/{number:04d}.JPG,")
        image, mask = f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png"
        rows.append(f"{name},test,anomaly,{image},{mask}")
        touch(root, *(row.split(",")[3] for row in rows[1:]), mask)
    touch(root, split)
    (root / split).write_text("\n".join(rows))
    return root


def test_visa_as_it_is_published(tmp_path: Path) -> None:
    root = visa(tmp_path / "VisA")
    dataset = read_dataset(root / "pcb1")
    assert (dataset.root, dataset.layout, dataset.kinds) == (root / "pcb1", "visa", ("good", "anomaly"))
    images = root / "pcb1/Data/Images"
    assert dataset.train_paths == (images / "Normal/0000.JPG", images / "Normal/0001.JPG")
    assert dataset.test == (
        Sample(images / "Normal/0002.JPG", False, "good", None, "test"),
        Sample(images / "Anomaly/000.JPG", True, "anomaly", root / "pcb1/Data/Masks/Anomaly/000.png", "test"),
    )
    assert read_categories(root) == {"candle": root / "candle", "pcb1": root / "pcb1"}
    assert read_categories(root / "candle") == {"candle": root / "candle"}


def test_visa_from_within_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = visa(tmp_path / "VisA")
    monkeypatch.chdir(root / "candle")
    assert len(read_dataset(".").train) == 2


def test_all_of_visa_is_no_data_set(tmp_path: Path) -> None:
    """Candles and circuit boards must not become one model."""
    root = visa(tmp_path / "VisA")
    with pytest.raises(DatasetError, match=r"one category, got all of VisA; give one of its folders: candle, pcb1"):
        read_dataset(root)
    with pytest.raises(DatasetError, match=r"got the objects candle, pcb1; give one's folder, such as .*candle"):
        read_dataset(root / "split_csv/1cls.csv")


def test_visa_without_its_list_is_refused(tmp_path: Path) -> None:
    root = visa(tmp_path / "VisA", split="elsewhere/1cls.csv")
    with pytest.raises(DatasetError, match=r"split_csv/1cls.csv.*is not there"):
        read_dataset(root / "candle")


def test_a_category_that_the_list_does_not_name_is_refused(tmp_path: Path) -> None:
    root = visa(tmp_path / "VisA")
    touch(root, "macaroni/Data/Images/Normal/0000.JPG")
    with pytest.raises(DatasetError, match=r"found none of macaroni; it has candle, pcb1"):
        read_dataset(root / "macaroni")


def test_a_list_with_defects_for_training_is_refused(tmp_path: Path) -> None:
    """VisA has such lists too (2cls_*): its one-class list is the one for us."""
    root = visa(tmp_path / "VisA")
    file = root / "split_csv/1cls.csv"
    file.write_text(file.read_text().replace("candle,test,anomaly", "candle,train,anomaly"))
    with pytest.raises(DatasetError, match=r"line 5: expected only good images for training"):
        read_dataset(root / "candle")


def test_visa_as_it_is_converted(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0000.JPG", "test/good/0001.JPG", "test/bad/000.JPG", "ground_truth/bad/000.png")
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, dataset.kinds, dataset.has_masks) == ("mvtec", ("good", "bad"), True)


def test_btad(tmp_path: Path) -> None:
    touch(tmp_path, "01/train/ok/0000.bmp", "01/test/ok/0001.bmp", "01/test/ko/0000.bmp", "01/ground_truth/ko/0000.png")
    dataset = read_dataset(tmp_path / "01")
    assert [(sample.kind, sample.defective) for sample in dataset.test] == [("ko", True), ("good", False)]
    assert len(dataset.train) == 1
    assert dataset.test[0].mask == tmp_path / "01/ground_truth/ko/0000.png"
    assert read_categories(tmp_path) == {"01": tmp_path / "01"}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,label", "a.png,ok"),
        ("label,file", "OK,a.png"),
        ("image_path;class", "a.png;Normal"),
        ("Image,Label,Mask_Path,Subset", "a.png,good,,train"),
    ],
)
def test_columns_by_their_other_names(tmp_path: Path, header: str, row: str) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text(f"{header}\n{row}\n")
    assert read_dataset(tmp_path / "list.csv").train_paths == (tmp_path / "a.png",)


def test_one_column_by_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,filename,label\na.png,b.png,ok\n")
    with pytest.raises(DatasetError, match="expected the columns path,label"):
        read_dataset(tmp_path / "list.csv")
