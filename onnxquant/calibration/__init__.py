"""Data for a model: feeds read from files or made from its inputs."""
