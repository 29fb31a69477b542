"""How events leave a service, arrive at another, and are never lost or applied twice between."""
