"""The files that `fedjob new` writes: whole scripts that train as they are, to change step by step."""
