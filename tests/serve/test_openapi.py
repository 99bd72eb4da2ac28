"""The published schema, and the service held against it with requests of all kinds."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: the schema is not fuzzed")

from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

from serve.process import odd_server  # noqa: E402

ROUTES = [
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/v1/models"),
    ("post", "/classify"),
    ("post", "/pooling"),
]
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]

some = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def schema():
    with odd_server() as server:
        yield schemathesis.openapi.from_url(f"{server.address}/openapi.json")


def test_every_route_is_in_the_schema(schema):
    assert sorted((method, path) for path in schema for method in schema[path]) == ROUTES


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_answers_requests_of_its_form_as_the_schema_says(schema, method, path):
    fuzz(schema[path][method], schemathesis.GenerationMode.POSITIVE)


@pytest.mark.parametrize("path", ["/classify", "/pooling"])
def test_requests_of_any_other_form_are_refused_as_the_schema_says(schema, path):
    fuzz(schema[path]["post"], schemathesis.GenerationMode.NEGATIVE)


def fuzz(operation, mode) -> None:
    @some
    @given(case=operation.as_strategy(generation_mode=mode))
    def agrees(case):
        # What is a sound picture, or a conversation with pictures in the right places, is beyond a schema.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    agrees()


PICTURE = st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, st.text(max_size=30))
TEXT = st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=30))
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional={"content": st.text(max_size=30) | st.lists(PICTURE | TEXT | st.none(), max_size=3)},
)


@some
@given(
    body=st.fixed_dictionaries(
        {},
        optional={
            "messages": st.lists(MESSAGE, max_size=4) | st.none(),
            "input": st.text() | st.lists(st.text(), max_size=4) | st.integers(),
            "model": st.sampled_from(["odd", "", None, 3]),
            "use_activation": st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "encoding_format": st.sampled_from(["float", "base64", 1]),
            "task": st.sampled_from(["classify", "embed", None]),
        },
    )
)
@pytest.mark.parametrize("path", ["/classify", "/pooling"])
def test_requests_of_nearly_the_right_form_are_answered_as_the_schema_says(schema, path, body):
    case = schema[path]["post"].Case(body=body, media_type="application/json")
    assert case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code < 500
