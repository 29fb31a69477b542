"""The edge's own process, the purger. The cache itself is Varnish, configured beside it."""
