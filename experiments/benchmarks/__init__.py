"""Code of the commands that measure speed and memory; no module here is a command."""
