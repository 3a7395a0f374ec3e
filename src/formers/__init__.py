"""formers: transformer papers as code that people can trust."""
