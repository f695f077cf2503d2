"""proxy-log: a logging reverse proxy for local language models.

The path of an exchange, and of an import (strictly downward, `tests/test_floors.py` holds it)::

    client <-> forward <-> upstream        front process: moves bytes, knows no dialect
                 | bytes, times
               record -> journal           append-only segments beside the trace
                            |
                          store            back process: the only writer of the trace (SQLite)
                            |
                      cli, demo            ask the trace

Record bytes first, understand later, and let SQL be the interface.
"""

__version__ = "0.1.0"
