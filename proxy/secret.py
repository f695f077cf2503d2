"""Secrets are replaced by a short keyed digest: two uses of one key can be told together, the key cannot be read back.

The key of the digest lies beside the trace (`<trace>.key`) and never inside it, so that a trace can be passed on.
"""

import os
import re
import tempfile
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from proxy.errors import TraceError

KEY_BYTES = 32
SECRET_BODY_FIELDS = (
    *("integrations[].headers.*", "tools[].headers.*", "tools[].authorization"),
    "mcp_servers[].authorization_token",
)
"""Where requests of LM Studio, OpenAI and Anthropic carry the keys of MCP servers (the setting `mask.body_fields`)."""
_SCHEME = re.compile(rb"(?:basic|bearer|token|apikey|negotiate)[ \t]+(?=\S)", re.IGNORECASE)


def load_key(path: Path) -> bytes:
    """The digest key, 32 bytes; made (mode 0600) where there is none yet, safely if two processes ask at once.

    Raises:
        TraceError: the file is there but holds something else, or cannot be read or made.
    """
    try:
        if not path.exists():
            _create(path)
        key = path.read_bytes()
    except OSError as error:
        raise TraceError(f"cannot read or make the key {path}: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise TraceError(
            f"{path} is not a key: {len(key)} bytes instead of {KEY_BYTES}. Move it away to get a new one."
        )
    return key


def _create(path: Path) -> None:
    """Put a new key in place whole: written aside, then linked, which fails if another process was first."""
    handle, aside = tempfile.mkstemp(prefix=path.name, dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not path.exists():
                Path(aside).replace(path)
    finally:
        Path(aside).unlink(missing_ok=True)


@lru_cache(maxsize=1024)
def masked(secret: bytes, key: bytes) -> bytes:
    """What stands in the secret's place: `[masked:1a2b3c4d5e6f]`."""
    return b"[masked:" + blake2b(secret, digest_size=6, key=key).hexdigest().encode() + b"]"


@lru_cache(maxsize=1024)
def masked_credentials(value: bytes, key: bytes) -> bytes:
    """The same for the value of a header field, whose scheme stays: `Bearer [masked:1a2b3c4d5e6f]`."""
    scheme = _SCHEME.match(value)
    if scheme is None:
        return masked(value, key)
    return scheme[0] + masked(value[scheme.end() :], key)
