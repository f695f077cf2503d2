"""Secrets in bodies: masked at their place, every other byte as it was, however the bytes come."""

import itertools
import json
import re
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Side
from proxy.secret import masked, masked_credentials
from proxy.store.bodies import members_of
from proxy.store.ingest import Ingest
from proxy.store.masked import Edit, MaskedLines, Read, SecretPaths, Walk, apply
from proxy.store.trace import Trace
from proxy.store.verify import verify
from tests.store.journal_builder import KEY, Journal

PATHS = ("integrations[].headers.*", "tools[].headers.*", "tools[].authorization")
SECRETS = SecretPaths(PATHS, KEY)
CHAT = (
    b'{ "model":"m", "input":"\\"headers\\": {\\"a\\": \\"not a secret\\"}","headers":{"a":"stays"},\n'
    b' "integrations":["mcp/one",{"type":"ephemeral_mcp",'
    b'"headers":{"Authorization":"Bearer s3cr\\u0065t","X":"%s","n":1},'
    b'"headers":{"again":"third"}}],"tools":[{"headers":{"deep":{"er":["fourth"]}},"authorization":"fifth",'
    b'"function":{"headers":{"a":"stays too"}}}],"temperature":1.50}'
)


def mask(secret: bytes) -> bytes:
    """What stands in its place."""
    return masked_credentials(secret, KEY)


def test_secrets_are_masked_in_place_and_nothing_else() -> None:
    body = CHAT.replace(b"%s", b"second")
    expected = body.replace(b"Bearer s3cr\\u0065t", mask(b"Bearer s3cret"))
    for secret in (b"second", b"third", b"fourth", b"fifth"):
        expected = expected.replace(secret, mask(secret))
    assert SECRETS.mask(body) == (expected, 5)
    assert json.loads(expected)["integrations"][1]["headers"] == {"again": mask(b"third").decode()}


def test_a_name_written_with_escapes_is_found() -> None:
    body = b'{"tools":[{"he\\u0061ders":{"a":"secret"}}]}'
    assert SECRETS.mask(body) == (body.replace(b"secret", mask(b"secret")), 1)


OWN_PATHS = (*PATHS, "x-1.token", "x-1.é.*", "a1[].b2.c-d", "a/b.c", "*.key2")


@given(path=st.sampled_from(OWN_PATHS), escaped=st.lists(st.integers(0, 12), min_size=4, max_size=4))
def test_the_cheap_check_passes_no_secret_over_however_its_path_is_written(path: str, escaped: list[int]) -> None:
    text = '"secret"'
    for step, at in zip(reversed(re.findall(r"\[\]|[^.\[\]]+", path)), escaped, strict=False):
        name = "".join(f"\\u{ord(c):04x}" if index == at else c for index, c in enumerate(step))
        text = f"[{text}]" if step == "[]" else f'{{"{name}":{text}}}'
    secrets = SecretPaths(OWN_PATHS, KEY)
    body = text.encode()
    assert secrets.mask(body) == (body.replace(b"secret", mask(b"secret")), 1)
    assert secrets.may_enter(body)
    assert secrets.may_begin(body, is_entered=False)
    members = members_of(body)
    assert members is not None
    assert secrets.may_lie_below(members)


@pytest.mark.parametrize("cut", range(len(CHAT)))
def test_json_that_is_cut_short_shows_no_secret(cut: int) -> None:
    secret = b"very-long-secret-that-may-be-cut"
    body = CHAT.replace(b"%s", secret)[:cut]
    found, count = SECRETS.mask(body)
    assert b"very-" not in found
    if not count:
        assert found == body


def test_the_events_of_the_responses_api_repeat_the_request() -> None:
    body = b'{"type":"response.created","response":{"tools":[{"type":"mcp","headers":{"a":"secret"}}]}}'
    assert SECRETS.mask(body) == (body.replace(b"secret", mask(b"secret")), 1)


@given(cuts=st.sets(st.integers(1, 600), max_size=30), secret=st.text(max_size=20))
def test_a_walk_in_pieces_finds_the_same(cuts: set[int], secret: str) -> None:
    body = CHAT.replace(b"%s", json.dumps(secret)[1:-1].encode())
    whole = Walk(SECRETS)
    expected = apply(body, whole.edits(body, is_end=True))
    walk = Walk(SECRETS)
    out, rest, start = b"", b"", 0
    for end in [*sorted(cut for cut in cuts if cut < len(body)), len(body)]:
        rest += body[start:end]
        start = end
        edits = walk.edits(rest, is_end=end == len(body))
        consumed = len(rest) if end == len(body) else walk.consumed
        out += apply(rest[:consumed], edits)
        rest = rest[consumed:]
    assert out == expected


def test_a_long_text_is_not_kept_until_its_end() -> None:
    walk = Walk(SECRETS)
    assert walk.edits(b'{"input":"' + b"a" * 100_000, is_end=False) == []
    assert walk.consumed == 100_010
    assert walk.edits(b'b\\" \\"headers\\":{}', is_end=False) == []
    edits: list[Edit] = walk.edits(b'","tools":[{"authorization":"s"}]}', is_end=True)
    assert [edit[:2] for edit in edits] == [(29, 30)]


# --- addresses --------------------------------------------------------------------------------------------------------


def in_url(body: bytes, *secrets: bytes) -> bytes:
    """The body as it is to be stored, these being secret parts of its URLs."""
    for secret in secrets:
        assert body.count(secret) == 1
        body = body.replace(secret, masked(secret, KEY))
    return body


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        (b"https://host/mcp?api_key=s3cret", [b"s3cret"]),
        (b"https://host/mcp?profile=p&tavilyApiKey=s3cret&x=1#access_token=s4cret", [b"s3cret", b"s4cret"]),
        (b"https://host/mcp?X-Amz-Signature=s3cret;y&X-Amz-Date=5", [b"s3cret;y"]),
        (b"https://us:s3cret@host:8080/mcp?TOKEN=s4cret", [b"us:s3cret", b"s4cret"]),
        (b"host/mcp?a=1;key=s3cret", [b"s3cret"]),
        (rb"https:\/\/host\/mcp?a=1\u0026api_key\u003ds3cret\u0026b=2", [b"s3cret"]),
        (rb"https:\/\/us:s3cret@host\/mcp@2", [b"us:s3cret"]),
        (b"https://host/mcp?token=https://a:b@c", [b"https://a:b@c"]),
        (b"https://host/mcp?to=https://a:b@c&key=s3cret", [b"a:b", b"s3cret"]),
    ],
)
@pytest.mark.parametrize("name", [b"server_url", b"url", b"base_url"])
def test_secrets_in_the_url_beside_a_masked_field_are_masked_alone(
    url: bytes, secrets: list[bytes], name: bytes
) -> None:
    body = b'{"tools":[{"type":"mcp","%s":"%s","x":"%s"}]}' % (name, url, b"?key=stays")
    assert SECRETS.mask(body) == (in_url(body, *secrets), len(secrets))
    body = b'{"response":{"integrations":["mcp/x",{"%s":"%s"}]}}' % (name, url)
    assert SECRETS.mask(body) == (in_url(body, *secrets), len(secrets))


@pytest.mark.parametrize(
    "body",
    [
        b'{"tools":[{"url":"https://host:80/mcp?profile=p&max=5#part"},{"url":"?key="},{"url":5},{"url":["?key=a"]}]}',
        b'{"messages":[{"content":[{"image_url":{"url":"https://host/a.png?key=stays"}}]}],"url":"https://a:b@c"}',
        b'{"tools":[{"url":{"url":"https://host/?key=stays"}}],"input":"\\"url\\":\\"https://host/?key=stays\\""}',
    ],
    ids=["nothing secret", "elsewhere", "deeper"],
)
def test_other_urls_stay_as_they_are(body: bytes) -> None:
    assert SECRETS.mask(body) == (body, 0)


def test_a_key_has_one_digest_in_a_url_and_in_a_header() -> None:
    body = b'{"tools":[{"server_url":"https://h/?api_key=s3%2Bcr%65t","headers":{"X-Key":"s3+cret"}}]}'
    found, count = SECRETS.mask(body)
    assert (found.count(masked(b"s3+cret", KEY)), count) == (2, 2)


def test_the_url_beside_a_field_of_ones_own_is_masked() -> None:
    secrets = SecretPaths(["servers.*.token", "password"], KEY)
    body = (
        b'{"url":"https://us:s3cret@h","servers":{"a":{"base_url":"https://h?key=s4cret"},"url":"https://h?key=stays"}}'
    )
    assert secrets.mask(body) == (in_url(body, b"us:s3cret", b"s4cret"), 2)


URL_BODY = b'{"tools":[{"base_url":"https://us:s3cret@host:80/mcp?a=1\\u0026api_key=s4cret&b=2","x":1}]}'


@pytest.mark.parametrize("cut", range(len(URL_BODY)))
def test_a_url_that_is_cut_short_shows_no_secret(cut: int) -> None:
    found, _ = SECRETS.mask(URL_BODY[:cut])
    assert b"s3" not in found
    assert b"s4" not in found


@pytest.mark.parametrize("cut", range(1, len(URL_BODY)))
def test_a_url_in_pieces_is_masked_as_a_whole_one_is(cut: int) -> None:
    walk, expected = Walk(SECRETS), SECRETS.mask(URL_BODY)[0]
    edits = walk.edits(URL_BODY[:cut], is_end=False)
    out = apply(URL_BODY[: walk.consumed], edits)
    rest = URL_BODY[walk.consumed :]
    assert out + apply(rest, walk.edits(rest, is_end=True)) == expected
    lines = MaskedLines(SECRETS)
    found = lines.add(1, b"data: " + URL_BODY[:cut]) + lines.add(2, URL_BODY[cut:] + b"\n\n") + lines.end()
    assert b"".join(data for _, data in found) == b"data: " + expected + b"\n\n"
    assert lines.masked == 2


def test_a_long_url_is_searched_in_time_that_grows_with_it() -> None:
    """A data URL, escapes, and many separators: each would take minutes if places were tried again and again."""
    for part in (b";base64,AAAA", b"?&;#", b"//", b"\\\\", b"?key", b"a:", b"\\u0026key\\u003d"):
        body = b'{"tools":[{"url":"' + part * (300_000 // len(part)) + b'"}]}'
        start = time.perf_counter()
        SECRETS.mask(body)
        SECRETS.mask(body[:-5])
        assert time.perf_counter() - start < 5


# --- lines ------------------------------------------------------------------------------------------------------------

EVENT = (
    b'event: response.created\ndata: {"response":{"tools":[{"server_description":"longer than the seam of two reads '
    b'in which a name is looked for","headers":{"a":"first","b":"second"}}],"x":"%s"}}\n\n'
)
STREAM = (
    b'data: {"delta":"\xc3\xbc"}\n\n'
    + EVENT
    + b'data: {"delta":"the \\"headers\\" word"}\n\n'
    + EVENT
    + b"data: [DONE]\n\n"
)


def masked_stream() -> bytes:
    """What is to be stored of `STREAM`."""
    return STREAM.replace(b'"first"', b'"' + mask(b"first") + b'"').replace(b'"second"', b'"' + mask(b"second") + b'"')


LINE_ENDS = [match.end() for match in re.finditer(rb"\n", STREAM[:-1])]


@given(
    cuts=st.sets(st.one_of(st.integers(1, len(STREAM) - 1), st.sampled_from(LINE_ENDS)), max_size=40),
    groups=st.sets(st.integers(1, 40)),
)
def test_lines_are_masked_however_they_are_read_and_taken_together(cuts: set[int], groups: set[int]) -> None:
    lines = MaskedLines(SECRETS)
    edges = [0, *sorted(cuts), len(STREAM)]
    reads = [(number, STREAM[start:end]) for number, (start, end) in enumerate(itertools.pairwise(edges))]
    found: list[Read] = []
    for start, end in itertools.pairwise(sorted({0, len(reads), *(at for at in groups if at < len(reads))})):
        some = reads[start:end]
        is_free = lines.may_pass(b"".join(data for _, data in some))
        found += some if is_free else [ready for read in some for ready in lines.add(*read)]
    found += lines.end()
    assert b"".join(data for _, data in found) == masked_stream()
    assert [at_us for at_us, _ in found] == list(range(len(edges) - 1))
    assert lines.masked == 4


@given(cuts=st.sets(st.integers(1, len(STREAM) - 1), max_size=40), restarts=st.sets(st.integers(0, 40)))
def test_lines_are_masked_across_restarts(cuts: set[int], restarts: set[int]) -> None:
    lines = MaskedLines(SECRETS)
    edges = [0, *sorted(cuts), len(STREAM)]
    found: list[tuple[int, bytes]] = []
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        if number in restarts:
            again = MaskedLines(SECRETS)
            again.masked = lines.masked
            for _, data in found:
                again.passed(data)
            for held in lines.held:
                again.resume(*held)
            lines = again
        found += lines.add(number, STREAM[start:end])
    found += lines.end()
    assert b"".join(data for _, data in found) == masked_stream()
    assert lines.masked == 4


@pytest.mark.parametrize("name", ["x-api-key", "é", "n" * 70])
def test_a_name_of_any_form_is_found_in_lines_and_holds_no_others_back(name: str) -> None:
    lines = MaskedLines(SecretPaths([*PATHS, name], KEY))
    line = f'data: {{"{name}":"secret"}}\n'.encode()
    other = b'data: {"delta":"a"}\n'
    for data in (other, line, other):
        found = [one for at in range(len(data)) for _, one in lines.add(0, data[at : at + 1])]
        assert lines.held == []
        assert b"".join(found) == data.replace(b"secret", mask(b"secret"))


def test_a_secret_that_is_not_utf8_is_masked() -> None:
    for body in (b'{"tools":[{"authorization":"s\xff"}]}', b'{"caf\xe9":1,"tools":[{"authorization":"s\xff"}]}'):
        masked_body, count = SECRETS.mask(body)
        assert (count, b"s\xff" in masked_body) == (1, False)
        assert members_of(body) is None or SECRETS.may_lie_below(members_of(body) or {})


def test_a_line_without_secrets_is_not_held_back() -> None:
    lines = MaskedLines(SECRETS)
    assert lines.add(1, b'data: {"delta":"half') == [(1, b'data: {"delta":"half')]
    assert lines.add(2, b' done"}\n\n') == [(2, b' done"}\n\n')]
    assert lines.held == []


def test_a_line_cut_short_shows_no_secret() -> None:
    lines = MaskedLines(SECRETS)
    assert lines.add(1, b'data: {"tools":[{"headers":{"a":"sec') == []
    assert lines.end() == [(1, b'data: {"tools":[{"headers":{"a":"' + mask(b"sec"))]


def test_a_secret_never_lies_open_in_the_traces_files_while_its_exchange_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trace.db")
    number = journal.open()
    body = b'{"model":"m","tools":[{"type":"mcp","authorization":"very-secret-token"}]}'
    journal.data(number, Side.CLIENT, body)
    journal.write()
    ingest = Ingest(journal.trace, key=KEY, body_fields=("tools[].authorization",))
    while ingest.run_once():
        pass
    files = [path for path in tmp_path.iterdir() if path.name.startswith("trace.db") and path.is_file()]
    assert any(b"recorded_exchanges" in path.read_bytes() for path in files)
    assert all(b"very-secret-token" not in path.read_bytes() for path in files)
    with Trace.open(journal.trace) as trace:
        shown = b"".join(trace.body(1, Side.CLIENT))
    assert shown == body.replace(b"very-secret-token", mask(b"very-secret-token"))
    ingest.close()


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("tools", [b'"tools"', b'"to\\u006fls"', '"é":1,"tools"'.encode()])
def test_what_waits_unsealed_is_no_part_of_a_secret_however_it_was_read(
    tmp_path: Path, tools: bytes, restarts: bool
) -> None:
    body = b'{"model":"m",' + tools + b':[{"type":"mcp","authorization":"QZQZQZQZ"}],"n":[1,2]}'
    journal = Journal(tmp_path / "t.db")
    ingest = Ingest(journal.trace, key=KEY, body_fields=("tools[].authorization",))
    for first, second in ((at, at + step) for step in (1, 7, len(body)) for at in range(1, len(body))):
        number = journal.open()
        for data in (body[:first], body[first:second], body[second:]):
            if data:
                journal.data(number, Side.CLIENT, data)
                journal.next_segment()  # taken in by itself
    ingest.hold_bytes = 0
    while ingest.run_once():
        if restarts:
            ingest.close()
            ingest = Ingest(journal.trace, key=KEY, body_fields=("tools[].authorization",))
            ingest.hold_bytes = 0
    connection = sqlite3.connect(journal.trace)
    unsealed = connection.execute(
        "SELECT data FROM staged_chunks WHERE typeof(data) = 'text' ORDER BY exchange_id, seq"
    ).fetchall()
    connection.close()
    assert unsealed
    assert not any(set(data) & set("QZ") for (data,) in unsealed)
    with Trace.open(journal.trace) as trace:
        for number in range(1, journal.exchange + 1):
            assert b"".join(trace.body(number, Side.CLIENT)) == body.replace(b"QZQZQZQZ", mask(b"QZQZQZQZ"))
            journal.close(number)
    journal.write()
    while ingest.run_once():
        pass
    ingest.close()
    report = verify(journal.trace)
    assert report.is_ok
    with Trace.open(journal.trace) as trace:
        for number in range(1, journal.exchange + 1):
            assert b"".join(trace.body(number, Side.CLIENT)) == body.replace(b"QZQZQZQZ", mask(b"QZQZQZQZ"))


def test_after_what_is_not_utf8_a_body_waits_sealed(tmp_path: Path) -> None:
    """Where it is masked, such a name is read as Latin-1."""
    journal = Journal(tmp_path / "t.db")
    number = journal.open()
    for data in (b'{"\xe9":', b'{"tok":"very-secret"},', b'"n":1}'):
        journal.data(number, Side.CLIENT, data)
        journal.next_segment()
    ingest = Ingest(journal.trace, key=KEY, body_fields=("é.tok",))
    ingest.hold_bytes = 0
    while ingest.run_once():
        pass
    ingest.close()
    connection = sqlite3.connect(journal.trace)
    staged = connection.execute("SELECT typeof(data), instr(data, 'very-secret') FROM staged_chunks").fetchall()
    connection.close()
    assert staged == [("blob", 0)] * 3
