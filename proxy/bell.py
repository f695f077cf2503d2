"""What the front says to the back, by the pipe between them and by the environment."""

RING = b"\0"
"""There is something new."""
LAST_ORDERS = b"\1"
"""The front is about to end: exchanges of our own would be waited for."""
TOKEN_VARIABLE = "PROXY_LOG_ENGINE_LOG__TOKEN"
"""Arguments of a process are everybody's to see, its environment is not."""
