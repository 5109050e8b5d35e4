"""Pictures for people, made of what is kept: a small one of an image, one that browsers show, the heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchbank.config import ImageFormat
from patchbank.errors import StoreNotFoundError
from patchbank.server.images import SHOWN_BY_BROWSERS as SHOWN_BY_BROWSERS

if TYPE_CHECKING:
    from patchbank.store.engine import Store

THUMB = 256  # pixels of its longer side


def thumb(store: Store, digest: str, format: ImageFormat | None) -> bytes:
    """A JPEG of an image that is kept. It is made once. Raises StoreNotFoundError, or ImageError."""
    try:
        return store.thumbs.get(digest)
    except StoreNotFoundError:
        from patchbank.imaging.images import read_image, thumbnail

        picture = thumbnail(read_image(store.blobs.get(digest), format or ImageFormat()), THUMB)
        store.thumbs.put_derived(digest, picture)
        return picture


def shown_png(data: bytes, format: ImageFormat | None) -> bytes:
    """An image file as a PNG of 8 bits. Raises ImageError."""
    from patchbank.imaging.images import encode_png, read_image, shown

    return encode_png(shown(read_image(data, format or ImageFormat())))
