import pytest

from squeezetune.serving.docs import PROTECTED, describe_api
from squeezetune.serving.limits import Limits


def list_references(value):
    if isinstance(value, dict):
        found = [value["$ref"]] if "$ref" in value else []
        return found + [name for item in value.values() for name in list_references(item)]
    return (
        [name for item in value for name in list_references(item)]
        if isinstance(value, list)
        else []
    )


def test_all_references_lead_somewhere():
    api = describe_api(Limits(), has_token=True)
    known = {f"#/components/schemas/{name}" for name in api["components"]["schemas"]}
    assert set(list_references(api)) == known


@pytest.mark.parametrize("has_token", [False, True])
def test_a_token_is_described_where_it_is_asked_for(has_token):
    paths = describe_api(Limits(), has_token=has_token)["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert (
                ("security" in operation)
                == ("401" in operation["responses"])
                == (has_token and path in PROTECTED)
            )


def test_answers_have_the_fields_that_are_described(running, files, write_form):
    api = running.ask("GET", "/openapi.json")[2]
    schemas = api["components"]["schemas"]
    answer = running.predict(*write_form([files[0], b"none"]))[2]
    assert set(answer) == set(schemas["Answer"]["required"])
    predicted, failed = schemas["Answer"]["properties"]["images"]["items"]["oneOf"]
    assert [set(item) for item in answer["images"]] == [
        set(predicted["required"]),
        set(failed["required"]),
    ]
    assert set(running.predict(b"none")[2]) == set(schemas["NoImage"]["required"])
    for path, schema in (("/model", "ModelDescription"), ("/ready", "Status")):
        assert set(running.ask("GET", path)[2]) == set(schemas[schema]["properties"])
