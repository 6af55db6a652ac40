"""The state of a training plan between its steps."""
