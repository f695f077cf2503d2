"""The live page: the trace in a browser, on a port of its own. It reads the trace and nothing else."""
