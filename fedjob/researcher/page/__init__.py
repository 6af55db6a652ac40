"""The page of a researcher in a browser: the jobs of a home while they run, their results, and jobs side by side."""
