"""The report: as data, as JSON, and on the terminal."""
