"""The operating system: files that appear whole or not at all, environment variables, and Ctrl-C while a command starts.

It may import errors alone; every room may import it.
"""
