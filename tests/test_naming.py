"""Which training image a name means, which file it is, and what new images are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchbank.errors import DatasetError
from patchbank.update.image_names import files_by_name, folders_of, new_names, numbers_of

NAMES = ("a/1.png", "a/2.png", "b/1.png", "c.png", "gone.png")
AMONG = {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("given", "number"),
    [("a/1.png", 0), ("2.png", 1), ("c.png", 3), ("good/c.png", 3), ("/data/good/b/1.png", 2), ("./a/2.png", 1)],
)
def test_a_name_means_an_image(given, number):
    assert numbers_of([given], NAMES, AMONG) == [number]


def test_the_same_image_twice_is_one():
    assert numbers_of(["2.png", "a/2.png", "c.png"], NAMES, AMONG) == [1, 3]


def test_an_exact_name_wins_over_an_end():
    assert numbers_of(["1.png"], ("a/1.png", "1.png"), {0, 1}) == [1]


def test_whole_folders_and_names_only():
    """'1.png' is not the end of '11.png'."""
    assert numbers_of(["1.png"], ("11.png", "a/1.png"), {0, 1}) == [1]
    with pytest.raises(DatasetError, match="no training image"):
        numbers_of(["a/c.png"], ("ba/c.png",), {0})


def test_a_name_that_could_be_several_lists_them():
    with pytest.raises(DatasetError, match=r"'1\.png' could be 2 training images \(a/1\.png, b/1\.png\)"):
        numbers_of(["1.png"], NAMES, AMONG)


def test_an_unknown_name_lists_what_is_close():
    with pytest.raises(DatasetError, match=r"named 'a/11\.png'; did you mean a/1\.png"):
        numbers_of(["a/11.png"], NAMES, AMONG)
    with pytest.raises(DatasetError, match="patchbank info --json"):
        numbers_of(["zzz"], NAMES, AMONG)
    with pytest.raises(DatasetError, match=r"gone\.png"):  # a former version's
        numbers_of(["gone.png"], NAMES, AMONG)


def test_new_images_are_called_by_what_their_folder_does_not_share(tmp_path):
    assert new_names([tmp_path / "x" / "1.png", tmp_path / "x" / "2.png"], set(), 9) == ["1.png", "2.png"]
    assert new_names([tmp_path / "x" / "1.png", tmp_path / "y" / "1.png"], set(), 9) == ["x/1.png", "y/1.png"]
    assert new_names([], {"1.png"}, 9) == []


def test_a_taken_name_gets_its_folder_in_front(tmp_path):
    paths = [tmp_path / "confirmed" / name for name in ("1.png", "2.png")]
    assert new_names(paths, {"1.png"}, 9) == ["confirmed/1.png", "2.png"]
    assert new_names(paths, {"1.png", "confirmed/1.png"}, 9)[0] == f"{tmp_path.name}/confirmed/1.png"


def test_images_without_paths_are_counted_on():
    assert new_names([np.zeros(3), np.zeros(3)], {"image 0"}, 7) == ["image 7", "image 8"]


def test_a_path_given_twice_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="given twice"):
        new_names([tmp_path / "1.png", tmp_path / "1.png"], set(), 0)


def test_files_are_found_in_the_folder_or_by_their_end():
    files = [Path(name) for name in ("d/a/1.png", "d/a/2.png", "d/x/c.png", "d/other.png")]
    found = files_by_name(NAMES, files, [Path("d")])
    assert found == {"a/1.png": Path("d/a/1.png"), "a/2.png": Path("d/a/2.png"), "c.png": Path("d/x/c.png")}


def test_the_folder_itself_wins_and_ambiguity_is_refused():
    files = [Path("d/c.png"), Path("d/x/c.png")]
    assert files_by_name(["c.png"], files, [Path("d")]) == {"c.png": Path("d/c.png")}
    with pytest.raises(DatasetError, match=r"c\.png could be d/x/c\.png or d/y/c\.png"):
        files_by_name(["c.png"], [Path("d/x/c.png"), Path("d/y/c.png")], [Path("d")])
    with pytest.raises(DatasetError, match="could be"):
        files_by_name(["c.png"], [Path("d/c.png"), Path("e/c.png")], [Path("d"), Path("e")])


def test_a_path_of_a_training_image_tells_its_folder(tmp_path):
    (tmp_path / "good" / "a").mkdir(parents=True)
    (tmp_path / "good" / "a" / "1.png").touch()
    given = [str(tmp_path / "good/a/1.png"), str(tmp_path / "good/c.png"), "a/2.png"]
    assert folders_of(given, NAMES) == [(tmp_path / "good").as_posix()]


def test_no_folder_is_left_to_tell_a_name_apart():
    with pytest.raises(DatasetError, match="by its whole path"):
        new_names([Path("/1.png")], {"1.png"}, 0)
