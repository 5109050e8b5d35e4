"""Passwords and secrets: argon2id with a bound on its memory, tokens that are kept as digests only."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from patchbank.errors import StoreBusyError, StoreValueError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST, LONGEST = 10, 1000  # characters of a password
MEMORY_KIB = 65536  # of one hash: RFC 9106's second recommendation
AT_ONCE, WAITING = 2, 16  # hashes that are computed, and that may wait: at most 128 MiB
_ALPHABET = "23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"  # without those that look alike
_running = threading.BoundedSemaphore(AT_ONCE)
_admitted = threading.BoundedSemaphore(AT_ONCE + WAITING)


def hashed(password: str) -> str:
    """The argon2id hash of a new password. Raises StoreValueError for one that is too short or too long, StoreBusyError
    if many are being computed."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise StoreValueError(f"password: expected {SHORTEST} to {LONGEST} characters; got {len(password)}")
    with _turn():
        return _hasher().hash(_bytes(password))


def matches(password: str, stored: str | None) -> bool:
    """Says whether the password is the one of the hash. Takes as long without a hash: nobody learns who exists."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    if len(password) > LONGEST:
        return False
    with _turn():
        try:
            return _hasher().verify(stored or _nobody(), _bytes(password)) and stored is not None
        except (Argon2Error, InvalidHashError):
            return False


def is_outdated(stored: str) -> bool:
    """Says whether the hash was made with other costs than today's, and should be made anew at the next login."""
    return _hasher().check_needs_rehash(stored)


def new_secret(length: int = 43) -> str:
    """A random text: 43 characters are 249 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def digest(secret: str) -> str:
    """SHA-256 of a secret that is random and long, in hexadecimal: nothing slower is needed for those."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same(first: str, second: str) -> bool:
    """Compares digests in a time that does not depend on them."""
    return hmac.compare_digest(first, second)


@contextmanager
def _turn() -> Iterator[None]:
    if not _admitted.acquire(blocking=False):
        raise StoreBusyError("many people sign in at the same time; try again in a moment")
    try:
        with _running:
            yield
    finally:
        _admitted.release()


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher, Type

    return PasswordHasher(time_cost=3, memory_cost=MEMORY_KIB, parallelism=4, type=Type.ID)


@cache
def _nobody() -> str:
    return _hasher().hash(secrets.token_bytes(32))


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
