"""Entry points of other packages: loaded once, a broken one named in one warning and left out."""

import logging
from importlib.metadata import entry_points
from typing import Any

log = logging.getLogger(__name__)


def load_entry_points(group: str) -> list[Any]:
    """What the installed packages offer in `group`, each made if it is a class."""
    found = []
    for point in entry_points(group=group):
        try:
            loaded = point.load()
            found.append(loaded() if isinstance(loaded, type) else loaded)
        except Exception as error:  # noqa: BLE001 - whatever a foreign package does
            log.warning("the plug-in %s (%s) cannot be loaded and is left out: %r", point.name, point.value, error)
    return found
