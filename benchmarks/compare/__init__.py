"""fedjob beside other frameworks on the same work."""
