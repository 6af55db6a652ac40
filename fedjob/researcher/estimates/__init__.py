"""The forecast of what a job will take, from what was measured."""
