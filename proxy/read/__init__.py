"""Read: what recorded bytes mean. Pure: bytes in, meaning out, no sockets and no files."""
