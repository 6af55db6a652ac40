"""The shared pieces of fedjob's pages in a browser: sign-in, sessions, protection against other pages, and the look."""
