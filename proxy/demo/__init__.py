"""The demo: a real model of a hundred megabytes, the proxy in front of it, and the first requests through both."""
