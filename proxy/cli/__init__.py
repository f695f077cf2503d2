"""The command line: one file per command, found by the registry in `proxy.cli.main`."""
