"""The result of a job."""
