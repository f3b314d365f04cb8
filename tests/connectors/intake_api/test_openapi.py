"""Requests made from the OpenAPI document, right ones and wrong ones: the answers are those that it names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import hypothesis.errors
import pytest
import schemathesis
import schemathesis.errors
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.support.intake import ORDER, Intake, configuration

load_all_checks()
SETTINGS = hypothesis.settings(
    max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
# An event of the right shape may lack what the rules of its topic need, which no schema says: 422 is right then. And a
# batch is taken but for what is wrong in it: 207.
NOT_FOR_EVENTS = CHECKS.get_by_names(["positive_data_acceptance", "negative_data_rejection"])


@pytest.fixture(scope="module")
def server(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intake]:
    keys = {"shop": {"env": "SHOP_KEY"}}
    config = configuration(api_keys=keys)
    server = Intake(tmp_path_factory.mktemp("intake"), config, embedded, SHOP_KEY="secret").start()
    yield server
    assert "Traceback" not in server.log()
    server.close()


@pytest.fixture(scope="module")
def document(server: Intake) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


OPERATIONS = [
    ("/api/events/{topic}", "POST"),
    ("/api/products", "POST"),
    ("/api/products/{id}", "DELETE"),
    ("/health/live", "GET"),
    ("/health/ready", "GET"),
]


def test_all_operations_are_tried(document: schemathesis.BaseSchema) -> None:
    found = [result.ok() for result in document.get_all_operations()]
    assert sorted((one.path, one.method.upper()) for one in found) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_answer_is_off_the_document(
    document: schemathesis.BaseSchema, path: str, method: str, mode: GenerationMode
) -> None:
    headers = {} if path.startswith("/health") else {"Authorization": "Bearer secret"}
    excluded = NOT_FOR_EVENTS if path.startswith("/api/events") else []

    @hypothesis.settings(SETTINGS)
    @hypothesis.given(case=document[path][method].as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case) -> None:
        # The same key for another request would be refused, as it should be.
        own = {"Idempotency-Key": str(uuid.uuid4())} if mode is GenerationMode.POSITIVE else {}
        case.call_and_validate(headers=headers | own, excluded_checks=excluded)

    try:
        run()
    except (hypothesis.errors.Unsatisfiable, schemathesis.errors.InvalidSchema):
        assert path.startswith("/health"), "there is nothing that could be wrong about these alone"
        assert mode is GenerationMode.NEGATIVE


def test_each_example_of_the_document_is_right(server: Intake) -> None:
    document = server.client.get("/openapi.json").json()
    headers = {"Authorization": "Bearer secret"}
    tried = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                examples = [one["value"] for one in content.get("examples", {}).values()]
                for example in [*examples, *([content["example"]] if "example" in content else [])]:
                    url = path.replace("{topic}", "products")
                    body = {"content": example} if isinstance(example, str) else {"json": example}
                    answer = server.client.request(method, url, headers={**headers, "Content-Type": media_type}, **body)
                    assert answer.status_code == 202, (path, example, answer.text)
                    tried += 1
    assert tried == 4


def test_the_document_says_nothing_of_keys_where_there_are_none(embedded: str, tmp_path: Path) -> None:
    server = Intake(tmp_path, configuration(), embedded).start()
    document = server.client.get("/openapi.json").json()
    server.close()
    assert "securitySchemes" not in document["components"]
    operation = document["paths"]["/api/events/{topic}"]["post"]
    assert {"202", "207", "413", "422", "429", "503"} <= operation["responses"].keys()
    assert not {"200", "401", "403"} & operation["responses"].keys()
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    assert ORDER in [one["value"] for one in examples.values()]


def test_without_a_topic_of_products_there_are_no_paths_for_them(embedded: str, tmp_path: Path) -> None:
    config = configuration("orders")
    del config["intake"]["products_topic"]
    server = Intake(tmp_path, config, embedded).start(ready=False)
    assert server.client.get("/openapi.json").json()["paths"].keys() == {
        "/api/events/{topic}", "/health/live", "/health/ready"
    }  # fmt: skip
    assert server.client.post("/api/products", json={"id": 1, "name": "a", "price": 1}).status_code == 404
    server.close()
