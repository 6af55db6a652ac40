"""From what a researcher writes to a spec."""
