"""`python -m proxy` is `proxy-log`."""

from proxy.cli.main import main

if __name__ == "__main__":
    main()
