"""Answers about finished files and this installation: contents, differences, speed, validation.

It may import convert and every room below; batch and the command line may import it.
"""
