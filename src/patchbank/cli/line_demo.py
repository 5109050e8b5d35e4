"""`patchbank run --demo`: solar cells, a fake camera, a Modbus server, and a PLC that is played here."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
from pathlib import Path

from patchbank.cli.demo import solar_cells
from patchbank.cli.options import progress_bar
from patchbank.cli.terminal import note
from patchbank.config import Config, Runtime
from patchbank.util.files import atomic_write, make_folder
from patchbank.util.log import quiet

IMAGES = 40  # to learn from: enough to see something, and done in seconds
CONFIG = Config(image_size=(224,))
_LINE = """# Made by patchbank run --demo. Change it, and start it by: patchbank run {folder}/line.toml
site = "demo"
line = "L1"
data = "journal"

[station.cell]
model = "cell.patchbank"
deadline_ms = 3000

[station.cell.camera]
kind = "fake"
images = "parts"
faults = ["exception", "black", "frozen"]
fault_rate = 0.05

[station.cell.plc]
kind = "modbus"
listen = "{listen}"
"""


def prepared(folder: Path, listen: str, runtime: Runtime) -> Path:
    """Learns a model, unless it is there already, and writes the line's file with its images. Returns the file."""
    from patchbank.model import PatchCore

    make_folder(folder)
    model = folder / "cell.patchbank"
    if not model.is_file():
        train, good, defective = solar_cells()
        parts = make_folder(folder / "parts")
        for number, path in enumerate(each for pair in zip(good, defective[:20], strict=False) for each in pair):
            shutil.copyfile(path, parts / f"{number:03d}{path.suffix}")
        note(f"learning {IMAGES} functional solar cells (ELPV dataset, monocrystalline)")
        with progress_bar() as progress, quiet():
            PatchCore.fit(train[:IMAGES], CONFIG, runtime=runtime, progress=progress).save(model)
    file = folder / "line.toml"
    with atomic_write(file) as out:
        out.write(_LINE.format(folder=folder, listen=listen).encode())
    return file


class PlayedPlc:
    """Does what a PLC's program does (docs/reference/modbus.md): triggers, waits for the answer, goes on."""

    def __init__(self, address: tuple[str, int], every: float = 1.0) -> None:
        """address: of the station. every: seconds between two parts."""
        self._address, self._every = address, every
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patchbank-played-plc", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends."""
        self._ending.set()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            with socket.create_connection(self._address, timeout=5) as connection:
                seq = 0
                while not self._ending.is_set():
                    seq = seq % 65_535 + 1
                    self._trigger(connection, seq)
                    while self._result_seq(connection) != seq and not self._ending.wait(0.02):
                        pass
                    self._ending.wait(self._every)
        except OSError as error:
            if not self._ending.is_set():
                note(f"the played PLC has lost its station: {error}")

    def _trigger(self, connection: socket.socket, seq: int) -> None:
        """Writes holding register 100 (function 6)."""
        _asked(connection, seq, struct.pack(">BHH", 6, 100, seq))

    def _result_seq(self, connection: socket.socket) -> int:
        """Reads input register 2 (function 4)."""
        answer = _asked(connection, 0, struct.pack(">BHH", 4, 2, 1))
        return int.from_bytes(answer[2:4], "big")


def _asked(connection: socket.socket, number: int, request: bytes) -> bytes:
    """Sends a request, and returns the answer without its header. Raises OSError."""
    connection.sendall(struct.pack(">HHHB", number, 0, len(request) + 1, 1) + request)
    header = _exactly(connection, 7)
    return _exactly(connection, struct.unpack(">HHHB", header)[2] - 1)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("the station has closed the connection")
        data += more
    return data
