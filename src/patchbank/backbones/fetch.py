"""Downloads a zoo network's checkpoint: the only place where patchbank uses the network, and only when asked to."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from patchbank.backbones.build import NO_CACHE, cache_dir, how_to_get, locate, verify
from patchbank.backbones.zoo import DownloadedWeights, ZooRow, find
from patchbank.errors import CheckpointError, OutputError, WeightsNotFoundError
from patchbank.util.files import atomic_write, make_folder
from patchbank.util.progress import Progress, silent

TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 18
_SLACK = 2  # a file this many times larger than its row says is not the file


def fetch(name: str, progress: Progress = silent) -> Path:
    """The path of the network's checkpoint, downloaded into the cache unless a good one is there already.

    The file is checked against the SHA-256 prefix in its name before it gets that name. Networks whose weights are a
    package have nothing to fetch: their path is returned where it is installed. Raises BackboneError for an unknown
    name, WeightsNotFoundError where the download fails (the message says which file to put where), CheckpointError
    where another file arrives, OutputError where it cannot be stored.
    """
    row = find(name)
    if not isinstance(row.weights, DownloadedWeights):
        return locate(row)
    cache = cache_dir()
    if cache is None:
        raise OutputError(f"cannot store the weights of {row.name}: {NO_CACHE}")
    target = cache / row.weights.file
    if target.is_file():
        try:
            verify(target, row.weights.sha256_prefix)
        except CheckpointError:
            target.unlink()
        else:
            return target
    make_folder(target.parent)
    try:
        with urllib.request.urlopen(row.weights.url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310  (https, from a row)
            length = int(response.headers.get("Content-Length") or 0)
            _store(_blocks(response), length, row.weights, target, progress)
    except _DownloadError as error:
        raise _failed(row, error.__cause__) from error
    except urllib.error.URLError as error:
        raise _failed(row, error.reason) from error
    except (http.client.HTTPException, OSError) as error:
        if isinstance(error, OutputError):
            raise
        raise _failed(row, error) from error
    return target


class _DownloadError(Exception):
    """A read from the network failed: told apart from a write to the disk, which raises OSError too."""


def _failed(row: ZooRow, reason: object) -> WeightsNotFoundError:
    return WeightsNotFoundError(f"cannot download the weights of {row.name} ({reason}); {how_to_get(row)}")


def _blocks(response: IO[bytes]) -> Iterator[bytes]:
    try:
        while block := response.read(_BLOCK):
            yield block
    except (http.client.HTTPException, OSError) as error:
        raise _DownloadError from error


def _store(blocks: Iterable[bytes], length: int, weights: DownloadedWeights, target: Path, progress: Progress) -> None:
    limit = weights.megabytes * _SLACK << 20
    total = length or weights.megabytes << 20
    digest, done = hashlib.sha256(), 0
    with atomic_write(target) as file:
        for block in blocks:
            done += len(block)
            if done > limit:
                raise CheckpointError(f"{weights.url}: expected {weights.megabytes} MB, got more than {limit >> 20}")
            digest.update(block)
            file.write(block)
            progress(f"download {weights.file}", done, max(total, done))
        if length and done != length:
            raise CheckpointError(f"{weights.url}: the download broke off after {done} of {length} bytes; try again")
        if not digest.hexdigest().startswith(weights.sha256_prefix):
            raise CheckpointError(
                f"{weights.url}: expected a file whose SHA-256 starts with {weights.sha256_prefix}, "
                f"got {digest.hexdigest()[:16]}; nothing was stored"
            )
