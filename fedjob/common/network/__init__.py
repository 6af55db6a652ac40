"""The way from this machine to a server: proxies."""
