"""Every sample of the digest is reproduced in form; `same_form` tells every difference of form, and none of values."""

import asyncio
import re
from typing import Any

import pytest

from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.sdk_socket import NAMESPACES
from tests.demo import facts_compatible, facts_errors, facts_rest, facts_sdk, facts_sdk_calls
from tests.demo.facts import Fact
from tests.demo.lookalikes import running
from tests.demo.samples import same_form


@pytest.mark.parametrize(
    ("sample", "got"),
    [
        ({"a": 1, "b": "x"}, {"a": 2, "b": ""}),
        (1.5, 2),
        ([{"a": None}], [{"a": None}, {"a": None}]),
        ([], [1, "x"]),
        (re.compile("x+"), "xxx"),
        (("x", None), None),
        (Any, {"whatever": 1}),
    ],
)
def test_same_form_is_accepted(sample: Any, got: Any) -> None:
    same_form(sample, got)


@pytest.mark.parametrize(
    ("sample", "got", "words"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, r"\$: keys in the order \['b', 'a'\] instead of \['a', 'b'\]"),
        ({"a": 1}, {}, r"missing: \['a'\]"),
        ({}, {"a": 1}, r"not in the sample: \['a'\]"),
        ({"a": {"b": 1}}, {"a": {"b": "1"}}, r"\$\.a\.b: string '1' instead of integer 1"),
        (1, 1.5, "number 1.5 instead of integer 1"),
        (1, True, "boolean True instead of integer 1"),
        (None, 0, "integer 0 instead of null None"),
        ({}, [], r"array \[\] instead of object"),
        ([{"a": 1}], [{"a": 1}, {}], r"\$\[1\]: keys"),
        ([1], [], "an empty list; the sample has 1 in it"),
        (re.compile("x+"), "xy", r"'xy' does not match x\+"),
        (re.compile("x+"), 1, r"1 does not match"),
        (("x", None), 1, "none of the choices"),
    ],
)
def test_other_form_is_refused_and_says_where(sample: Any, got: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        same_form(sample, got)


def test_optional_keys_may_be_missing_but_not_wrong() -> None:
    sample = {"a": [{"b": 1, "c": 2}]}
    same_form(sample, {"a": [{"b": 1}, {"b": 1, "c": 2}]}, optional=["c"])
    with pytest.raises(AssertionError, match=r"\$\.a\[0\]\.c: string"):
        same_form(sample, {"a": [{"b": 1, "c": "x"}]}, optional=["c"])


# --- the samples themselves -------------------------------------------------------------------------------------------

FACTS = [*facts_compatible.FACTS, *facts_errors.FACTS, *facts_rest.FACTS, *facts_sdk.FACTS, *facts_sdk_calls.FACTS]
SECTIONS = """
    1.4  2.1 2.2 2.3 2.4 2.5 2.6 2.7 2.8  3.1 3.2 3.3  4.1 4.2 4.3 4.4 4.5 4.6 4.7 4.8
    5.2 5.3 5.4 5.6 5.7 5.8 5.9 5.10  6.1  8
"""
"""Those of the digest that have samples; 5.5 is a table of endpoints: see `test_endpoints_are_those_of_the_table`."""


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: f"{fact.section} {fact.name}")
def test_sample_is_reproduced_in_form(fact: Fact) -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        async with running(engine, **fact.switches) as server:
            same_form(fact.sample, await fact.provoke(server, engine), optional=fact.optional)

    asyncio.run(main())


def test_no_section_is_without_samples_and_no_sample_is_there_twice() -> None:
    assert list(dict.fromkeys(fact.section for fact in sorted(FACTS, key=_place))) == SECTIONS.split()
    names = [(fact.section, fact.name) for fact in FACTS]
    assert len(names) == len(set(names))


def _place(fact: Fact) -> list[int]:
    return [int(part) for part in fact.section.split(".")]


def test_endpoints_are_those_of_the_table() -> None:
    """Every namespace's of section 5.5, but for plug-ins, and what would change engines or accounts."""
    told = {name: set(one.rpcs) | set(one.channels) for name, one in NAMESPACES.items()}
    common = {"loadModel", "getOrLoad", "unloadModel", "listLoaded", "getModelInfo", "getLoadConfig"}
    common |= {"getBasePredictionConfig", "getInstanceProcessingState", "estimateModelUsage", "tokenize", "countTokens"}
    llm = {"predict", "completeRawText", "applyPromptTemplate", "preloadDraftModel"}
    system = {"alive", "listDownloadedModels", "listDownloadedModelVariants", "notify", "version", "info"}
    system |= {"setExperimentFlag", "getExperimentFlags", "startHttpServer", "stopHttpServer", "requestShutdown"}
    files = {"retrieve", "parseDocument", "getLocalFileAbsolutePath", "uploadFileBase64", "getDocumentParsingLibrary"}
    assert told["llm"] == common | llm
    assert told["embedding"] == common | {"embedString"}
    assert told["system"] == system
    assert told["diagnostics"] == {"streamLogs"}
    assert told["files"] == files
    assert told["runtime"] == {"listEngines", "getEngineSelections"}
    assert {"searchModels", "getModelDownloadOptions", "downloadModel"} <= told["repository"]
    assert "plugins" not in told
