"""The view of a running job: events, logs, metrics, status."""
