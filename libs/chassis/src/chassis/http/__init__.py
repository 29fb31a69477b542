"""HTTP for services: routes as a table, typed bodies in, JSON and pages out, problems for errors."""

from chassis.http.application import application
from chassis.http.keys import ApiKeys
from chassis.http.reading import query, read
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
    "put",
    "query",
    "read",
    "reply",
]
