"""Integer activations: where Q and DQ go, from what ranges, and what is done about the error they bring."""
