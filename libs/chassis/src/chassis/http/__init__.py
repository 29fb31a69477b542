"""HTTP for services: a table of routes, typed bodies in, JSON, pages and problems out."""

from chassis.http.application import application
from chassis.http.keys import ApiKeys
from chassis.http.reading import prefers_html, query, read
from chassis.http.replies import page, reply
from chassis.http.routes import Route, delete, get, patch, post, put

__all__ = [
    "ApiKeys",
    "Route",
    "application",
    "delete",
    "get",
    "page",
    "patch",
    "post",
    "prefers_html",
    "put",
    "query",
    "read",
    "reply",
]
