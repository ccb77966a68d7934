"""Parts of bench_graph_editors."""
