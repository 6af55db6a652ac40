"""Plans are text: the only place that extracts, compiles and executes it."""
