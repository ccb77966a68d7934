"""Answers about finished files: contents, differences, speed, verification.

It may import convert and every room below; batch and the command line may import it.
"""
