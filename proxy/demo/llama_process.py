"""The demo's engine: llama.cpp's own HTTP server, in a process of its own.

Its own, so that a crash in native code ends the model and not the proxy. The process (`main` below) says one line of
JSON when it listens or when it cannot, and ends with its standard input: it never outlives the one that started it,
however that one dies.
"""

import argparse
import importlib.util
import os
import threading
from pathlib import Path
from typing import Any, Self

from proxy.demo.child import Child, begin
from proxy.errors import MissingExtraError, ProxyLogError

DEFAULT_CONTEXT_LENGTH = 2048
DEFAULT_PARALLEL = 2
"""Requests answered at the same time; others wait."""
DEFAULT_BATCH = 64
"""Tokens of a prompt that are processed in one go. Only between two of them does llama.cpp look whether the client is
still there and tell its progress; with 64, a prompt takes 3 % longer than with its own 2048 (measured, 1 thread)."""
_NO_ENGINE = (
    "the demo's model needs llama.cpp (the package xllamacpp), which {problem}; install it with: "
    "pip install 'proxy-log[demo]'. Without it, `proxy-log serve` works with LM Studio or any other server"
)


def require_engine() -> None:
    """Refuse to go on where llama.cpp is not installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError(_NO_ENGINE.format(problem="is not installed"))


class LlamaProcess:
    """A running model server; a context manager that ends it."""

    has_gpu = False
    """llama.cpp found one, and uses it unless it was told not to."""

    def __init__(self, child: Child, url: str, model: str, model_file: Path) -> None:
        self._child = child
        self.url = url
        """Where it listens: `http://127.0.0.1:PORT`."""
        self.model = model
        """What `/v1/models` calls the model."""
        self.model_file = model_file
        self.log = child.log
        """llama.cpp's own words."""

    @classmethod
    def start(
        cls,
        model_file: Path,
        *,
        model: str,
        log: Path,
        port: int = 0,
        context_length: int = DEFAULT_CONTEXT_LENGTH,
        parallel: int = DEFAULT_PARALLEL,
        is_embedding: bool = False,
        batch: int = DEFAULT_BATCH,
        flash_attention: bool = True,
        seed: int = -1,
        gpu: bool = True,
        kv_on_gpu: bool = True,
    ) -> Self:
        """Load a model and serve it on 127.0.0.1; returns when it answers.

        Args:
            model_file: a GGUF file.
            model: what to call it.
            log: written anew with llama.cpp's log.
            port: 0 lets the system choose one.
            context_length: tokens that one request and its answer may have; llama.cpp rounds up to multiples of 256,
                and down to what the model was trained for.
            parallel: requests answered at the same time, each with a context of that length.
            is_embedding: it makes embeddings, the mean over the tokens, and no text.
            batch: tokens of a prompt that are processed in one go.
            flash_attention: whether attention is computed that way.
            seed: of requests that have none; -1: another one each time.
            gpu: let a GPU compute, if there is one.
            kv_on_gpu: let it keep the context, too.

        Raises:
            MissingExtraError: llama.cpp is not installed, or not for this platform.
            ProxyLogError: the model cannot be loaded, or the port is taken.
        """
        require_engine()
        arguments = ["--model-file", str(model_file), "--model", model, "--port", str(port)]
        arguments += ["--context-length", str(context_length), "--parallel", str(parallel)]
        arguments += ["--batch", str(batch), "--seed", str(seed)]
        flags = {"embedding": is_embedding, "flash-attention": flash_attention, "gpu": gpu, "kv-on-gpu": kv_on_gpu}
        arguments += [f"--{name}" for name, is_set in flags.items() if is_set]
        engine = cls(Child.start("proxy.demo.llama_process", arguments, log=log), "", model, model_file)
        try:
            engine._await_url(port)
        except BaseException:
            engine.stop()
            raise
        return engine

    def _await_url(self, port: int) -> None:
        said = self._child.next_line()
        if "import_error" in said:
            raise MissingExtraError(_NO_ENGINE.format(problem=f"does not work here ({said['import_error']})"))
        if "url" not in said:
            self._child.await_end()  # llama.cpp writes its log from another thread, and to its end only as it ends
            why = said.get("error") or f"the engine {self.ended()}"
            raise ProxyLogError(
                f"{self.model_file}: llama.cpp cannot serve this model{f' at port {port}' if port else ''}: {why}\n"
                + "".join(f"  {line}\n" for line in self._last_errors())
                + f"Its log is {self.log}; --model FILE takes another GGUF file, --port another port"
            )
        self.url, self.has_gpu = said["url"], said["gpu"]

    def _last_errors(self) -> list[str]:
        """The last lines of the log that llama.cpp itself calls errors."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.split(" ", 2)[1:2] == ["E"]][-3:]

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    def ended(self) -> str | None:
        """How the process ended, in words; None while it runs."""
        return self._child.ended()

    def stop(self) -> None:
        """End it at once; nothing happens if it has ended."""
        self._child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# --- in the process of its own ----------------------------------------------------------------------------------------


def _start_server(arguments: argparse.Namespace) -> Any:
    """llama.cpp's server, which runs in native threads as long as the object lives."""
    import xllamacpp  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 - the one place that needs the extra

    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model_file
    parameters.model_alias = {arguments.model}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = arguments.port
    parameters.n_parallel = arguments.parallel
    parameters.n_ctx = arguments.context_length * arguments.parallel  # llama.cpp shares it out among the slots
    parameters.n_batch = parameters.n_ubatch = arguments.batch
    attention = xllamacpp.llama_flash_attn_type
    parameters.flash_attn_type = (
        attention.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if arguments.flash_attention
        else attention.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    parameters.no_kv_offload = not arguments.kv_on_gpu
    if not arguments.gpu:
        parameters.n_gpu_layers = 0
    if arguments.seed >= 0:
        parameters.sampling.seed = arguments.seed & 0xFFFFFFFF
    if arguments.embedding:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        parameters.n_batch = parameters.n_ubatch = arguments.context_length  # it takes no text in parts
    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        # Threads that outnumber the free cores wait for each other: with one core busy, all of them made it 10 times
        # slower than half. Nor may they spin while they wait.
        threads.n_threads = max(1, (os.cpu_count() or 1) // 2)
        threads.poll = 0
    parameters.fit_params = False  # reads the file once more to find out what fits; the context's length is given
    parameters.warmup = False  # an empty answer before the first one
    parameters.cache_ram_mib = 0  # or the prompts of earlier requests are kept, in up to 8 GiB
    parameters.ui = False
    parameters.offline = True
    return xllamacpp.Server(parameters)


def _has_gpu() -> bool:
    import xllamacpp  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 - as above

    return any("GPU" in device["type"].name for device in xllamacpp.get_device_info())


def main() -> None:
    """Serve a model until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m proxy.demo.llama_process", description=main.__doc__)
    parser.add_argument("--model-file", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context-length", type=int, default=DEFAULT_CONTEXT_LENGTH)
    parser.add_argument("--parallel", type=int, default=DEFAULT_PARALLEL)
    parser.add_argument("--batch", type=int, default=DEFAULT_BATCH)
    parser.add_argument("--seed", type=int, default=-1)
    for name in ("embedding", "flash-attention", "gpu", "kv-on-gpu"):
        parser.add_argument(f"--{name}", action="store_true")
    arguments = parser.parse_args()
    say = begin()
    try:
        server = _start_server(arguments)
    except ImportError as error:
        say(import_error=str(error))
    except RuntimeError as error:
        say(error=str(error))
    else:
        say(url=server.listening_address, gpu=arguments.gpu and _has_gpu())
        threading.Event().wait()  # the process ends with its standard input


if __name__ == "__main__":
    main()
