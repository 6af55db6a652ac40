"""One attempt at a job."""
