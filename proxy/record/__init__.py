"""Record: traffic becomes journal records. Knows neither sockets of HTTP nor SQLite."""
