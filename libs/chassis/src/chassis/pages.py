"""Templates of pages and fragments. Knows the shop's frame, not what goes into it."""

import jinja2


def templates(package: str) -> jinja2.Environment:
    """The templates of `package`, which may extend the shop's `base.html`; autoescaped."""
    raise NotImplementedError
