"""The check-up that every role shares: this machine, the way to the hub, the hub and its broker."""
