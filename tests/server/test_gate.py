"""The gate: what counts as lost, what only as missed, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from parts import striped
from patchbank.server.jobs.gate import Labelled, follows, gate
from server.conftest import png


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, str]:
    """Files of a good part, a stained one, a defective one, and no image at all."""
    rng = np.random.default_rng(3)
    folder, found = tmp_path_factory.mktemp("labelled"), {}
    for name in ("good", "stain", "defect"):
        path = folder / f"{name}.png"
        path.write_bytes(png(striped(rng, defect=name == "defect", stain=name == "stain")))
        found[name] = str(path)
    (folder / "broken.png").write_bytes(b"no image")
    return found | {"broken": str(folder / "broken.png")}


def asked(candidate, base, *labelled, remarks=(), **rest):
    return gate(candidate, base, labelled, remarks, lambda *_: None, **rest)


def test_a_defect_that_is_not_found_any_more_is_lost(model, paths):
    tolerant = model.update([paths["defect"]])
    found = asked(tolerant, model, Labelled("1", paths["defect"], "defect"))
    assert found["passed"] is False
    (lost,) = found["defects"]["lost"]["first"]
    assert (lost["id"], lost["before"]["verdict"], lost["after"]["verdict"]) == ("1", "ng", "ok")
    back = asked(model, tolerant, Labelled("1", paths["defect"], "defect"))
    assert (back["passed"], back["defects"]["gained"]["number"]) == (True, 1)


def test_what_passed_before_is_missed_and_blocks_nothing(model, paths):
    found = asked(model.update([paths["stain"]]), model, Labelled("1", paths["good"], "defect", "ok"))
    assert (found["passed"], found["defects"]["missed"]["number"], found["defects"]["lost"]["number"]) == (True, 1, 0)
    assert any("1 of 1 labelled defects pass" in each for each in found["warnings"])


def test_what_an_earlier_version_has_found_counts_too(model, paths):
    """The version before has lost it already; the one that inspected it had not."""
    tolerant = model.update([paths["defect"]])
    found = asked(tolerant.update([paths["stain"]]), tolerant, Labelled("1", paths["defect"], "defect", "ng"))
    assert found["passed"] is False


def test_a_first_version_has_nothing_to_lose(model, paths):
    found = asked(model, None, Labelled("a", paths["good"], "defect"), Labelled("b", paths["defect"], "defect"))
    assert (found["passed"], found["defects"]["found"], found["defects"]["found_before"]) == (True, 1, None)
    assert found["changed_sides"] is None


def test_good_parts_and_images_that_cannot_be_read(model, paths):
    labelled = [
        Labelled("1", paths["stain"], "good", "ng"),
        Labelled("2", paths["good"], "good", "ok"),
        Labelled("3", paths["broken"], "defect", "ng"),
    ]
    found = asked(model.update([paths["stain"]]), model, *labelled, remarks=["few images"])
    assert (found["goods"]["flagged_before"], found["goods"]["flagged"]) == (1, 0)
    assert [each["id"] for each in found["goods"]["cleared"]["first"]] == ["1"]
    assert (found["passed"], found["defects"]["unreadable"]) == (True, 1)  # it is ERROR, which is no OK
    assert found["warnings"][0] == "few images"
    assert any("could be lower" in each for each in found["warnings"])
    assert found["changed_sides"] is not None


def test_a_history_follows_only_from_its_own_beginning(model, paths):
    after = model.update([paths["stain"]])
    assert follows(after.versions, model.versions)
    assert not follows(model.versions, after.versions)
    assert not follows(after.versions, after.versions)


def test_the_review_rate_is_the_lowest_one_in_use(model, paths):
    """Where nothing goes to review, REVIEW finds nothing."""
    with_all = asked(model, model, Labelled("1", paths["good"], "defect"), review_rate=1.0)
    assert with_all["defects"]["found"] == 1
    without = asked(model, model, Labelled("1", paths["good"], "defect"), review_rate=0.0)
    assert without["defects"]["found"] == 0


def test_where_review_passes_it_finds_nothing(model, paths):
    labelled = Labelled("1", paths["good"], "defect")
    found = asked(model, model, labelled, review_rate=1.0, review_passes=True)
    assert (found["defects"]["found"], found["defects"]["missed"]["number"]) == (0, 1)
