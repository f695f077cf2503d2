"""Forward: the data plane. Moves bytes both ways and knows no dialect; SSE and WebSocket are just bytes here."""
