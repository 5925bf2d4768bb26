"""The pages for people need nothing but this server."""

import re

import httpx
import pytest

REFERENCES = re.compile(r"""(?:src|href|spec-url)=["']([^"']+)["']|url: '([^']+)'""")


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_refers_to_what_this_server_has(http: httpx.Client, page: str) -> None:
    answer = http.get(page)
    assert answer.status_code == 200
    assert "//" not in re.sub(r"^\s*//.*$", "", answer.text, flags=re.MULTILINE)
    references = ["".join(found) for found in REFERENCES.findall(answer.text)]
    assert "/openapi.json" in references
    assert any(reference.endswith(".js") for reference in references)
    for reference in references:
        assert http.get(reference).status_code == 200
