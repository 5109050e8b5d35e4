"""PyTorch checkpoints: pickle programs of any kind, in both layouts."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np
from tests.fuzz import hostile

from patchbank.backbones.checkpoint import read_checkpoint

GOLDEN = Path(__file__).parents[1] / "backbones" / "golden"
_OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes]
_BLOCKS = (
    b"N", b")", b"(", b"]", b"}", b"K\x01", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x88", b"X\x01\x00\x00\x00a",
    b"q\x00", b"q\x01", b"h\x00", b"h\x01",
    b"\x85", b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"b", b"Q", b"R", b"2", b"0",
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"cos\nsystem\n",
    b"X\x07\x00\x00\x00storage", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\x93", b"\x94", b"h\x00\x86q\x00" * 60, b"h\x00h\x00\x86q\x00" * 60, b")q\x00" + b"h\x00h\x00\x86q\x00" * 60,
    b"(" + b")" * 30 + b"t", b"(" * 100,
)  # fmt: skip


class Target:
    """Changed checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases = [(GOLDEN / f"{name}.pth").read_bytes() for name in ("legacy", "nested", "whole_module", "zip")]

    def case(self, rng: np.random.Generator) -> Path:
        path, kind = self.folder / "case.pth", rng.integers(5)
        data = self.bases[rng.integers(len(self.bases))]
        if kind == 0:
            data = hostile.bytes_changed(data, rng)
        elif kind == 1:
            data = hostile.bytes_changed(data[:2000], rng) + data[2000:]
        elif kind == 2:
            data = self._legacy(rng)
        elif kind == 3:
            data = _zipped(b"\x80\x02" + _program(rng))
        else:  # a sound program with a few blocks put in
            with zipfile.ZipFile(GOLDEN / "zip.pth") as file:
                name = next(each for each in file.namelist() if each.endswith("data.pkl"))
                program = file.read(name)
                rest = {each[len(name) - 8 :]: file.read(each) for each in file.namelist() if each != name}
            for _ in range(int(rng.integers(1, 4))):
                at = int(rng.integers(len(program)))
                program = program[:at] + _BLOCKS[rng.integers(len(_BLOCKS))] + program[at:]
            data = _zipped(program, rest)
        path.write_bytes(data)
        return path

    def run(self, path: Path) -> None:
        for tensor in read_checkpoint(path).values():
            assert tensor.dtype.kind in "fiub"

    def _legacy(self, rng: np.random.Generator) -> bytes:
        """Five pickles, any of which is made up."""
        magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
        system = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
        pickles = [magic, b"\x80\x02M\xe9\x03.", system, b"\x80\x02}.", b"\x80\x02]."]
        pickles[rng.integers(5)] = b"\x80\x02" + _program(rng)
        return b"".join(pickles) + struct.pack("<q", 1) + bytes(4)


def _program(rng: np.random.Generator) -> bytes:
    blocks = [_BLOCKS[rng.integers(len(_BLOCKS))] for _ in range(int(rng.integers(1, 40)))]
    if rng.integers(3) == 0:
        blocks.insert(int(rng.integers(len(blocks))), _OPCODES[rng.integers(len(_OPCODES))])
    if rng.integers(20) == 0:
        blocks *= 300
    return b"".join(blocks) + b"."


def _zipped(program: bytes, rest: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", program)
        for name, data in (rest or {"data/0": bytes(16)}).items():
            archive.writestr(f"a/{name.split('/', 1)[-1] if '/' in name else name}", data)
    return file.getvalue()
