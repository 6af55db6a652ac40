"""The site of the docs: what mkdocs does not do by itself with the Markdown of this checkout."""
