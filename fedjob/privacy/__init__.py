"""The audit of what may be released about few rows, and the blinding of identifiers."""
