"""The way from this machine to a server: addresses and proxies."""
