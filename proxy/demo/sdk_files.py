"""/files of the SDK: uploads, kept in memory; what text files say; what in them is near a question.

S, lmstudio-js packages/lms-external-backend-interfaces/src/filesBackendInterface.ts and FileType.ts. Only text is
read: other documents are refused, for there is no parser here. Which type a name has: U.
"""

import base64
import binascii
import platform
import secrets
from pathlib import PurePosixPath

from proxy.demo.sdk_clients import UploadedFile
from proxy.demo.sdk_endpoints import Channel, ChannelEndpoint, Context, Json, Namespace, Parameter, Rpc
from proxy.demo.sdk_errors import SdkError
from proxy.demo.sdk_history import text_of
from proxy.demo.sdk_retrieval import RetrieveParameter, retrieve

_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")
_TYPES = {
    ".txt": "text/plain",
    ".pdf": "application/pdf",
    ".doc": "application/word",
    ".docx": "application/word",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"), "image"),
}
_PARSER = {"library": "python", "version": platform.python_version()}
"""What reads text here."""


class FileNameParameter(Parameter):
    """A file of the application."""

    file_name: str


class UploadParameter(Parameter):
    """A file and its content."""

    name: str
    content_base64: str


class FileParameter(Parameter):
    """An uploaded file."""

    file_identifier: str


class ParserId(Parameter):
    """What reads a document."""

    library: str
    version: str


class ParseOptions(Parameter):
    """How to read it."""

    parser_id: ParserId | None = None


class ParseParameter(Parameter):
    """A file to read."""

    file_identifier: str
    parse_opts: ParseOptions


def file_type(name: str, content: bytes) -> str:
    """One of the protocol's types, by content where that tells, else by name."""
    if content.startswith(_IMAGES) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP"):
        return "image"
    known = _TYPES.get(PurePosixPath(name).suffix.lower())
    if known is not None:
        return known
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "unknown"
    return "text/other"


async def upload(context: Context, parameter: UploadParameter) -> Json:
    """Keep a file until its client's last connection ends."""
    try:
        content = base64.b64decode(parameter.content_base64, validate=True)
    except binascii.Error as error:
        raise SdkError(f'The content of "{parameter.name}" is not base64', cause=str(error)) from None
    identifier = secrets.token_hex(16) + PurePosixPath(parameter.name).suffix
    file = UploadedFile(identifier, parameter.name, file_type(parameter.name, content), content)
    context.client.files[identifier] = file
    return {"identifier": identifier, "fileType": file.type, "sizeBytes": len(content)}


async def local_path(context: Context, parameter: FileNameParameter) -> Json:
    """There is no folder for files, so there is no path."""
    raise SdkError(
        f'Cannot find the local file "{parameter.file_name}"',
        cause="This is proxy-log's imitation of LM Studio: it keeps uploads in memory and has no files of its own.",
    )


def uploaded(context: Context, identifier: str) -> UploadedFile:
    """A file of this client.

    Raises:
        SdkError: there is none.
    """
    if identifier not in context.client.files:
        raise SdkError(f'Cannot find the file "{identifier}"', cause="This client has not uploaded it.")
    return context.client.files[identifier]


async def parsing_library(context: Context, parameter: FileParameter) -> Json:
    """What would read a file."""
    text_of(uploaded(context, parameter.file_identifier))
    return dict(_PARSER)


async def parse(context: Context, parameter: ParseParameter, channel: Channel) -> None:
    """The text of a text file."""
    content = text_of(uploaded(context, parameter.file_identifier))
    await channel.send({"type": "parserLoaded", "parser": dict(_PARSER)})
    await channel.send({"type": "progress", "progress": 1})
    await channel.send({"type": "result", "content": content, "parser": dict(_PARSER)})


async def search(context: Context, parameter: RetrieveParameter, channel: Channel) -> None:
    """The passages of text files that are nearest to a question."""
    files = [uploaded(context, identifier) for identifier in parameter.file_identifiers]
    await channel.until_stopped(retrieve(context.look, parameter, files, channel))


NAMESPACE = Namespace(
    "files",
    rpcs={
        "getLocalFileAbsolutePath": Rpc(FileNameParameter, local_path),
        "uploadFileBase64": Rpc(UploadParameter, upload),
        "getDocumentParsingLibrary": Rpc(FileParameter, parsing_library),
    },
    channels={
        "retrieve": ChannelEndpoint(RetrieveParameter, search, stop_message="stop"),
        "parseDocument": ChannelEndpoint(ParseParameter, parse),
    },
)
