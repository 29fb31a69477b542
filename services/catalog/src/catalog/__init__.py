"""Owns products, variants and categories, in Elasticsearch; publishes them on `catalog.events`."""
