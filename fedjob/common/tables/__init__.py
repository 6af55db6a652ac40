"""The bytes in which tables travel."""
