"""The page of `patchbank export --html` in headless Chromium, opened from the disk: the library's verdicts and scores,
no request to anywhere, and a refusal with a reason for every image that it cannot inspect exactly."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from exported import SIZE, fitted, packages, pictures

from parts import striped
from patchbank import Config, ConfigError, MissingExtraError, PatchCore, export_onnx
from patchbank.export.page import read_ort_web
from patchbank.imaging.images import encode_png, write_png
from patchbank.imaging.overlay import colour_scale

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Debian's Chromium, or a skip that says what is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[f"--{flag}" for flag in QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def ort_web() -> Path:
    folder = packages() / "node_modules" / "onnxruntime-web"
    if not folder.is_dir():
        pytest.skip("no onnxruntime-web: run tools/node_packages.sh")
    return folder


@pytest.fixture(scope="module")
def model() -> PatchCore:
    return fitted(np.random.default_rng(0), count=60, review_rate=0.5)


@pytest.fixture(scope="module")
def page(model, ort_web, tmp_path_factory) -> Path:
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("page")
    done = export_onnx(model, folder, images=pictures(rng), ort_web=ort_web, title="</script><b>Parts</b>")
    assert done.page_bytes == (folder / "inspect.html").stat().st_size
    return folder / "inspect.html"


class Opened:
    """The page in a tab that has no network. requested: all that it asked for."""

    def __init__(self, browser, path: Path) -> None:
        self.context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
        self.tab = self.context.new_page()
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requested.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(path.as_uri())

    def wait(self) -> str:
        """The state, once there is nothing more to do."""
        state = self.tab.locator("#state").filter(has_text=re.compile("^Ready|does not inspect"))
        return str(state.inner_text(timeout=180_000))

    def inspect(self, *files: Path) -> list[dict[str, str]]:
        """The rows of the table that the page saves, after it has looked at these files too."""
        self.wait()
        self.tab.set_input_files("#files", files)
        self.wait()
        with self.tab.expect_download() as download:
            self.tab.click("#save")
        return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"), newline="")))


@pytest.fixture
def opened(browser, page) -> Iterator[Opened]:
    found = Opened(browser, page)
    yield found
    found.context.close()


def assert_same(row, result):
    """The page says of an image what the library says."""
    assert row["verdict"] == str(result.verdict).upper(), row
    assert float(row["score"]) == pytest.approx(result.score, rel=1e-4)
    assert float(row["p_value"]) == pytest.approx(result.p_value, rel=1e-4)


def test_verdicts_are_the_librarys_and_nothing_leaves_the_machine(opened, model, rng, tmp_path):
    files = []
    for number, image in enumerate([*pictures(rng), *(pictures(rng)[0] for _ in range(5))]):
        files.append(tmp_path / f"{number}.png")
        write_png(files[-1], image)
    rows = opened.inspect(*files)
    assert [row["name"] for row in rows] == [file.name for file in files]
    results = [model.predict(file) for file in files]
    for row, result in zip(rows, results, strict=True):
        assert_same(row, result)
    assert {row["verdict"] for row in rows} == {"OK", "NG", "REVIEW"}
    counts = dict(
        zip(("OK", "REVIEW", "NG", "not inspected"), opened.tab.locator("#counts dd").all_inner_texts(), strict=True)
    )
    assert {word: int(count) for word, count in counts.items() if int(count)} == {
        word: sum(row["verdict"] == word for row in rows) for word in ("OK", "REVIEW", "NG")
    }
    assert opened.complaints == []
    assert {url.split(":")[0] for url in opened.requested} <= {"file", "blob", "data"}
    assert sum(url.startswith("file:") for url in opened.requested) == 1  # the page itself


def test_the_page_says_why_as_the_library_does(opened, model, rng, tmp_path):
    for name, image in (("good", pictures(rng)[0]), ("bad", pictures(rng)[1]), ("dark", pictures(rng)[4])):
        write_png(tmp_path / f"{name}.png", image)
    rows = opened.inspect(*(tmp_path / f"{name}.png" for name in ("good", "bad", "dark")))
    for row in rows:
        expected = model.predict(tmp_path / row["name"]).reason
        numbers = r"[0-9.]+"
        said = re.sub(r"0*\b$", "", row["reason"])
        words = [re.split(numbers, text)[0] for text in (said, expected)]
        assert words[0] == words[1]  # up to the first number, which is formatted in other ways
    assert "is over the threshold" in rows[1]["reason"]
    assert "darker: exposure, lighting or lens cap?" in rows[2]["reason"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, *added: bytes) -> bytes:
    """A PNG with more chunks after its header."""
    return png[:33] + b"".join(added) + png[33:]


def turned(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG that says in EXIF that it has to be turned."""
    entry = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def test_files_that_browsers_like_to_change_keep_their_numbers(opened, model, rng, tmp_path):
    """Colour management, gamma, EXIF, grey and palettes, BMP, JPEG: the same numbers as the library reads."""
    image = pictures(rng)[1]
    bgr = image[:, :, ::-1]
    png = encode_png(image)
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))  # linear light
    primaries = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))  # wide gamut
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    high = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111])[1]
    upright = cv2.imencode(".jpg", np.ascontiguousarray(np.rot90(bgr)), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    opaque = np.dstack([bgr, np.full(SIZE, 255, np.uint8)])
    files = {
        "gamma.png": with_chunk(png, gamma, primaries),
        "grey.png": cv2.imencode(".png", bgr[:, :, 0])[1].tobytes(),
        "opaque.png": cv2.imencode(".png", opaque)[1].tobytes(),
        "plain.jpg": jpeg,
        "full.jpg": high.tobytes(),
        "turned.jpg": turned(upright, 6),
        "grey.jpg": cv2.imencode(".jpg", bgr[:, :, 0])[1].tobytes(),
        "progressive.jpg": cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
        "lossy.webp": cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes(),
        "plain.bmp": cv2.imencode(".bmp", bgr)[1].tobytes(),
        "lossless.webp": cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for row in opened.inspect(*(tmp_path / name for name in files)):
        result = model.predict(tmp_path / row["name"])
        assert row["verdict"] == str(result.verdict).upper(), row
        assert float(row["score"]) == pytest.approx(result.score, rel=1e-4), row


def test_what_cannot_be_inspected_exactly_is_refused_with_a_reason(opened, rng, tmp_path):
    image = pictures(rng)[0]
    glass = np.dstack([image, np.full(SIZE, 255, np.uint8)])
    glass[3, 4, 3] = 128
    cmyk = bytearray(cv2.imencode(".jpg", image)[1].tobytes())
    frame = cmyk.index(b"\xff\xc0")
    cmyk[frame + 9] = 4
    files = {
        "small.png": encode_png(striped(rng, size=(64, 64))),
        "glass.png": cv2.imencode(".png", glass)[1].tobytes(),
        "deep.png": cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes(),
        "cmyk.jpg": bytes(cmyk),
        "notes.txt": b"no image at all",
        "cut.png": encode_png(image)[:200],
        "film.gif": b"GIF89a" + bytes(40),
        "=1+1.png": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    said = {row["name"]: row for row in opened.inspect(*(tmp_path / name for name in files))}
    words = {
        "small.png": "it has 64 × 64 pixels, and this page inspects 128 × 96",
        "glass.png": "transparent pixels",
        "deep.png": "16 bits a channel",
        "cmyk.jpg": "four colours",
        "notes.txt": "expected a PNG, JPEG, BMP or WebP file",
        "cut.png": "the browser cannot decode it",
        "film.gif": "expected a PNG, JPEG, BMP or WebP file",
        "'=1+1.png": "expected a PNG",  # a spreadsheet must not take it for a formula
    }
    assert set(said) == set(words)
    for name, reason in words.items():
        assert said[name]["verdict"] == "not inspected"
        assert reason in said[name]["reason"]
    assert int(opened.tab.locator("#counts dd").nth(3).inner_text()) == len(files)


def changed(page: Path, folder: Path, change) -> Path:
    """A copy of the page whose script's data are changed."""
    text = page.read_text("utf-8")
    found = re.search(r'data-json="([^"]*)"', text)
    about = json.loads(found[1].replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    change(about)
    data = json.dumps(about).replace("&", "&amp;").replace('"', "&#34;")
    other = folder / "changed.html"
    other.write_text(text[: found.start(1)] + data + text[found.end(1) :], "utf-8")
    return other


@pytest.mark.parametrize("what", ["score", "verdict"])
def test_a_page_that_would_say_something_else_inspects_nothing(browser, page, rng, tmp_path, what):
    """Its own check fails: a browser that changes pixels, or a damaged file, must not give verdicts."""

    def change(about):
        image = about["images"][1]
        image[what] = image["score"] * 1.001 if what == "score" else 3 - image["verdict"]

    broken = Opened(browser, changed(page, tmp_path, change))
    write_png(tmp_path / "a.png", pictures(rng)[0])
    broken.tab.set_input_files("#files", tmp_path / "a.png")
    assert f"its own check failed on reference image 2: {what}" in broken.wait()
    assert "not inspected" in broken.tab.inner_text("#list")
    broken.tab.set_input_files("#files", tmp_path / "a.png")
    assert broken.tab.locator("#list .refused").count() == 2
    broken.context.close()


def test_a_damaged_page_says_so(browser, page, tmp_path):
    text = page.read_text("utf-8")
    other = tmp_path / "damaged.html"
    start = text.index('id="data-model">') + 5000
    other.write_text(text[:start] + "AAAAAAAAAAAA" + text[start + 12 :], "utf-8")
    broken = Opened(browser, other)
    assert broken.wait().startswith("This page does not inspect: ")
    broken.context.close()


def test_by_keyboard_alone(opened, rng, tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, image in zip(files, pictures(rng), strict=False):
        write_png(file, image)
    opened.tab.keyboard.press("Tab")
    assert opened.tab.evaluate("document.activeElement.id") == "files"  # Enter opens the dialog there
    opened.inspect(*files)
    opened.tab.locator("#list button").first.focus()
    opened.tab.keyboard.press("ArrowDown")
    assert opened.tab.locator("#view h2").inner_text() == "1.png"
    assert opened.tab.locator("#list [aria-current=true] .name").inner_text() == "1.png"
    opened.tab.keyboard.press("ArrowDown")
    opened.tab.keyboard.press("ArrowDown")
    assert opened.tab.locator("#view h2").inner_text() == "2.png"
    opened.tab.click("#clear")
    assert opened.tab.locator("#list li").count() == 0
    assert opened.tab.locator("#work").is_hidden()


def test_images_are_dropped_and_their_heat_map_is_shown(opened, model, rng):
    opened.wait()
    picture = pictures(rng)[1]
    png = list(encode_png(picture))
    opened.tab.evaluate(
        """png => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(png)], "dropped.png", { type: "image/png" }));
            const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
            document.getElementById("drop").dispatchEvent(event);
        }""",
        png,
    )
    opened.tab.wait_for_selector(".stage .heat")
    opened.wait()
    sizes = opened.tab.evaluate(
        """Promise.all([...document.querySelectorAll('.stage img')].map(async (image) => {
            await image.decode();
            return [image.naturalWidth, image.naturalHeight];
        }))"""
    )
    assert sizes == [[128, 96], [128, 96]]
    opacity = opened.tab.evaluate(
        """() => {
            const image = document.querySelector('.stage .heat');
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            return Array.from(data.filter((_, place) => place % 4 === 3));
        }"""
    )
    result = model.predict(picture)
    levels = np.clip(result.anomaly_map * (255 / 2 / result.pixel_threshold) + 0.5, 0, 255).astype(np.uint8)
    expected = colour_scale()[levels][:, :, 3]
    kernel = np.ones((5, 5), np.uint8)
    mask = np.pad(result.mask.astype(np.uint8), 2)  # the outline runs along the image's edge, too
    inner, outer = (change(mask, kernel)[2:-2, 2:-2] > 0 for change in (cv2.erode, cv2.dilate))
    away = inner | ~outer  # from the outline
    assert away.mean() > 0.5
    np.testing.assert_allclose(np.reshape(opacity, SIZE)[away], expected[away], atol=3)
    assert len(np.unique(expected[away])) > 10


def test_nothing_from_outside_is_markup(opened, rng, tmp_path):
    """The title, file names: texts."""
    assert opened.tab.inner_text("h1") == "</script><b>Parts</b>"
    file = tmp_path / "<img src=x onerror=alert(1)>.png"
    write_png(file, pictures(rng)[0])
    opened.inspect(file)
    assert opened.tab.locator("#list .name").inner_text() == file.name
    assert opened.tab.locator("#view h2").inner_text() == file.name


def test_the_policy_forbids_what_the_page_does_not_need(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.read_text("utf-8"))[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    assert rules.pop("script-src").startswith("'sha256-")
    assert rules == {
        "default-src": "'none'",
        "img-src": "data: blob:",
        "worker-src": "blob:",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_a_network_in_8_bits(browser, ort_web, rng, tmp_path):
    """WebAssembly computes with the same whole numbers: the page's own check on three reference images passes."""
    images = [striped(rng) for _ in range(20)]
    model = PatchCore.fit(images, Config(image_size=(64,), coreset_size=60, precision="int8"))
    export_onnx(model, tmp_path, images=pictures(rng), ort_web=ort_web)
    opened = Opened(browser, tmp_path / "inspect.html")
    assert opened.wait().startswith("Ready. Checked with 5 reference images")
    opened.context.close()


@pytest.mark.realdata
def test_real_images(browser, ort_web, data_root, tmp_path):
    """JPEG files as they are: the browser decodes them as the library does."""
    root = data_root / "bottle"
    good = sorted((root / "train" / "good").iterdir())[:40]
    options = {"image_size": (224,), "coreset_size": 1000, "max_false_alarms": 0.2, "confidence": 0.0}
    model = PatchCore.fit(good, Config(**options, review_rate=0.5))
    export_onnx(model, tmp_path, ort_web=ort_web)
    files = [sorted(kind.iterdir())[n] for kind in sorted((root / "test").iterdir()) for n in (0, 1, 2)]
    opened = Opened(browser, tmp_path / "inspect.html")
    rows = opened.inspect(*files)
    for row, file in zip(rows, files, strict=True):
        assert_same(row, model.predict(file))
    assert len({row["verdict"] for row in rows}) >= 2
    opened.context.close()


def test_onnx_runtime_web_from_a_package_file_or_a_folder(ort_web, tmp_path):
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        for name in ("package.json", "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"):
            file.add(ort_web / name, f"package/{name}")
    found = [read_ort_web(path) for path in (ort_web, ort_web / "dist", archive)]
    assert len({(each.version, each.bundle, each.wasm) for each in found}) == 1
    assert "export{" not in found[0].bundle.replace(" ", "")


def test_without_onnx_runtime_web_the_command_to_get_it_is_said(model, tmp_path):
    for path in (None, tmp_path / "nothing.tgz"):
        with pytest.raises(MissingExtraError, match=r"npm pack onnxruntime-web@\d.*--ort-web onnxruntime-web-"):
            read_ort_web(path)


def packed(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "other.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def test_other_packages_are_refused(model, tmp_path):
    right = {
        "package.json": b'{"name": "onnxruntime-web", "version": "9"}',
        "dist/ort.wasm.bundle.min.mjs": b"export{a as InferenceSession,b as Tensor,c as env};",
        "dist/ort-wasm-simd-threaded.wasm": b"wasm",
    }
    assert read_ort_web(packed(tmp_path, right)).bundle == "const ort={InferenceSession:a,Tensor:b,env:c};\n"
    wrong = [
        right | {"package.json": b'{"name": "other", "version": "9"}'},
        right | {"package.json": b"[]"},
        right | {"dist/ort.wasm.bundle.min.mjs": b"export{a as Tensor};"},
        {name: data for name, data in right.items() if "wasm.bundle" not in name},
    ]
    for files in wrong:
        with pytest.raises(ConfigError, match="expected the npm package onnxruntime-web"):
            read_ort_web(packed(tmp_path, files))
    (tmp_path / "no.tgz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="expected the npm package"):
        export_onnx(model, tmp_path / "out", ort_web=tmp_path / "no.tgz")
    assert not (tmp_path / "out").exists()
