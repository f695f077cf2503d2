"""Store: the journal goes into the trace, one SQLite file, and is read back from there. Knows the words, no dialect."""
