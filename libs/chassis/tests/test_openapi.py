"""The OpenAPI document is valid and says what the routes say."""

from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from chassis import openapi


def described(routes: list[Any]) -> dict[str, Any]:
    return openapi.document("things", "1.0.0", "", routes)


def test_the_document_is_valid_openapi_3_1(routes: list[Any]) -> None:
    OpenAPIV31SpecValidator(described(routes)).validate()


async def test_the_document_is_served(client: Any) -> None:
    document = (await client("GET", "/openapi.json")).json()

    assert "3.1.0" == document["openapi"]
    assert {"/baskets", "/small", "/find", "/things/{id}", "/uploads/{id}", "/"} == set(
        document["paths"]
    )


def test_a_query_struct_becomes_parameters(routes: list[Any]) -> None:
    document = described(routes)
    parameters = document["paths"]["/find"]["get"]["parameters"]

    assert ["q", "page", "sort", "brand", "in_stock"] == [p["name"] for p in parameters]
    assert {"query"} == {p["in"] for p in parameters}
    assert 100 == parameters[1]["schema"]["maximum"]


def test_a_path_parameter_keeps_its_pattern(routes: list[Any]) -> None:
    (parameter,) = described(routes)["paths"]["/uploads/{id}"]["put"]["parameters"]

    assert ("path", True, "^(?:[0-9]+)$") == (
        parameter["in"],
        parameter["required"],
        parameter["schema"]["pattern"],
    )


def test_every_problem_a_route_can_answer_is_listed(routes: list[Any]) -> None:
    paths = described(routes)["paths"]

    assert {"200", "400", "408", "413", "415", "422", "500", "503"} == set(
        paths["/baskets"]["post"]["responses"]
    )
    assert {"200", "400", "404", "409", "500", "503"} == set(
        paths["/things/{id}"]["get"]["responses"]
    )
    conflict = paths["/things/{id}"]["get"]["responses"]["409"]
    assert "`sold-out`: There are not enough units" == conflict["description"]
    assert ["application/problem+json"] == list(conflict["content"])


def test_a_scoped_route_asks_for_the_key(routes: list[Any]) -> None:
    document = described(routes)
    operation = document["paths"]["/things/{id}"]["delete"]

    assert [{"apiKey": []}] == operation["security"]
    assert "things:write" == operation["x-scope"]
    assert {"401", "403"} <= set(operation["responses"])
    assert "security" not in document["paths"]["/find"]["get"]
