"""How SDKs and command line tools find LM Studio.

Facts (lmstudio-api.md 1.1, 1.3; clients.md 2)
----------------------------------------------
* `GET /lmstudio-greeting` gives exactly `{"lmstudio":true}`; SDKs only test that the field is true.
* `GET /lms-status` gives `{"package":"lmstudio","version":"1.2.3"}` on the SDK's ports; on 1234 it may be unknown.
"""

from proxy.meaning import Json, Operation
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.reader import Claim, RequestHead

_PATHS = ("/lmstudio-greeting", "/lms-status")


class Discovery:
    """`GET /lmstudio-greeting` and `GET /lms-status`."""

    name = "discovery"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """See `Dialect`."""
        return Claim.YES if head.method == "GET" and head.path.rstrip("/") in _PATHS else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.OTHER

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`: there is nothing to ask."""

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        if head.path.rstrip("/") == "/lmstudio-greeting":
            found: dict[str, Json] = {"lmstudio": body.flag("lmstudio")}
        else:
            found = {name: body.text(name) for name in ("package", "version")}
        call.details |= {name: value for name, value in found.items() if value is not None}

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`: none is known here."""
        call.problem("unknown_event", name[:200])
