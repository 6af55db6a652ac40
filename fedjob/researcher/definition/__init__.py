"""The way from the arguments that a researcher writes to a job's spec."""
