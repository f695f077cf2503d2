"""The trace's version, and how to see it without SQLite: `serve` refuses a newer trace before it forwards anything."""

import struct
from pathlib import Path

from proxy.errors import TraceError, TraceTooNewError

APPLICATION_ID = 0x50584C47
"""'PXLG' in the file's header, so that `file` and the like can tell a trace."""
SCHEMA_VERSION = 4
_MAGIC = b"SQLite format 3\0"


def check_file(path: Path) -> None:
    """See to it that a file can be this version's trace; there may be none, or an empty one.

    Raises:
        TraceTooNewError: it was written by a newer proxy-log.
        TraceError: it is something else, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise TraceError(f"cannot read the trace {path}: {error.strerror}") from error
    if not header:
        return
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise TraceError(f"{path} is not a trace of proxy-log; name another file with --trace")
    # https://www.sqlite.org/fileformat.html: user version at offset 60, application id at 68
    (version,) = struct.unpack_from(">i", header, 60)
    (application,) = struct.unpack_from(">i", header, 68)
    if application or version:  # what was written last may still be in the WAL file
        check(path, application, version)


def check(path: Path, application_id: int, version: int) -> None:
    """See to it that these two numbers are those of a trace that this version can read; raises as `check_file`."""
    if application_id != APPLICATION_ID:
        raise TraceError(f"{path} is a database, but not a trace of proxy-log; name another file with --trace")
    if version > SCHEMA_VERSION:
        raise TraceTooNewError(
            f"the trace {path} has version {version}, this proxy-log knows up to {SCHEMA_VERSION}; update proxy-log"
        )
