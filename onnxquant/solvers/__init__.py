"""Ways to choose the codes of a weight by what it is multiplied with; they know matrices and formats, no nodes."""
