"""Many models: jobs, the processes that run them, and configuration files.

It may import inspect and every room below; only the command line is above it.
"""
