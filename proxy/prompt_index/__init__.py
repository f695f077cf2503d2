"""Finds what the models saw, once calls are read: paired with the engine's log, else rendered; then taken apart."""
